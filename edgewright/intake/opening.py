"""Which `Source` a file becomes. Runs in a child process."""

from pathlib import Path

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.intake.source import Source

__all__ = ["opened"]


def opened(path: Path, kind: Format, data: DataSpec, *, checking: bool = False) -> Source:
    """Load a model and its data; ``checking`` leaves out what only `take_in` needs.

    Raises:
        InputError, UntrustedModelError, UnsupportedError: as `edgewright.intake.preflight`.
    """
    match kind:
        case Format.PT2:
            from edgewright.intake.torch_source import TorchSource

            return TorchSource(path, data)
        case Format.TORCHSCRIPT:
            from edgewright.intake.torchscript_source import TorchScriptSource

            return TorchScriptSource(path, data)
        case Format.TORCH_FACTORY:
            from edgewright.intake.factory_source import FactorySource

            return FactorySource(path, data)
        case Format.SKLEARN:
            from edgewright.intake.sklearn_model import SklearnSource

            return SklearnSource(path, data)
        case Format.ONNX:
            from edgewright.intake.onnx_source import OnnxSource

            return OnnxSource(path, data)
        case Format.KERAS | Format.SAVED_MODEL:
            from edgewright.intake.keras_source import KerasSource

            return KerasSource(path, kind, data, checking=checking)
        case _:
            raise UnsupportedError(f"{path}: a {kind} file is not a source model")
