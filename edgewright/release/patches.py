"""Builds patches between two versions of a file: every codec is tried and checked, and the smallest wins.

A patch only spares a download: a codec that fails, or whose patch a device would refuse, is left out, and told.
"""

import io
import json
import lzma
import struct
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from edgewright.errors import InputError
from edgewright.progress import progress
from edgewright_runtime.codec.patch import TENSOR_MAGIC, apply_patch, to_difference

__all__ = ["BuiltPatch", "TensorRange", "build_patch", "build_patches", "encoders", "patch_kind", "tensor_ranges"]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_MIN_TENSOR_BYTES = 64  # below that a segment's own description costs more than it saves
_XZ_PRESET = 9 | lzma.PRESET_EXTREME


class TensorRange(NamedTuple):
    """Where a tensor's numbers lie in a model file."""

    name: str
    start: int
    stop: int
    width: int
    is_float: bool


class BuiltPatch(NamedTuple):
    """A patch that was seen to give the new file."""

    codec: str
    content: bytes


def build_patch(path: str, base: bytes, new: bytes, codecs: Sequence[str] | None = None) -> BuiltPatch | None:
    """The smallest patch from ``base`` to ``new``, two versions of the file ``path``; None where no codec makes one.

    Without ``codecs`` those are tried that every device reads: ``tensor``, and ``bsdiff`` where bsdiff4 is installed.
    """
    chosen = codecs or ["tensor", *(["bsdiff"] if find_spec("bsdiff4") else [])]
    built = [patch for codec in chosen if (patch := _checked(codec, path, base, new))]
    return min(built, key=lambda patch: len(patch.content), default=None)


def build_patches(path: str, base: bytes, new: bytes) -> list[BuiltPatch]:
    """The smallest patch that every device reads, and a ``zstd`` one where that is smaller still.

    A device without the package zstandard takes the first of them.
    """
    built = build_patch(path, base, new)
    other = build_patch(path, base, new, ["zstd"]) if find_spec("zstandard") else None
    if built and other and len(other.content) >= len(built.content):
        other = None
    return [patch for patch in (built, other) if patch]


def _checked(codec: str, path: str, base: bytes, new: bytes) -> BuiltPatch | None:
    """A codec's patch, applied as a device applies it; None, and told, where that does not give the new file."""
    try:
        content = encoders()[codec](path, base, new)
        if apply_patch(codec, base, content, len(new)) == new:
            return BuiltPatch(codec, content)
        reason = "it does not give the new file"
    except Exception as e:  # libraries' own, damaged models, too little memory: whatever it is, it costs bytes only
        reason = (str(e) or type(e).__name__).splitlines()[0][:200]
    progress.note(f"no {codec} patch for {path}: {reason}")
    return None


def patch_kind(path: str, base: bytes | None, new: bytes | None) -> str:
    """What an update does to the model file ``path``; None for both where the file stays as it is."""
    if base is None or new is None:
        return "hyperparameter_update"
    before, after = ({(r.name, r.stop - r.start) for r in tensor_ranges(path, c)} for c in (base, new))
    return "weight_update" if before == after else "layer_addition"


def tensor_ranges(path: str, content: bytes) -> list[TensorRange]:
    """The stored tensors of an ``.onnx`` or ``.tflite`` file, in the order of their places; none for other files."""
    suffix = PurePosixPath(path).suffix
    tensors = {".onnx": _onnx_tensors, ".tflite": _tflite_tensors}.get(suffix)
    if tensors is None:
        return []
    ranges: list[TensorRange] = []
    for name, raw, width, is_float in tensors(content):
        # The readers give a tensor's bytes, not their place: that is looked for.
        start = content.find(raw) if len(raw) >= _MIN_TENSOR_BYTES else -1
        if start >= 0:
            ranges.append(TensorRange(name, start, start + len(raw), width, is_float))
    # By name too, so that the same of several equal tensors is kept in both versions.
    ranges.sort(key=lambda r: (r.start, r.name))
    apart: list[TensorRange] = []
    for tensor in ranges:  # equal tensors are found at the same place: one of them is enough
        if not apart or tensor.start >= apart[-1].stop:
            apart.append(tensor)
    return apart


def encoders() -> dict[str, Callable[[str, bytes, bytes], bytes]]:
    """Every codec's builder, by name: ``(path, base, new) -> patch``."""
    return {"tensor": _tensor_patch, "bsdiff": _bsdiff_patch, "zstd": _zstd_patch}


def _tensor_patch(path: str, base: bytes, new: bytes) -> bytes:
    segments, body = [], []
    for segment, content in _segments(tensor_ranges(path, base), tensor_ranges(path, new), base, new):
        segments.append(segment)
        body.append(content)
    header = json.dumps(segments, separators=(",", ":")).encode()
    plain = TENSOR_MAGIC + struct.pack("<I", len(header)) + header + b"".join(body)
    # A dictionary no larger than its content: the preset's 64 MB take 80 ms to set up, however little there is.
    dictionary_bytes = 1 << min(max(len(plain) - 1, 1 << 12).bit_length(), 26)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _XZ_PRESET, "dict_size": dictionary_bytes}]
    return lzma.compress(plain, filters=filters)


