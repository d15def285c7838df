"""Export and each compression technique, as a parametrized task of its own."""

from edgewright.artifact import Dataset, Exported, ImportedModel, LayerNoise, Precision
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.optimize.search import fewest
from edgewright.pipeline.result import Refusal
from edgewright.profile import DeviceProfile
from edgewright.recipe import AnyTechnique, PruneChannels, Quantize
from edgewright.store import Store
from edgewright.validate.machine import measured_by
from edgewright.validate.verdict import accuracy_fault
from tasks.caching import run, step
from tasks.validate import evaluate, measure

__all__ = ["compress", "export", "prune_to_latency", "quantize", "quantize_within", "sensitivity", "technique"]

_EXPORT = "edgewright.export"
_OPTIMIZE = "edgewright.optimize"

Changed = ImportedModel | Refusal
# Of the operations, that a search for a latency removes.
_SHARES = tuple(percent / 100 for percent in range(5, 100, 5))


@step("Exporting to the platform's format", _EXPORT)
def export(
    model: ImportedModel, dataset: Dataset, device: DeviceProfile, precision: Precision, code: str = ""
) -> Exported | Refusal:
    """Convert by the platform's own tools, or by an exporter of another distribution, to whose ``code`` the result is
    keyed; a refusal is a result like another."""
    return _exported(model, dataset, device, precision)


@step("Quantizing", _EXPORT)
def quantize(
    model: ImportedModel, params: Quantize, dataset: Dataset, device: DeviceProfile, code: str = ""
) -> Exported | Refusal:
    """Quantize by the platform's own quantizer, calibrated on calibration rows; ``code`` as for `export`."""
    return _exported(model, dataset, device, Precision(params.dtype), params)


@step("Measuring how each layer bears int8", _OPTIMIZE)
def sensitivity(model: ImportedModel, params: Quantize, dataset: Dataset) -> tuple[LayerNoise, ...] | Refusal:
    """See `edgewright.optimize.layer_noise`."""
    from edgewright import optimize

    if model.graph is None:
        return Refusal(reason=str(model.graph_refusal))
    try:
        return optimize.layer_noise(model.graph, params, dataset)
    except UnsupportedError as e:
        return Refusal(reason=str(e))


@step("Applying a technique", _OPTIMIZE)
def technique(model: ImportedModel, params: AnyTechnique, dataset: Dataset, code: str = "") -> Changed:
    """Each technique by its parameters; see `edgewright.optimize.apply`. ``code`` keys the result to other code that
    it runs, see `Technique.code`."""
    from edgewright import optimize

    if model.graph is None:
        return Refusal(reason=f"the network cannot be restructured: {model.graph_refusal}")
    try:
        graph = optimize.apply(model.graph, params, dataset, Store())
    except UnsupportedError as e:
        return Refusal(reason=str(e))
    return model.model_copy(update={"graph": graph})


def quantize_within(
    model: ImportedModel, params: Quantize, dataset: Dataset, device: DeviceProfile, max_drop_percent: float
) -> Exported | Refusal:
    """Run `quantize`; where int8 costs more accuracy than allowed on the validation rows, leave the most sensitive
    layers in float, as few as it takes. Where no number of them helps, the file is that of all layers in int8."""
    quantized = run(quantize, model, params, dataset, device, device.export.code)
    if isinstance(quantized, Refusal) or Precision(params.dtype) is not Precision.INT8:
        return quantized
    noise = run(sensitivity, model, params, dataset)
    if isinstance(noise, Refusal):
        return quantized.model_copy(
            update={"notes": (*quantized.notes, f"layers were not measured in int8: {noise.reason}")}
        )
    # By the number of layers in float: no file is exported twice.
    tried = {0: quantized}

    def passes(count: int) -> bool:
        if count not in tried:
            trial_params = params.model_copy(update={"float_layers": tuple(n.layer for n in noise[:count])})
            exported = run(quantize, model, trial_params, dataset, device, device.export.code)
            if isinstance(exported, Refusal):  # nothing is left to quantize
                return False
            tried[count] = exported
        evaluation = run(evaluate, model, dataset, tried[count], split="validation")
        return not accuracy_fault(evaluation, evaluation, max_drop_percent)

    chosen = 0
    if params.float_layers == "auto" and not passes(0):
        # At most all layers but one: with none left there is nothing to quantize.
        chosen = fewest(len(noise) - 1, passes) or 0
    names = tuple(n.layer for n in noise[:chosen]) if params.float_layers == "auto" else params.float_layers
    notes = (f"left in float for accuracy: {', '.join(names)}",) if chosen else ()
    # Each once, the most sensitive first; the exported file names its own as well.
    float_layers = tuple(dict.fromkeys((*names, *tried[chosen].float_layers)))
    update = {"sensitivity": tuple(noise), "float_layers": float_layers, "notes": (*tried[chosen].notes, *notes)}
    return tried[chosen].model_copy(update=update)


