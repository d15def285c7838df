"""What a bundle says of itself: one definition, for the workstation that writes it and the device that reads it.

A manifest is JSON. Everything the device needs to run the model stands in it; nothing that changes between
two builds of the same inputs does (no time, no path, no host). Every other file of the bundle is listed with its
SHA-256, so the digest of the manifest is the identity of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Optional

from edgewright_runtime.bundle.line import PLATFORMS
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.bundle.preprocessing import Column, Preprocessing, Words
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.strict_json import canonical_json, parse_object
from edgewright_runtime.wire import read, rule

__all__ = [
    "CONFIDENCE_BINS",
    "MANIFEST_NAME",
    "QUANTIZED_DTYPES",
    "SCHEMA_VERSION",
    "Budget",
    "Calibration",
    "Column",
    "Figures",
    "FileEntry",
    "Golden",
    "Kernels",
    "Lineage",
    "Manifest",
    "Preprocessing",
    "Processor",
    "RuntimeNeed",
    "Scores",
    "TensorSpec",
    "Words",
]

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
CONFIDENCE_BINS = 10

_MAX_FILES = 10_000
_MAX_RANK = 8
_MAX_DIMENSION = 1 << 31
_INSTRUCTION_SETS = ("arm64", "armv7", "x86_64")
_FORMATS = ("tflite", "mlpackage", "onnx")
_PRECISIONS = ("float32", "float16", "int8", "dynamic_int8", "int4")
_TASKS = ("classification", "regression", "none")
_DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
QUANTIZED_DTYPES = frozenset({"int8", "uint8", "int16", "int32"})
"""What a tensor with a scale may be stored as."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    ``shape`` holds -1 for the batch axis where it is free; ``scale`` and ``zero_point`` stand where the
    tensor is stored as integers: ``real = scale * (stored - zero_point)``.
    """

    name: str
    shape: tuple[int, ...] = field(metadata=rule(max_length=_MAX_RANK, items=rule(ge=-1, le=_MAX_DIMENSION)))
    dtype: str = field(metadata=rule(allowed=_DTYPES))
    scale: Optional[float] = field(default=None, metadata=rule(ge=0))
    zero_point: Optional[int] = field(default=None, metadata=rule(ge=-(1 << 31), le=1 << 31))

    def check(self, what: str) -> None:
        """Raise `IntegrityError` where it is half quantized."""
        if (self.scale is None) != (self.zero_point is None) or self.scale == 0:
            raise IntegrityError(f"{what}: scale and zero point stand together, and the scale is above zero")
        if self.scale is not None and self.dtype not in QUANTIZED_DTYPES:
            raise IntegrityError(f"{what}: a scale is of {', '.join(sorted(QUANTIZED_DTYPES))}, not of {self.dtype}")


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: its path below the bundle's folder, its length and its SHA-256."""

    path: str = field(metadata=rule(form="path"))
    bytes: int
    sha256: str = field(metadata=rule(form="sha256"))


@dataclass(frozen=True)
class Kernels:
    """Which arithmetic kernels run the model on the device; left out, the inference runtime's own choice.

    ``bfloat16`` is of Arm cores that have it. Without ``int8`` ONNX Runtime computes in float32 what the rounded
    numbers of an int8 file say, exactly and slowly.
    """

    xnnpack: Optional[bool] = field(
        default=None, metadata=rule("LiteRT's XNNPACK delegate; ONNX Runtime's, where its build has it.")
    )
    kleidiai: Optional[bool] = field(default=None, metadata=rule("ONNX Runtime's KleidiAI kernels for Arm."))
    bfloat16: Optional[bool] = field(
        default=None,
        metadata=rule("ONNX Runtime's bfloat16 matrix products on Arm cores that have them: faster, less exact."),
    )
    int8: Optional[bool] = field(
        default=None,
        metadata=rule("ONNX Runtime's 8-bit kernels; false: float32 from an int8 file's rounded numbers, slow."),
    )


