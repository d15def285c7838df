"""Export and each compression technique, as parametrized tasks."""

from edgewright.artifact import Dataset, Exported, ImportedModel, Precision
from edgewright.errors import UnsupportedError
from edgewright.profile import DeviceProfile
from edgewright.recipe import AnyTechnique
from edgewright.result import Refusal
from edgewright.store import Store
from tasks.caching import step

__all__ = ["export", "transform"]

_EXPORT = (
    "edgewright.export",
    "edgewright.intake.torch_graph",
    "edgewright.artifact",
    "edgewright.child",
    *("torch", "litert-torch", "ai-edge-quantizer", "coremltools", "onnx", "onnxruntime"),
)


@step("Exporting to the platform's format", *_EXPORT)
def export(model: ImportedModel, dataset: Dataset, device: DeviceProfile, precision: Precision) -> Exported | Refusal:
    """Convert, and for int8 and float16 quantize, by the platform's own tools; a refusal is a result like another."""
    from edgewright import export as exporters

    try:
        return exporters.export(
            model, dataset, device.platform, precision, Store(), instruction_set=device.instruction_set
        )
    except UnsupportedError as e:
        return Refusal(reason=str(e))


@step("Compressing the network", "edgewright.optimize", "edgewright.intake.torch_graph", "edgewright.child", "torch")
def transform(model: ImportedModel, params: AnyTechnique, dataset: Dataset) -> ImportedModel | Refusal:
    """Apply one technique to the torch graph; see `edgewright.optimize.apply`."""
    from edgewright import optimize

    if model.graph is None:
        return Refusal(reason=f"the network cannot be restructured: {model.graph_refusal}")
    try:
        graph = optimize.apply(model.graph, params, dataset, Store())
    except UnsupportedError as e:
        return Refusal(reason=str(e))
    return model.model_copy(update={"graph": graph})