def _segments(
    old_ranges: Sequence[TensorRange], new_ranges: Sequence[TensorRange], base: bytes, new: bytes
) -> Iterator[tuple[dict[str, int | str], bytes]]:
    old = {tensor.name: tensor for tensor in old_ranges}
    at = gap_from = 0
    # An empty one at the end: what follows the last tensor is a gap as all others.
    for tensor in [*new_ranges, TensorRange("", len(new), len(new), 1, is_float=False)]:
        yield from _gap(new[at : tensor.start], base, gap_from)
        at = tensor.stop
        match = old.get(tensor.name)
        if match is None or match[2] - match[1] != tensor.stop - tensor.start or match[3:] != tensor[3:]:
            yield {"kind": "new", "bytes": tensor.stop - tensor.start}, new[tensor.start : tensor.stop]
            continue
        # What lies between tensors is looked for in the base behind the last one that matched.
        gap_from = match.stop
        yield _difference(match, base, new[tensor.start : tensor.stop])


def _difference(match: TensorRange, base: bytes, content: bytes) -> tuple[dict[str, int | str], bytes]:
    if base[match.start : match.stop] == content:
        return {"kind": "copy", "at": match.start, "bytes": len(content)}, b""
    kind = "float" if match.is_float else "integer"
    dtype = _UNSIGNED[match.width]
    old = np.frombuffer(base, dtype, len(content) // match.width, match.start)
    # Byte planes: the high bytes of small differences are zeros side by side, which xz packs to nothing.
    planes = to_difference(old, np.frombuffer(content, dtype), is_float=match.is_float)
    return {"kind": kind, "at": match.start, "bytes": len(content), "width": match.width}, planes


def _gap(content: bytes, base: bytes, start: int) -> Iterator[tuple[dict[str, int | str], bytes]]:
    """The structure between tensors: the base's own bytes at the same place where they fit, else new ones."""
    if not content:
        return
    if base[start : start + len(content)] == content:
        yield {"kind": "copy", "at": start, "bytes": len(content)}, b""
    else:
        yield {"kind": "new", "bytes": len(content)}, content


def _bsdiff_patch(_: str, base: bytes, new: bytes) -> bytes:
    from bsdiff4 import core  # type: ignore[import-untyped]
    from bsdiff4 import format as form

    control, diff, extra = core.diff(base, new)
    patch = io.BytesIO()
    form.write_patch(patch, len(new), _without_idle_steps(control), diff, extra)
    return patch.getvalue()


def _without_idle_steps(control: bytes) -> bytes:
    """Steps that only move become part of the step before: a device refuses several in a row."""
    merged: list[list[int]] = []
    for add, insert, seek in struct.iter_unpack("<qqq", control):
        if merged and not add and not insert:
            merged[-1][2] += _signed(seek)
        else:
            merged.append([add, insert, _signed(seek)])
    return b"".join(struct.pack("<qqq", add, insert, _magnitude(seek)) for add, insert, seek in merged)


def _signed(value: int) -> int:
    # The format keeps a sign bit and a magnitude, not two's complement.
    return -(value & 0x7FFFFFFFFFFFFFFF) if value < 0 else value


def _magnitude(value: int) -> int:
    # The sign bit of a signed 64-bit field: -2^63 plus the magnitude.
    return value if value >= 0 else -value - (1 << 63)


def _zstd_patch(_: str, base: bytes, new: bytes) -> bytes:
    import zstandard

    window = max(len(base) + len(new), 1 << 10).bit_length()
    # The window holds the base and the new file: a match may reach back to the base's first byte.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=min(window, 30), enable_ldm=True, source_size=len(new)
    )
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return bytes(zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(new))


def _onnx_tensors(content: bytes) -> Iterator[tuple[str, bytes, int, bool]]:
    import onnx
    from onnx import helper

    try:
        model = onnx.load_model_from_string(content)
    except Exception as e:  # protobuf's errors have no base of their own
        raise InputError(f"not an .onnx file: {str(e).splitlines()[0][:200]}") from e
    for tensor in model.graph.initializer:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.raw_data and dtype.itemsize in _UNSIGNED:
            yield tensor.name, tensor.raw_data, dtype.itemsize, dtype.kind == "f"


def _tflite_tensors(content: bytes) -> Iterator[tuple[str, bytes, int, bool]]:
    from ai_edge_litert import schema_py_generated as schema

    kinds = {schema.TensorType.FLOAT32: (4, True), schema.TensorType.FLOAT16: (2, True)}
    kinds |= {schema.TensorType.INT32: (4, False), schema.TensorType.INT64: (8, False)}
    model = schema.Model.GetRootAs(content, 0)
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for t in range(graph.TensorsLength()):
            tensor = graph.Tensors(t)
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength():
                width, is_float = kinds.get(tensor.Type(), (1, False))
                yield f"{g}/{tensor.Name().decode()}", buffer.DataAsNumpy().tobytes(), width, is_float
