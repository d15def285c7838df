"""A PyTorch module made by the user's own function, with weights from a file: exported here, then a program as any.

The user names the function, so it is the user's code that runs; the weights are data and are read as such.
Runs in a child process: imports torch.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError
from edgewright.failures import one_line
from edgewright.intake.companion_files import FactoryFile, read_factory
from edgewright.intake.tensor_files import load_tensors
from edgewright.intake.torch_source import TorchSource

__all__ = ["FactorySource"]

_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_EXAMPLE_ROWS = 2  # torch.export takes a batch of 1 for a constant


class FactorySource(TorchSource):
    """A module over arrays; its batch size stays free, its BatchNorm live."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        description = read_factory(path)
        module = _made(description, path)
        if description.weights is not None:
            _load_weights(module, path.parent / description.weights)
        super().__init__(path, data, _exported(module, description, path))


def _made(description: FactoryFile, path: Path) -> torch.nn.Module:
    module, _, function = description.factory.partition(":")
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as e:
        raise InputError(f"{path}: {description.factory} cannot be called: {str(e).splitlines()[0]}") from e
    finally:
        sys.path.pop(0)
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{path}: {description.factory} returned a {type(made).__name__}, not a torch.nn.Module")
    return made.eval()


def _load_weights(module: torch.nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else load_tensors(path, f"{path}:")
        module.load_state_dict(_state_dict(state, path))
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such file") from e
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path}: damaged weights: {one_line(e)}") from e
    except (RuntimeError, TypeError, AttributeError) as e:
        said = " ".join(str(e).split())[:240]
        raise InputError(f"{path}: the weights do not fit the module: {said}") from e


def _state_dict(state: Any, path: Path) -> Any:
    """The state dict itself, or the one that a checkpoint holds beside epochs and optimizers.

    Raises:
        InputError: a checkpoint without one under a usual name.
    """
    if not isinstance(state, dict) or not state or all(isinstance(v, torch.Tensor) for v in state.values()):
        return state
    found = next((state[key] for key in _NESTED if isinstance(state.get(key), dict)), None)
    if found is None:
        raise InputError(
            f"{path}: a checkpoint that holds {', '.join(map(str, list(state)[:6]))}, and no state dict under one of "
            f"{', '.join(_NESTED)}; save model.state_dict() alone"
        )
    return found


def _exported(module: torch.nn.Module, description: FactoryFile, path: Path) -> Any:
    examples = tuple(torch.rand(_EXAMPLE_ROWS, *shape) for shape in description.inputs.values())
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    try:
        return torch.export.export(module, examples, dynamic_shapes=tuple({0: batch} for _ in examples))
    except Exception as e:  # torch.export raises whatever the module's code meets
        raise ConversionError(
            f"{path}: torch.export: {(str(e).strip() or type(e).__name__).splitlines()[0][:240]}"
        ) from e
