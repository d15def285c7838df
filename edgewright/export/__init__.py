"""A model in the native format of a platform, by the platform's own converter and quantizer.

Nothing here imports an ML framework: each conversion runs in a child process (`edgewright.child`) that imports what
that one conversion needs, so a converter that crashes or leaks takes nothing with it.
"""

from edgewright.artifact import Dataset, Exported, ImportedModel, Precision
from edgewright.export import android, by_plugin, edge_device, ios
from edgewright.export.refusal import refuse_meaningless
from edgewright.portable_words import refuse_unportable
from edgewright.profile import ExportOptions, InstructionSet, Platform
from edgewright.recipe import Quantize
from edgewright.store import Store

__all__ = ["export"]


def export(
    model: ImportedModel,
    dataset: Dataset,
    platform: Platform,
    precision: Precision,
    store: Store,
    *,
    instruction_set: InstructionSet = "arm64",
    dot_products: bool = False,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
    quantization: Quantize = Quantize(),  # noqa: B008 - frozen
) -> Exported:
    """Convert a model for a platform: `.tflite`, `.mlpackage` or `.onnx`.

    int8 is calibrated on the dataset's calibration rows only. Inputs and outputs keep the source model's names, order
    and real-number dtypes at every precision, so a device's code does not change with it, unless `options` say
    otherwise. `quantization` says how int8 is calibrated and which layers it leaves in float. `dot_products` says that
    the device is known to have them in 8 bits (VNNI). The same arguments give the same bytes.

    Raises:
        UnsupportedError: no path for an operator, or a precision that means nothing for this model.
        ConversionError: the converter rejected the graph, or its file answers otherwise than the model on real rows;
            it names the first layer where the two part.
    """
    refuse_meaningless(model, precision)
    for words in (column.words for column in model.preprocessing.columns if column.words is not None):
        refuse_unportable(words, platform.value)
    # A plugin takes the place of the platform's exporter; what was refused above it does not get round.
    if options.exporter is not None:
        return by_plugin.export(options.exporter, model, dataset, platform, precision, store)
    match platform:
        case Platform.ANDROID:
            return android.export(model, dataset, precision, store, options, quantization)
        case Platform.IOS:
            return ios.export(model, dataset, precision, store, options, quantization)
        case Platform.EDGE_DEVICE:
            return edge_device.export(
                model,
                dataset,
                precision,
                store,
                instruction_set=instruction_set,
                dot_products=dot_products,
                options=options,
                quantization=quantization,
            )
