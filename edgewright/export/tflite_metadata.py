"""TFLite metadata: what Android Studio, ML Kit and the Task Library read of a `.tflite` beside its tensors.

The flatbuffer follows ``metadata_schema.fbs`` 1.0.0 of https://github.com/tensorflow/tflite-support; the field numbers
below are those of its tables. Label files stand in a zip archive at the end of the model file, as that schema asks.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgewright.export.description import Description

__all__ = ["LABELS_FILE", "attach", "attach_labels", "has_labels"]

LABELS_FILE = "labels.txt"
_BUFFER_NAME = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
_FEATURE_PROPERTIES, _NORMALIZATION, _AXIS_LABELS = 1, 1, 2
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can hold: the same in every build


def attach(model: Any, description: Description) -> None:
    """Add metadata to a ``ModelT``, in place."""
    data = schema.BufferT()
    data.data = bytearray(_flatbuffer(description))
    entry = schema.MetadataT()
    entry.name, entry.buffer = _BUFFER_NAME, len(model.buffers)
    model.buffers.append(data)
    # In the place of an older one: of two entries of one name, readers would choose.
    model.metadata = [m for m in model.metadata or [] if m.name != _BUFFER_NAME] + [entry]


def attach_labels(path: Path, labels: Sequence[str]) -> None:
    """Append the labels, one a line, as an archive; runtimes ignore what follows the flatbuffer."""
    if not labels:
        return
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _EPOCH), "".join(f"{label}\n" for label in labels))


def has_labels(model: Any) -> bool:
    """Whether the metadata refers to a label file; a quantizer keeps the reference and loses the file."""
    buffers = (model.buffers[entry.buffer].data for entry in model.metadata or [] if entry.name == _BUFFER_NAME)
    return any(LABELS_FILE.encode() in bytes(data) for data in buffers if data is not None)


def _flatbuffer(description: Description) -> bytes:
    b = flatbuffers.Builder(1024)
    inputs = [_tensor(b, name, process=_normalization(b, description)) for name in description.inputs]
    outputs = [
        _tensor(b, name, files=_label_files(b) if name == description.labelled else None)
        for name in description.outputs
    ]
    # Inner tables first: a flatbuffer is written from its end, and one cannot begin inside another.
    subgraph = _table(b, 9, {2: _vector(b, inputs), 3: _vector(b, outputs)})
    fields = (description.name, description.description, description.version, None, description.author)
    texts = {i: b.CreateString(text) for i, text in enumerate(fields) if text}
    root = _table(b, 8, {**texts, 3: _vector(b, [subgraph]), 7: b.CreateString(_PARSER_VERSION)})
    b.Finish(root, _IDENTIFIER)
    return bytes(b.Output())


def _tensor(b: Any, name: str, *, process: int | None = None, files: int | None = None) -> int:
    properties = _table(b, 0, {})
    b.StartObject(3)  # Content: the kind of the union, its value, the range
    # A union is two fields: which of its tables it is, and that table.
    b.PrependUint8Slot(0, _FEATURE_PROPERTIES, 0)
    b.PrependUOffsetTRelativeSlot(1, properties, 0)
    content = b.EndObject()
    fields = {0: b.CreateString(name), 3: content}
    if process is not None:
        fields[4] = process
    if files is not None:
        fields[6] = files
    return _table(b, 7, fields)


def _normalization(b: Any, description: Description) -> int:
    """``(raw - mean) / std``: the schema's form of ``(raw - mean) * scale``."""
    mean, std = _floats(b, [description.mean]), _floats(b, [1 / description.scale])
    options = _table(b, 2, {0: mean, 1: std})
    b.StartObject(2)
    b.PrependUint8Slot(0, _NORMALIZATION, 0)
    b.PrependUOffsetTRelativeSlot(1, options, 0)
    return _vector(b, [b.EndObject()])


def _label_files(b: Any) -> int:
    name, text = b.CreateString(LABELS_FILE), b.CreateString("The classes, one a line, in the output's order.")
    b.StartObject(4)
    b.PrependUOffsetTRelativeSlot(0, name, 0)
    b.PrependUOffsetTRelativeSlot(1, text, 0)
    b.PrependInt8Slot(2, _AXIS_LABELS, 0)
    return _vector(b, [b.EndObject()])


def _table(b: Any, size: int, fields: dict[int, int]) -> int:
    b.StartObject(size)
    for slot, offset in fields.items():
        b.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: list[int]) -> int:
    # Prepended, so in reverse.
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, numbers: list[float]) -> int:
    b.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        b.PrependFloat32(number)
    return int(b.EndVector())