def prune_to_latency(model: ImportedModel, params: PruneChannels, dataset: Dataset, device: DeviceProfile) -> Changed:
    """Remove as few operations as the measured latency of the float32 export needs: without training first, exported
    and timed beside the original, to find how many; then with training, and measured again."""
    baseline = run(export, model, dataset, device, Precision.FLOAT32, device.export.code)
    if isinstance(baseline, Refusal):
        return baseline
    tried: dict[tuple[int, bool], Changed] = {}
    ratios: dict[int, float] = {}

    def latency_ratio(count: int, *, trained: bool) -> float | None:
        share = _SHARES[count - 1]
        training = params.training if trained else None
        asked = params.model_copy(update={"target": "operations", "ratio": share, "training": training})
        changed = tried[count, trained] = _applied(model, asked, dataset)
        if isinstance(changed, Refusal):
            return None
        exported = run(export, changed, dataset, device, Precision.FLOAT32, device.export.code)
        if isinstance(exported, Refusal):
            return None
        measured = run(measure, baseline, exported, dataset, device, measured_by(device))
        if measured.ratio is None:
            raise UnsupportedError("; ".join(measured.not_measured) or "latency was not measured")
        ratios[count] = measured.ratio.value
        return measured.ratio.value

    def fast(count: int, *, trained: bool = False) -> bool:
        ratio = latency_ratio(count, trained=trained)
        return ratio is not None and ratio <= 1 - params.ratio

    try:
        # Training moves the latency little, so only what the search ends with is trained.
        level = fewest(len(_SHARES), fast)
        while level is not None and level <= len(_SHARES):
            if params.training is None or fast(level, trained=True):
                return tried[level, params.training is not None]
            level += 1  # what training removed differs a little
    except UnsupportedError as e:
        return Refusal(reason=f"prune_channels to a latency: {e}")
    # min() over what was measured: with nothing measured, the latency is what it was.
    wanted, least = 1 - params.ratio, min(ratios.values(), default=1.0)
    return Refusal(reason=f"prune_channels: the export takes {least:.0%} of its latency at best, not {wanted:.0%}")


def compress(model: ImportedModel, params: AnyTechnique, dataset: Dataset, device: DeviceProfile) -> Changed:
    """Run the technique that the parameters' type selects; quantization is the export's, see `quantize`."""
    if isinstance(params, Quantize):
        return model
    if isinstance(params, PruneChannels) and params.target == "latency":
        return prune_to_latency(model, params, dataset, device)
    return _applied(model, params.for_device(device), dataset)


def _applied(model: ImportedModel, params: AnyTechnique, dataset: Dataset) -> Changed:
    """`technique`, shown under the technique's own name."""
    named = technique.with_options(description=params.title, task_run_name=params.technique)
    return run(named, model, params, dataset, params.code())


def _exported(
    model: ImportedModel,
    dataset: Dataset,
    device: DeviceProfile,
    precision: Precision,
    quantization: Quantize = Quantize(),  # noqa: B008 - frozen
) -> Exported | Refusal:
    from edgewright import export as exporters

    try:
        return exporters.export(
            model,
            dataset,
            device.platform,
            precision,
            Store(),
            instruction_set=device.instruction_set,
            dot_products=device.dot_products,
            options=device.export,
            quantization=quantization,
        )
    except UnsupportedError as e:
        return Refusal(reason=str(e))
    except ConversionError as e:
        # A network that half precision changes is none the worse in float32.
        if precision is Precision.FLOAT32:
            raise
        return Refusal(reason=str(e))