@dataclass(frozen=True)
class Processor:
    """Which processor an int8 file was made for and validated on.

    ``dot_products``: it has instructions for them in 8 bits (Arm's dotprod, VNNI). ``largest_pair_sum`` is the largest
    sum of two products, next to each other in a layer's sum, that calibration rows gave: where it exceeds 32,767, x86
    without VNNI answers otherwise.
    """

    instruction_set: str = field(metadata=rule(allowed=_INSTRUCTION_SETS))
    dot_products: bool
    largest_pair_sum: int = field(metadata=rule(le=1 << 31))


@dataclass(frozen=True)
class RuntimeNeed:
    """What loads the model on the device, the oldest version that can, and the accelerator it needs (None: a CPU).

    ``threads`` and ``kernels`` are the device profile's: the model was measured with them. ``processor`` is None where
    the file answers alike on any.
    """

    name: str
    minimum_version: str
    accelerator: Optional[str] = None
    threads: int = field(default=1, metadata=rule(ge=1, le=1024))
    kernels: Kernels = Kernels()
    processor: Optional[Processor] = None


@dataclass(frozen=True)
class Scores:
    """Which output holds the answer, and what its numbers are.

    ``kind``: ``probabilities`` (rows sum to 1), ``logits`` (softmax makes probabilities of them), ``classes``
    (class indices) or ``values``.
    """

    output: str
    kind: str = field(metadata=rule(allowed=("probabilities", "logits", "classes", "values")))


@dataclass(frozen=True)
class Calibration:
    """What confidence means for this model, fitted on validation rows when the bundle was built.

    Probabilities are softmax(log scores / ``temperature``) (Guo et al., On Calibration of Modern Neural Networks).
    ``histogram`` holds the share of rows by the likeliest class's probability in ten equal bins of 0-1: the
    reference that drift in the field is measured against.
    """

    temperature: float = field(metadata=rule(ge=1e-3, le=1e3))
    histogram: tuple[float, ...] = field(
        metadata=rule(min_length=CONFIDENCE_BINS, max_length=CONFIDENCE_BINS, items=rule(ge=0, le=1))
    )
    rows: int = field(metadata=rule(ge=1))


@dataclass(frozen=True)
class Golden:
    """Real inputs with the outputs that the exported file gave when the bundle was built.

    ``tolerance`` is the largest absolute difference allowed per output, in the output's stored units: other
    instruction sets round differently. ``made_by`` names what computed the outputs.
    """

    path: str = field(metadata=rule(form="path"))
    rows: int = field(metadata=rule(ge=1, le=10_000))
    tolerance: Mapping[str, float]
    made_by: str


@dataclass(frozen=True)
class Figures:
    """What validation measured of this model on ``target``; None where nothing was measured."""

    target: str
    metric: Optional[str] = None
    accuracy: Optional[float] = None
    accuracy_low: Optional[float] = None
    accuracy_high: Optional[float] = None
    accuracy_rows: Optional[int] = None
    source_accuracy: Optional[float] = None
    latency_p50_ms: Optional[float] = None
    latency_p95_ms: Optional[float] = None
    latency_p99_ms: Optional[float] = None
    load_ms: Optional[float] = None
    added_memory_mb: Optional[float] = None
    size_bytes: int = 0
    download_bytes: int = 0


@dataclass(frozen=True)
class Budget:
    """What a model may cost on a device; None sets no limit."""

    max_latency_ms: Optional[float] = field(
        default=None, metadata=rule("Limit of the p95 latency, milliseconds.", gt=0)
    )
    max_memory_mb: Optional[float] = field(
        default=None,
        metadata=rule("Limit of the memory that loading and running the model adds, MB (2^20 bytes).", gt=0),
    )
    max_size_mb: Optional[float] = field(
        default=None, metadata=rule("Limit of the model file on the device, MB (2^20 bytes).", gt=0)
    )
    max_accuracy_drop_percent: Optional[float] = field(
        default=None, metadata=rule("Limit of the loss against the source model, percentage points.", gt=0, le=100)
    )
    max_class_drop_percent: Optional[float] = field(
        default=None, metadata=rule("Limit of the loss on the rows of any one class, percentage points.", gt=0, le=100)
    )


