"""Recipes: an ordered list of techniques, each with its parameters. No ML framework is imported here.

A technique is a class of parameters that names the function which applies it (see `edgewright.optimize.apply`; what a
platform's own quantizer does is applied by `edgewright.export`). One in another distribution is registered by an entry
point of the group ``edgewright.techniques``.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from edgewright.code_version import source_version
from edgewright.errors import ProfileError
from edgewright.plugins import plugin, plugin_names
from edgewright.profile import DeviceProfile, find_shipped
from edgewright.value import Value
from edgewright.yaml_values import read_value

__all__ = [
    "AnyTechnique",
    "Cluster",
    "CompactWeights",
    "Decompose",
    "Distill",
    "Fuse",
    "Prune",
    "PruneChannels",
    "Quantize",
    "RangeCalibration",
    "Recipe",
    "Technique",
    "TrainInt8",
    "TrainQuantization",
    "Training",
    "load_recipe",
]


RangeCalibration = Literal["min_max", "percentile", "entropy", "mse"]


class Technique(Value):
    """Base of every technique's parameters. A subclass is one that recipes may name, by its field ``technique``.

    ``title`` is what is shown while it runs; ``function``, "module:name", takes a torch graph, these parameters and
    `edgewright.optimize.rows.TechniqueRows`, and returns the changed network: an `UnsupportedError` where it has no
    path for it. ``removes_operations``: the network has fewer of them after it.
    """

    known: ClassVar[dict[str, type["Technique"]]] = {}
    title: ClassVar[str]
    function: ClassVar[str]
    removes_operations: ClassVar[bool] = False

    technique: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register it under the one name that its field ``technique`` allows."""
        # By definition of the class alone: a plugin's technique is known once its module was imported.
        Technique.known[cls.model_fields["technique"].default] = cls

    def for_device(self, device: DeviceProfile) -> Self:
        """The same, with what it leaves to the device decided."""
        return self

    def code(self) -> str:
        """The version of code outside this project that it runs; empty where there is none."""
        package = self.function.partition(":")[0].partition(".")[0]
        # Of this project's own code the task's cache key has the version already.
        return "" if package == "edgewright" else source_version(package)

    keep: Literal["if_useful", "always"] = Field(
        "if_useful",
        description="if_useful: left out when the model gets neither smaller nor faster, or too inaccurate.",
    )


class Quantize(Technique):
    """Store weights (and, for int8, activations) in fewer bits, by the platform's own quantizer."""

    title: ClassVar[str] = "Quantizing"
    function: ClassVar[str] = "edgewright.optimize.child:of_the_exporter"

    technique: Literal["quantize"] = "quantize"
    dtype: Literal["int8", "dynamic_int8", "int4", "float16"] = Field(
        "int8",
        description="int8: static, per channel, calibrated on training rows; dynamic_int8: weights in 8 bits, "
        "activations quantized at run time; int4: weights in 4 bits where the platform has them (convolutions too on "
        "Android and iOS); float16: weights halved.",
    )
    calibration: RangeCalibration = Field(
        "min_max",
        description="How int8 finds the range of activations: all of it, or clipped by percentile, by entropy "
        "(Kullback-Leibler) or to the least squared error (mse).",
    )
    percentile: float = Field(99.99, gt=50, le=100, description="Share of the values kept, of that calibration alone.")
    float_layers: Literal["auto"] | tuple[str, ...] = Field(
        "auto",
        description="Layers that int8 leaves in float: by name, or as few of the most sensitive as the accuracy limit "
        "needs on the validation rows.",
    )


class Training(Value):
    """How a technique trains: on training rows only, from a fixed seed."""

    epochs: int = Field(10, ge=1, le=10_000)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, description="At the start.")
    schedule: Literal["cosine", "linear", "step", "constant"] = Field(
        "cosine",
        description="cosine and linear fall to 1% of the learning rate; step: a tenth at half, a hundredth at three "
        "quarters.",
    )
    batch_size: int = Field(256, ge=1)
    weight_decay: float = Field(1e-6, ge=0, description="Lets what no longer has any influence fade to zero.")
    augment: float = Field(
        0.0,
        ge=0,
        le=3,
        description="Random rotation, scale, shear and shift of image inputs; 1: up to 12 degrees, 12%, 0.12, 14%.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: twice as fast on processors that have it; weights stay float32."
    )
    distill: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of the softened answers of the model as it came in; the rest is the labels'.",
    )
    temperature: float = Field(4.0, gt=0, description="Softens those answers.")
    seed: int = 0


