"""Files with an identity: what every stage takes and gives. No ML framework is imported here."""

import errno
import hashlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgewright.value import Value
from edgewright_runtime.bundle.manifest import Preprocessing, Processor, TensorSpec

__all__ = [
    "Artifact",
    "CarriedNoise",
    "Dataset",
    "Exported",
    "Format",
    "ImportedModel",
    "Intake",
    "LayerNoise",
    "Metric",
    "ModelTask",
    "Precision",
    "digest_of",
    "size_of",
]

_BLOCK_BYTES = 1 << 20
_MAX_FOLDERS = 20_000


class Format(StrEnum):
    """What a file is, once it was looked into; never judged by the name alone."""

    PT2 = "pt2"
    TORCH_FACTORY = "torch_factory"
    TORCHSCRIPT = "torchscript"
    SKLEARN = "sklearn"
    ONNX = "onnx"
    KERAS = "keras"
    SAVED_MODEL = "saved_model"
    TORCH_GRAPH = "torch_graph"
    DATASET = "dataset"
    TFLITE = "tflite"
    MLPACKAGE = "mlpackage"
    BUNDLE = "bundle"


class ModelTask(StrEnum):
    """What the model's outputs mean; ``none`` where nobody says: its source's own answers are what it is held to."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    NONE = "none"


class Metric(Value):
    """What a model's outputs are judged by instead of accuracy: ``package.module:function``, looked for in ``folder``
    too, or the name of a plugin. ``code`` is the version of its sources.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    folder: str = "."
    code: str = ""


class Artifact(Value):
    """A file or folder, identified by the SHA-256 of its content.

    A folder's digest is that of its sorted list of (relative path, file digest), so names count and
    time stamps do not.
    """

    path: Path
    format: Format
    digest: str
    size_bytes: int
    parent: str | None = None


class Dataset(Value):
    """Real data, encoded as the model's inputs and split, in one ``.npz``.

    Arrays: ``{split}.x.{input}`` (N, ...) in the input's dtype and ``{split}.y`` (N,) for the splits ``train``,
    ``calibration``, ``validation`` and ``test``; where the task is none ``{split}.answers`` (N, ...) instead, for a
    metric of the user's own to read; the source model's own answers ``test.reference.{output}`` (N, ...)
    float64, as a rule ``calibration.reference.{output}`` too, for some sources ``validation.reference.{output}``, and,
    for classifiers, ``test.predicted`` (N,) class indices. Calibration rows are training rows; validation and test rows
    are in no other split.
    """

    artifact: Artifact
    calibration_rows: int
    validation_rows: int
    test_rows: int
    notes: tuple[str, ...] = ()