@dataclass(frozen=True)
class Lineage:
    """SHA-256 of what the model was made of."""

    source: str = field(metadata=rule(form="sha256"))
    imported: str = field(metadata=rule(form="sha256"))
    dataset: str = field(metadata=rule(form="sha256"))
    model: str = field(metadata=rule(form="sha256"))


@dataclass(frozen=True)
class Manifest:
    """A bundle's description; `from_json` accepts nothing that this class does not name."""

    name: str
    platform: str = field(metadata=rule(allowed=PLATFORMS))
    format: str = field(metadata=rule(allowed=_FORMATS))
    precision: str = field(metadata=rule(allowed=_PRECISIONS))
    model: str = field(metadata=rule(form="path"))
    files: tuple[FileEntry, ...] = field(metadata=rule(max_length=_MAX_FILES))
    inputs: tuple[TensorSpec, ...] = field(metadata=rule(max_length=1000))
    outputs: tuple[TensorSpec, ...] = field(metadata=rule(max_length=1000))
    preprocessing: Preprocessing
    task: str = field(metadata=rule(allowed=_TASKS))
    labels: tuple[str, ...]
    scores: Scores
    runtime: RuntimeNeed
    golden: Golden
    calibration: Optional[Calibration]
    measurements: Figures
    budget: Budget
    lineage: Lineage
    monitoring: Monitoring
    schema_version: int = SCHEMA_VERSION
    notes: tuple[str, ...] = field(default=(), metadata=rule(max_length=1000))

    def to_json(self) -> bytes:
        """The manifest's bytes; the same for equal manifests."""
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(content: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            IntegrityError: another schema version, an unknown or missing key, a wrong type or range, a path that
                leads out of the bundle, or a reference to a file, output or shape that is not there.
        """
        fields = parse_object(content, "manifest")
        # Judged first: a newer schema must be refused as such, not by the keys that it has beside ours.
        version = fields.whole("schema_version")
        if version != SCHEMA_VERSION:
            raise IntegrityError(
                f"manifest: schema version {version}, this runtime reads {SCHEMA_VERSION}; update edgewright-runtime"
            )
        return read(Manifest, {**fields.rest(), "schema_version": version}, "manifest")

    def check(self, what: str) -> None:
        """Raise `IntegrityError` where it refers to a file, output or shape that is not there."""
        _check_files(self, what)
        outputs = {spec.name for spec in self.outputs}
        if self.scores.output not in outputs or set(self.golden.tolerance) != outputs:
            raise IntegrityError(f"{what}: scores or golden vectors name other outputs than {sorted(outputs)}")
        # A table's encoder writes one row of `width` features into one tensor, and into nothing else.
        width = self.preprocessing.width
        if self.preprocessing.columns and (len(self.inputs) != 1 or self.inputs[0].shape[-1:] != (width,)):
            raise IntegrityError(f"{what}: columns of {width} features do not fit the inputs' shapes")


def _check_files(manifest: Manifest, what: str) -> None:
    paths = [entry.path for entry in manifest.files]
    # macOS and Windows do not tell case apart: the second of two such files would overwrite the first.
    folded = {path.casefold() for path in paths}
    if len(folded) != len(paths):
        raise IntegrityError(f"{what}: a file is listed twice")
    folders = {"/".join(parts[:i]) for parts in (p.split("/") for p in folded) for i in range(1, len(parts))}
    if folders & folded or MANIFEST_NAME in folded:
        raise IntegrityError(f"{what}: a listed file stands where a folder or the manifest itself is")
    # The model of an .mlpackage is a folder.
    if not any(p == manifest.model or p.startswith(manifest.model + "/") for p in paths):
        raise IntegrityError(f"{what}: the model '{manifest.model}' is not among the files")
    if manifest.golden.path not in paths:
        raise IntegrityError(f"{what}: the golden vectors '{manifest.golden.path}' are not among the files")