class Prune(Technique):
    """Zero the smallest weights, gradually, and train the rest. Smaller in transfer, not on disk or in time."""

    title: ClassVar[str] = "Pruning weights"
    function: ClassVar[str] = "edgewright.optimize.prune:apply"

    technique: Literal["prune"] = "prune"
    sparsity: float = Field(0.9, gt=0, lt=1, description="Fraction of the weights that become zero.")
    scope: str = Field(
        "global",
        pattern=r"^(global|rate|layer|[1-9]\d?:[1-9]\d?)$",
        description="global: one threshold, each layer's magnitudes over the root of their spread; "
        "rate: global, and a weight has to be worth its bits, which are fewer in rows and columns that hold others; "
        "layer: the same fraction in each; N:M, such as 2:4: N of every M inputs stay, whatever `sparsity` says.",
    )
    ramp: float = Field(0.75, ge=0, le=1, description="Share of the training in which sparsity grows; 0: at once.")
    training: Training | None = Field(Training(), description="None: prune only, without training.")

    @field_validator("scope")
    @classmethod
    def _some_must_go(cls, scope: str) -> str:
        nonzero, _, group = scope.partition(":")
        # Compared as numbers: the pattern admits 4:2 and 2:2.
        if group and int(nonzero) >= int(group):
            raise ValueError(f"{scope} keeps every weight; allowed: N:M with N below M, such as 2:4")
        return scope


class TrainQuantization(Technique):
    """Quantization-aware training onto a uniform grid whose step is learnt, for each weight tensor."""

    title: ClassVar[str] = "Training with quantized weights"
    function: ClassVar[str] = "edgewright.optimize.train_quantization:apply"

    technique: Literal["train_quantization"] = "train_quantization"
    levels: int = Field(7, ge=1, le=127, description="Largest level on either side of zero: 7 is about 4 bits.")
    bias_levels: int = Field(15, ge=1, le=32767)
    training: Training = Training()


class TrainInt8(Technique):
    """Quantization-aware training for static int8: a `quantize` after it uses the learnt scales as they are."""

    title: ClassVar[str] = "Training for int8"
    function: ClassVar[str] = "edgewright.optimize.train_int8:apply"

    technique: Literal["train_int8"] = "train_int8"
    training: Training = Training(epochs=5, learning_rate=1e-4)
    weight_bits: Literal["auto", 7, 8] = Field(
        "auto",
        description="7: weights within -64..64, as x86 without dot products needs them; auto: as the device does.",
    )

    def for_device(self, device: DeviceProfile) -> Self:
        """With the bits of its int8."""
        bits = device.weight_bits if self.weight_bits == "auto" else self.weight_bits
        return self.model_copy(update={"weight_bits": bits})


class Cluster(Technique):
    """Weight sharing: the weights of a tensor become a few shared values (a codebook)."""

    title: ClassVar[str] = "Clustering weights"
    function: ClassVar[str] = "edgewright.optimize.cluster:apply"

    technique: Literal["cluster"] = "cluster"
    clusters: int = Field(16, ge=2, le=4096)
    scope: Literal["tensor", "group", "model"] = Field(
        "tensor", description="What has a codebook of its own; group: so many output channels of a tensor."
    )
    group_channels: int = Field(16, ge=1, description="Output channels of a group.")
    start: Literal["optimal", "linear", "density", "random"] = Field(
        "optimal",
        description="optimal: the codebook of least squared error (exact to 64 values); else where Lloyd's iterations "
        "start.",
    )
    seed: int = Field(0, description="Of the random start.")
    training: Training | None = Field(None, description="Fine-tune the shared values by gradient.")


class CompactWeights(Technique):
    """No training: choose each weight's level by its cost in coded bits plus its effect on the layer's output."""

    title: ClassVar[str] = "Rate-distortion quantization"
    function: ClassVar[str] = "edgewright.optimize.compact_weights:apply"

    technique: Literal["compact_weights"] = "compact_weights"
    price: float = Field(
        1e-7, gt=0, description="Expected loss (nats; squared error for regressors) that one coded bit may save."
    )
    rows: int = Field(8000, ge=1, description="Calibration rows that the input statistics are taken from, at most.")
    augment: float = Field(
        1.0,
        ge=0,
        le=3,
        description="Warps calibration images (as in training): a network knows its training rows by heart, and what "
        "other images need of its weights does not show on them.",
    )
    seed: int = Field(0, description="Of the warps, and the draw of labels and positions.")


class Distill(Technique):
    """Train a student against the softened answers of the model as it came in."""

    title: ClassVar[str] = "Distilling"
    function: ClassVar[str] = "edgewright.optimize.distill:apply"
    removes_operations: ClassVar[bool] = True

    technique: Literal["distill"] = "distill"
    student: str = Field(
        "pruned",
        pattern=r"^(pruned|width|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="pruned: the model without its least important channels; width: every layer that much narrower; or "
        "package.module:factory, a function of yours that returns a torch.nn.Module.",
    )
    ratio: float = Field(
        0.5, ge=0, lt=1, description="Fraction of multiply-accumulates that a pruned student lacks; 0: the same shape."
    )
    width: float = Field(0.5, gt=0, lt=1, description="Fraction of each layer's channels that such a student has.")
    hints: float = Field(
        0.0, ge=0, description="Weight of the squared error between features of teacher and student; 0: none."
    )
    hint_layers: tuple[tuple[str, str], ...] = Field(
        (),
        description="Pairs (layer of the teacher, of the student); empty: the last convolution of each spatial size.",
    )
    training: Training = Training(distill=0.7)

    def code(self) -> str:
        """That of a student of the user's own."""
        module, named, _ = self.student.partition(":")
        return source_version(module) if named else ""