class ImportedModel(Value):
    """A source model after intake: what it became inside, and what its tensors mean.

    ``graph`` is the torch graph: a PyTorch program itself, or what the importer made of ``onnx``, which every other
    source passes through. It is None where the model holds an operator without a place there; ``graph_refusal`` then
    says which, and only paths that need no restructuring remain. Neither is there of a Keras or TensorFlow model that
    has no way into ONNX: platforms with a converter of TensorFlow's take the source itself. ``float32_only`` marks
    models whose decisions rest on thresholds (trees): half precision would change them. ``float32_reason`` says of
    other models why their operators compute in float32 only. ``single_numbers`` are the values of a SavedModel's inputs
    that are one number for all rows, by name: whoever loads the source anew gives it these.
    """

    name: str
    source: Artifact
    onnx: Artifact | None
    graph: Artifact | None
    graph_refusal: str | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: ModelTask
    metric: Metric | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    float32_only: bool = False
    float32_reason: str = ""
    single_numbers: dict[str, bool | int | float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_untouched(self) -> bool:
        """Whether no technique has changed the network since it was taken in."""
        return self.graph is None or self.graph.parent == (self.onnx or self.source).digest

    @property
    def inside(self) -> Artifact | None:
        """The file that stands for the model in comparisons: ONNX as it was imported, or the torch graph.

        Intake compared it with the source in its own framework; once a technique changed the network, it is the
        changed graph. Where there is neither, the source's own answers in the dataset are what counts.
        """
        return self.onnx if self.is_untouched and self.onnx is not None else self.graph


class Intake(Value):
    """What comes through intake: the model, and real data encoded as its inputs."""

    model: ImportedModel
    dataset: Dataset


class Precision(StrEnum):
    """In what an exported model stores its weights, and (int8) computes.

    ``dynamic_int8``: weights in 8 bits, activations quantized while the model runs, so nothing is calibrated.
    ``int4``: weights of dense layers (and, where the platform has it, convolutions) in 4 bits, nothing is calibrated.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    DYNAMIC_INT8 = "dynamic_int8"
    INT4 = "int4"


class LayerNoise(Value):
    """What int8 does to one layer's own output, every other layer exact: signal over error, dB; None: no error."""

    layer: str
    signal_to_noise_db: float | None


class CarriedNoise(Value):
    """What int8 of one layer does to the model's outputs, every other layer exact: ``noise`` is the power of the error
    over that of the output, summed over the outputs; ``numbers`` are those of the layer's weight."""

    layer: str
    noise: float
    numbers: int


class Exported(Value):
    """A model in a platform's native format; the tensors as the file itself declares them.

    ``runtime`` and ``runtime_floor`` name what loads it on the device and the oldest version that can.
    ``required_operators`` is the text of ONNX Runtime's operator list for a reduced build, of ``.ort`` files only.
    ``sensitivity`` is of static int8, the worst layer first; ``float_layers`` are those that stay in float.
    ``made_for`` is the processor of int8 for ONNX Runtime. ``tolerance`` is of outputs whose own float32 rounding is
    large: the largest difference, in the output's unit, by which another sound kernel's answer may lie from the file's.
    """

    artifact: Artifact
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime: str
    runtime_floor: str
    notes: tuple[str, ...] = ()
    required_operators: str = ""
    sensitivity: tuple[LayerNoise, ...] = ()
    float_layers: tuple[str, ...] = ()
    made_for: Processor | None = None
    tolerance: tuple[tuple[str, float], ...] = ()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the sorted (name, digest) list of a folder's files, as lowercase hex."""
    if path.is_dir():
        tree = hashlib.sha256()
        for file in _files_of(path):
            # A name holds no NUL and a digest has a fixed length: two different trees never give the same text.
            # A file system's names are bytes, which need not be UTF-8.
            tree.update(os.fsencode(file.relative_to(path).as_posix()) + f"\0{digest_of(file)}\n".encode())
        return tree.hexdigest()
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            content.update(block)
    return content.hexdigest()


def size_of(path: Path) -> int:
    """Bytes on disk of a file, or of all files of a folder."""
    return sum(f.stat().st_size for f in _files_of(path)) if path.is_dir() else path.stat().st_size


def _files_of(folder: Path) -> list[Path]:
    """Links are followed, as a copy follows them: what they lead to is content like any other."""
    files: list[Path] = []
    for count, (place, folders, names) in enumerate(os.walk(folder, onerror=_raised, followlinks=True)):
        # Two links a folder to the next one double what there is to walk at each level.
        if count >= _MAX_FOLDERS:
            raise OSError(errno.ELOOP, f"more than {_MAX_FOLDERS:,} folders, by links", str(folder))
        above = {os.path.realpath(part) for part in (Path(place), *Path(place).parents)}
        for name in folders:
            link = Path(place, name)
            if link.is_symlink() and os.path.realpath(link) in above:
                raise OSError(errno.ELOOP, "a link that leads back to a folder above it", str(link))
        files += (file for name in names if (file := Path(place, name)).is_file())
    # A listing's order is the file system's; sorted as POSIX text, the digest is the same on every machine.
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix())


def _raised(error: OSError) -> None:
    """A folder that cannot be read: without its files the digest would be that of another tree."""
    raise error
