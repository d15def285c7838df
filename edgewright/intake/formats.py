"""What a model file is, by looking into it; the name alone proves nothing. No ML framework is imported here."""

from pathlib import Path

from edgewright.artifact import Format
from edgewright.errors import InputError
from edgewright.intake.archives import opened_archive
from edgewright.intake.torch_save import refuse_torch_save

__all__ = ["KNOWN", "detect_format"]

KNOWN = (
    "a torch.export program (.pt2), a TorchScript archive, a .yaml that names a module factory, "
    "a scikit-learn model (.pkl, .joblib, .skops), "
    "ONNX (.onnx), Keras (.keras, .h5) or a TensorFlow SavedModel folder"
)
_LINE_BYTES = 64
_HEAD_BYTES = 512  # a tar archive says so in its first block
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP, _ZIP_EMPTY = b"PK\x03\x04", b"PK\x05\x06"
# Magic bytes of the compressors that joblib writes: zlib, gzip, bzip2, xz, lzma, lz4.
_COMPRESSED = (
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x5d\x00",
    b"\x04\x22\x4d\x18",
)
# A pickle of protocol 2 and later starts with PROTO and the version; older ones with MARK, GLOBAL or EMPTY_*.
_PICKLE_PROTO = b"\x80"
# torch.save before its zip archives begins with this number, pickled.
_OLD_TORCH_SAVE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PICKLE = (b"c", b"(", b"]", b"}")


def detect_format(path: Path) -> Format:
    """The format of a model file or folder.

    Raises:
        InputError: missing, unreadable, empty, truncated, or nothing that is known.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():  # who reads a pipe waits, and a device may never end
            raise InputError(f"{path}: a pipe, a socket or a device, and no file; expected {KNOWN}")
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(max(size - 1, 0))
            last = stream.read(1)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not head:
        raise InputError(f"{path}: the file is empty; expected {KNOWN}")
    kind = _of_content(path, head, last)
    if kind is None:
        raise InputError(f"{path}: unknown format ({_appearance(head)}); expected {KNOWN}")
    return kind


def _appearance(head: bytes) -> str:
    """What a file looks like that is not a model, by how it begins."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    line = head.decode("ascii", errors="replace").splitlines()[0]
    if line.isprintable() and line.isascii():
        return f"text that starts with {line[:24]!r}"
    return f"starts with {head[:8].hex(' ')}"


def _of_content(path: Path, head: bytes, last: bytes) -> Format | None:
    if head.startswith((_ZIP, _ZIP_EMPTY)):
        return _of_zip(path)
    if head.startswith(_HDF5):
        return Format.KERAS
    if head.startswith(_COMPRESSED):
        return Format.SKLEARN
    if head.startswith(_OLD_TORCH_SAVE):
        refuse_torch_save(path, path.read_bytes())
    if _is_pickle(head):
        if last != b".":
            raise InputError(f"{path}: a truncated pickle: it does not end with STOP")
        return Format.SKLEARN
    if path.suffix in {".yaml", ".yml"}:
        return Format.TORCH_FACTORY
    return Format.ONNX if _is_onnx(head) else None


def _of_folder(path: Path) -> Format:
    if (path / "saved_model.pb").is_file():
        return Format.SAVED_MODEL
    raise InputError(f"{path}: a folder without saved_model.pb; expected {KNOWN}")


def _of_zip(path: Path) -> Format:
    with opened_archive(path) as archive:
        names = archive.namelist()
    leaves = {n.rpartition("/")[2] for n in names}
    if "archive_format" in leaves or "serialized_exported_program.json" in leaves:
        return Format.PT2
    if "config.json" in names and "metadata.json" in names:
        return Format.KERAS
    if "schema.json" in names:
        return Format.SKLEARN
    if "constants.pkl" in leaves and any("/code/" in n for n in names):
        return Format.TORCHSCRIPT
    pickled = next((n for n in names if n.endswith("/data.pkl")), None)
    if pickled is not None:
        with opened_archive(path) as archive:
            refuse_torch_save(path, archive.read(pickled))
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(f"{path}: arrays of numpy ({', '.join(names[:3])}), as --data takes; expected {KNOWN}")
    raise InputError(f"{path}: an archive of an unknown kind ({', '.join(names[:3])}...); expected {KNOWN}")


def _is_pickle(head: bytes) -> bool:
    if head.startswith(_PICKLE_PROTO):
        return len(head) > 1 and 2 <= head[1] <= 5
    return head.startswith(_OLD_PICKLE) and b"\n" in head[:_LINE_BYTES]


def _is_onnx(head: bytes) -> bool:
    """A ModelProto starts with its ir_version (field 1, varint) and goes on with another of its fields."""
    # https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: fields 2-8 and 14; two more come last
    known = {2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2, 5 << 3, 6 << 3 | 2, 7 << 3 | 2, 8 << 3 | 2, 14 << 3 | 2}
    return len(head) > 3 and head[0] == 0x08 and head[1] < 0x80 and head[2] in known
