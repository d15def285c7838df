"""Where the real data lies and how it is read. No ML framework is imported here."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from edgewright.artifact import Metric, ModelTask
from edgewright.code_version import source_version
from edgewright.plugins import plugin_code, plugin_names
from edgewright.strict_yaml import WrittenFloat, WrittenInt
from edgewright.value import Value
from edgewright.yaml_values import read_value

__all__ = ["METRIC_PLUGINS", "NAMED_METRICS", "DataSpec", "load_data_spec"]

METRIC_PLUGINS = "edgewright.metrics"


class NamedMetric(NamedTuple):
    """Which values are better, and what the answers must be; None where the metric itself reads them."""

    better: Literal["higher", "lower"] = "higher"
    task: ModelTask | None = None


# What they compute stands in edgewright/statistics/named_metrics.py.
NAMED_METRICS = {
    "top5_accuracy": NamedMetric(task=ModelTask.CLASSIFICATION),
    "macro_f1": NamedMetric(task=ModelTask.CLASSIFICATION),
    "f1": NamedMetric(task=ModelTask.CLASSIFICATION),
    "roc_auc": NamedMetric(task=ModelTask.CLASSIFICATION),
    "average_precision": NamedMetric(task=ModelTask.CLASSIFICATION),
    "multilabel_f1": NamedMetric(),
    "multilabel_roc_auc": NamedMetric(),
    "mae": NamedMetric("lower", ModelTask.REGRESSION),
    "rmse": NamedMetric("lower", ModelTask.REGRESSION),
    "cosine": NamedMetric(),
    "mean_iou": NamedMetric(),
    "mean_average_precision": NamedMetric(),
    "pck": NamedMetric(),
    "recall_at_1": NamedMetric(),
    "recall_at_5": NamedMetric(),
    "token_accuracy": NamedMetric(),
    "perplexity": NamedMetric("lower"),
}


def _as_written(value: Any) -> Any:
    """A number of a YAML file as it is written there; whoever writes ``no`` there without quotes has written False."""
    if isinstance(value, bool):
        raise ValueError("YAML takes yes, no, on, off, true and false for truth values: put a text into quotes")  # noqa: TRY004 - pydantic turns ValueError into its own
    if isinstance(value, (WrittenInt, WrittenFloat)):
        return value.text
    return str(value) if isinstance(value, (int, float)) else value


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(column): _texts(texts) for column, texts in value.items()}
    texts = [_as_written(text) for text in (value if isinstance(value, (list, tuple)) else [value])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text, a list of texts, or one of these for each column")
    return tuple(texts)


Written = Annotated[str, BeforeValidator(_as_written)]
Texts = Annotated[tuple[str, ...] | dict[str, tuple[str, ...]], BeforeValidator(_texts)]


class DataSpec(Value):
    """A table (``.csv``, ``.parquet``) with a target column, or arrays (``.npz``).

    Arrays are ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``x``, ``y`` (then split by ``seed``); an input
    of several tensors has one array each, ``x_test.<input name>``; an input that is a single number is fixed at what
    stands there. ``(raw - mean) * scale`` is applied to real inputs on the way in and travels in the manifest, so that
    the device does it too; whole numbers, such as token ids, go in as they are. A table is read as ``pandas.read_csv``
    reads it, with ``keep_default_na``, ``na_values`` and ``dtypes`` (its ``dtype``) as given here: as the model's
    training read it.
    """

    path: Path
    target: str | None = Field(None, description="The column, or the array, with the true answers.")
    test_path: Path | None = Field(
        None, description="Rows for the test alone; otherwise a share of `path` is held out."
    )
    scale: float = Field(1.0, allow_inf_nan=False)
    mean: float = Field(0.0, allow_inf_nan=False)
    test_fraction: float = Field(0.3, gt=0, lt=1)
    seed: int = Field(42, ge=0, lt=2**32)
    task: ModelTask | None = Field(
        None,
        description="classification or regression, otherwise decided from the model and the answers; none: no answers, "
        "the source's own are what every step is held to.",
    )
    metric: str | None = Field(
        None,
        description=f"What stands for accuracy everywhere: {', '.join(NAMED_METRICS)}; or a metric of your own, "
        "package.module:function or a plugin's name, which takes the outputs by name and the answers, gives a number.",
    )
    metric_better: Literal["higher", "lower"] | None = Field(
        None, description="Which values of a metric of your own are better; higher, if left out."
    )
    folder: str = Field(".", description="Where a metric's module is looked for; left out, beside the data file.")
    labels: tuple[Written, ...] = Field(
        (), description="Names of the classes in the order of the model's scores, as the answers write them."
    )
    keep_default_na: bool = Field(
        True, description="Whether NA, None, nan and a blank are missing values, as in pandas."
    )
    na_values: Texts = Field((), description="More texts that mean a missing value, in all columns or by column.")
    dtypes: dict[str, str] = Field({}, description="pandas' dtype by column: str, float64, bool, category, ...")
    text_column: str | None = Field(
        None,
        description="The column that a model of texts reads; needed where the table has several besides the target.",
    )
    shapes: dict[str, tuple[int, ...]] = Field(
        {}, description="Sizes of an input whose axes are free, by its name; the first stays free."
    )

    @property
    def has_answers(self) -> bool:
        """Whether the data holds what the model should answer."""
        return self.task is not ModelTask.NONE or self.metric is not None

    @property
    def chosen_metric(self) -> Metric | None:
        """What stands for accuracy or R², where the data file names it."""
        if self.metric is None:
            return None
        if self.metric in NAMED_METRICS:
            return Metric(name=self.metric, better=NAMED_METRICS[self.metric].better)
        module, _, function = self.metric.partition(":")
        if function:
            code = source_version(module, Path(self.folder))
        else:
            code = plugin_code(METRIC_PLUGINS, module) if module in plugin_names(METRIC_PLUGINS) else ""
        return Metric(name=self.metric, better=self.metric_better or "higher", folder=self.folder, code=code)

    @model_validator(mode="before")
    @classmethod
    def _task_is_of_the_metric(cls, content: Any) -> Any:
        """`mae` without a task means a regression."""
        named = NAMED_METRICS.get(str(content.get("metric"))) if isinstance(content, dict) else None
        if named is None or named.task is None or content.get("task") is not None:
            return content
        return {**content, "task": named.task}

    @model_validator(mode="after")
    def _metric_fits(self) -> Self:
        named = NAMED_METRICS.get(self.metric or "")
        if named is None:
            return self
        if self.task not in {None, named.task or ModelTask.NONE}:
            right = f"task: {named.task}" if named.task else "no task: the metric itself reads the answers"
            raise ValueError(f"metric: {self.metric} has {right}; found task: {self.task}")
        if self.metric_better not in {None, named.better}:
            raise ValueError(f"metric_better: {self.metric_better}, but of {self.metric} {named.better} is better")
        return self

    @model_validator(mode="after")
    def _labels_are_of_classes(self) -> Self:
        if self.labels and self.task in {ModelTask.REGRESSION, ModelTask.NONE}:
            raise ValueError(f"labels are names of classes, and task: {self.task} has none: leave labels or task out")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels names a class twice")
        return self


def load_data_spec(path: Path, target: str | None = None) -> DataSpec:
    """The data a user names on the command line: a data file, or a ``.yaml`` that describes one.

    Paths inside the ``.yaml`` are relative to it.

    Raises:
        InputError: a missing file, or a key or value that is not allowed.
    """
    if path.suffix not in {".yaml", ".yml"}:
        return DataSpec(path=path, target=target)
    spec, below = read_value(path, DataSpec, "data file"), path.parent
    test_path = below / spec.test_path if spec.test_path else None
    return spec.model_copy(
        update={
            "path": below / spec.path,
            "test_path": test_path,
            "target": target or spec.target,
            "folder": str((below / spec.folder).absolute()),
        }
    )