class PruneChannels(Technique):
    """Remove whole channels, along the network's dependency graph: fewer operations, a smaller file."""

    title: ClassVar[str] = "Pruning channels"
    function: ClassVar[str] = "edgewright.optimize.prune_channels:apply"
    removes_operations: ClassVar[bool] = True

    technique: Literal["prune_channels"] = "prune_channels"
    ratio: float = Field(0.5, gt=0, lt=1, description="Fraction of the target to remove.")
    target: Literal["operations", "parameters", "latency"] = Field(
        "operations", description="Multiply-accumulates, parameters, or the measured latency of the exported model."
    )
    importance: Literal["magnitude", "taylor", "batchnorm"] = "taylor"
    scope: Literal["global", "layer"] = Field(
        "global",
        description="global: the least important channels, wherever they are; layer: the same fraction of each "
        "layer's, for networks of which a ranking across layers would leave one layer next to none.",
    )
    channel_multiple: int = Field(
        1,
        ge=1,
        le=64,
        description="Channels left in a layer are a multiple of this; a layer of fewer stays. 8 or 16 fill the vector "
        "units that kernels are written for: 31 channels can take twice as long as 32.",
    )
    steps: int = Field(5, ge=1, le=100)
    training: Training | None = Field(Training(epochs=2), description="After each step; None: prune only.")


class Decompose(Technique):
    """Low rank: a layer becomes two or three thinner ones where that lowers multiply-accumulates."""

    title: ClassVar[str] = "Decomposing layers"
    function: ClassVar[str] = "edgewright.optimize.decompose:apply"
    removes_operations: ClassVar[bool] = True

    technique: Literal["decompose"] = "decompose"
    rank: Literal["energy", "ratio", "search"] = Field(
        "energy",
        description="energy: what keeps that share of the squared singular values; ratio: that share of each layer's "
        "operations removed; search: the largest such ratio whose accuracy on the validation rows is allowed.",
    )
    energy: float = Field(0.95, gt=0, le=1, description="Share of the squared singular values that is kept.")
    ratio: float = Field(0.5, gt=0, lt=1, description="Fraction of each layer's multiply-accumulates to remove.")
    max_accuracy_drop_percent: float = Field(
        1.0, gt=0, le=100, description="What a search may cost on the validation rows, percentage points."
    )
    convolution: Literal["channel", "spatial", "tucker"] = Field(
        "channel",
        description="channel: a kernel to few channels, then 1x1; spatial: a column, then a row; tucker: 1x1, a kernel "
        "between few channels, 1x1.",
    )
    training: Training | None = None


class Fuse(Technique):
    """Fold BatchNorm into the layer before it. Exporters do it too; techniques after this one then see it folded."""

    title: ClassVar[str] = "Fusing layers"
    function: ClassVar[str] = "edgewright.optimize.fuse:apply"

    technique: Literal["fuse"] = "fuse"


def _load_registered() -> None:
    """Import the techniques of other distributions.

    Raises:
        ProfileError: one cannot be imported, or is none.
    """
    for name in plugin_names("edgewright.techniques"):
        plugin("edgewright.techniques", name, _is_technique, "a class of edgewright.recipe.Technique")


def _is_technique(extension: object) -> bool:
    return isinstance(extension, type) and issubclass(extension, Technique)


# Before `Recipe` is defined: its union of techniques is fixed when pydantic builds the class.
_load_registered()
if TYPE_CHECKING:
    AnyTechnique = Technique
else:
    AnyTechnique = Annotated[reduce(or_, Technique.known.values()), Field(discriminator="technique")]


class Recipe(Value):
    """What is done to a model, in order, and how much accuracy it may cost."""

    name: str
    description: str
    techniques: tuple[AnyTechnique, ...] = ()
    max_accuracy_drop_percent: float = Field(
        1.0, gt=0, le=100, description="Largest loss of accuracy against the source model, percentage points."
    )
    max_class_drop_percent: float | None = Field(
        None, gt=0, le=100, description="Largest loss on the rows of any one class; left out, none is set."
    )


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or one of your own by the path of its YAML file.

    Raises:
        ProfileError: unknown name, unreadable file, or a key or value that is not allowed.
    """
    path = find_shipped("recipe", name_or_path)
    return read_value(path, Recipe, "recipe", defaults={"name": path.stem}, error=ProfileError)
