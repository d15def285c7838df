"""A PyTorch module made by the user's own function, with weights from a file: exported here, then a program as any.

The user names the function, so it is the user's code that runs; the weights are data and are read as such.
Runs in a child process: imports torch.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UntrustedModelError
from edgewright.failures import one_line
from edgewright.intake.arrays import row_shapes
from edgewright.intake.companion_files import FactoryFile, read_factory, weights_file
from edgewright.intake.example_rows import example, example_dtype
from edgewright.intake.single_numbers import Number, given_kind, is_given, number_argument
from edgewright.intake.tensor_files import load_tensors
from edgewright.intake.torch_save import STATE_DICTS
from edgewright.intake.torch_source import TorchSource

__all__ = ["FactorySource"]


class FactorySource(TorchSource):
    """A module over arrays; its batch size stays free, its BatchNorm live."""

    def __init__(self, path: Path, data: DataSpec) -> None:
        description = read_factory(path)
        module = _made(description, path)
        notes: tuple[str, ...] = ()
        if description.weights is not None:
            notes = _load_weights(module, weights_file(path.parent / description.weights))
        fixed = _numbers(module, description, data, path)
        numbers = {name: value for name, (value, _) in fixed.items()}
        program, dtype_notes = _exported(module, description, data, path, numbers)
        super().__init__(path, data, program)
        self.notes += (*notes, *dtype_notes)


def _made(description: FactoryFile, path: Path) -> torch.nn.Module:
    module_name, _, function = description.factory.partition(":")
    # What lies beside the description goes before an installed package of that name.
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        module = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError, TypeError) as e:
        raise InputError(f"{path}: {description.factory} cannot be called: {one_line(e, 200)}") from e
    finally:
        sys.path.pop(0)
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{path}: {description.factory} returned a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def _load_weights(module: torch.nn.Module, path: Path) -> tuple[str, ...]:
    """Put the weights in; a note where their names had a prefix that the module's own have not."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else load_tensors(path, f"{path}:")
        weights, prefix = _without_prefix(_state_dict(state, path), module)
        module.load_state_dict(weights)
    except UntrustedModelError as e:
        raise UntrustedModelError(f"{e}; save the weights alone: torch.save(model.state_dict(), 'weights.pt')") from e
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path}: damaged weights: {one_line(e)}") from e
    except (RuntimeError, TypeError, AttributeError) as e:
        message = " ".join(str(e).split())[:240]
        raise InputError(f"{path}: the weights do not fit the module: {message}") from e
    return (f"the weights' names begin with '{prefix}', which was left off",) if prefix else ()


def _without_prefix(state: Any, module: torch.nn.Module) -> tuple[Any, str]:
    """Weights of a module that was wrapped (DataParallel, torch.compile, a trainer): under its own names again."""
    own = set(module.state_dict())
    # Where some names fit, no prefix is missing: what else differs is said by `load_state_dict`.
    if not isinstance(state, dict) or not own or not state or own & set(state):
        return state, ""
    first = min(own)
    # Any one name shows a prefix; it is one only if all begin with it.
    prefixes = {str(name).removesuffix(first) for name in state if str(name).endswith(f".{first}")}
    for prefix in sorted(prefixes):
        if all(str(name).startswith(prefix) for name in state):
            return {str(name).removeprefix(prefix): value for name, value in state.items()}, prefix
    return state, ""


def _state_dict(state: Any, path: Path) -> Any:
    """The state dict itself, or the one that a checkpoint holds beside epochs and optimizers.

    Raises:
        InputError: a checkpoint without one under a usual name.
    """
    if not isinstance(state, dict) or not state or all(isinstance(v, torch.Tensor) for v in state.values()):
        return state
    state_dict = next((state[key] for key in STATE_DICTS if isinstance(state.get(key), dict)), None)
    if state_dict is None:
        raise InputError(
            f"{path}: a checkpoint that holds {', '.join(map(str, list(state)[:6]))}, and no state dict under one of "
            f"{', '.join(STATE_DICTS)}; save model.state_dict() alone"
        )
    return state_dict


def _numbers(
    module: torch.nn.Module, description: FactoryFile, data: DataSpec, path: Path
) -> dict[str, tuple[Number, str]]:
    """The arguments of forward beside the described inputs that are Python numbers: value and note of each.

    Those with a default count where it is a number or the data has an array of their name.
    """
    rest = list(inspect.signature(module.forward).parameters.values())
    rest = [a for a in rest if a.kind not in {a.VAR_POSITIONAL, a.VAR_KEYWORD}][len(description.inputs) :]
    arguments = {}
    for argument in rest:
        default = argument.default if isinstance(argument.default, Number) else None
        is_needed, is_open = argument.default is argument.empty, argument.annotation is argument.empty
        # By the annotation, then by the default; where nothing says, by the data.
        kind = _annotated(argument) or (None if default is None else type(default))
        kind = given_kind(data, argument.name) if kind is None and is_needed and is_open else kind
        if kind is not None and (is_needed or is_given(data, argument.name)):
            arguments[argument.name] = number_argument(data, argument.name, kind, default, path)
    return arguments


def _annotated(argument: inspect.Parameter) -> type[Number] | None:
    """The kind of number that an argument is annotated as, be it optional or not."""
    # Annotations are text under `from __future__ import annotations`.
    written = argument.annotation if isinstance(argument.annotation, str) else repr(argument.annotation)
    words = set(re.findall(r"\w+", written)) - {"class", "typing", "Optional", "Union", "None", "NoneType"}
    kinds: dict[str, type[Number]] = {"float": float, "int": int, "bool": bool}
    return next(kind for name, kind in kinds.items() if name in words) if words and words <= set(kinds) else None


def _exported(
    module: torch.nn.Module, description: FactoryFile, data: DataSpec, path: Path, numbers: Mapping[str, Number]
) -> tuple[Any, tuple[str, ...]]:
    """The program for any number of rows, and a note on each dtype that nobody wrote.

    Whole numbers and masks of the data are first given as such, then, where the module does not take them, as float32.
    """
    written = {name: getattr(torch, i.dtype) for name, i in description.inputs.items() if i.dtype is not None}
    data_dtypes = (
        _dtypes_of_data(module, list(description.inputs), data) if len(written) < len(description.inputs) else {}
    )
    plain = dict.fromkeys(description.inputs, torch.float32)
    as_data = {**plain, **data_dtypes, **written}
    try:
        program = _program(module, description, as_data, numbers)
    except Exception as e:  # torch.export raises whatever the module's code meets
        as_real = {**plain, **written}
        if as_real == as_data:
            raise _refused(e, as_data, path) from e
        try:
            program = _program(module, description, as_real, numbers)
        except Exception:
            raise _refused(e, as_data, path) from e
        taken = [name for name in plain if as_real[name] != as_data[name]]
        return program, (f"the data's {_kinds(as_data, taken)} goes in as float32: the module takes nothing else",)
    taken = [name for name in plain if name not in written and as_data[name] != torch.float32]
    return program, (f"inputs are taken as the data has them: {_kinds(as_data, taken)}",) if taken else ()


def _dtypes_of_data(module: torch.nn.Module, names: list[str], data: DataSpec) -> dict[str, torch.dtype]:
    """Which inputs are whole numbers or masks in the data; what is scaled on its way in is neither.

    The data names its arrays as ``forward`` does its arguments, the description in their order.
    """
    if data.scale != 1.0 or data.mean != 0.0:
        return {}
    arguments = list(inspect.signature(module.forward).parameters.values())
    named = [a.name for a in arguments if a.kind in {a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD}]
    rest = next((a.name for a in arguments if a.kind is a.VAR_POSITIONAL), "")
    # As torch.export names what `*rest` takes: rest_0, rest_1, ...
    named += [f"{rest}_{place}" for place in range(len(names) - len(named))] if rest else names[len(named) :]
    rows = row_shapes(data, named[: len(names)])
    return {name: example_dtype(dtype) for name, (_, dtype) in zip(names, rows, strict=True)}


def _program(
    module: torch.nn.Module,
    description: FactoryFile,
    dtypes: Mapping[str, torch.dtype],
    numbers: Mapping[str, Number],
) -> Any:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    examples = tuple(example(given.shape, dtypes[name]) for name, given in description.inputs.items())
    if set(dtypes.values()) != {torch.float32}:  # torch.export lets layers of real numbers take whole ones
        with torch.no_grad():
            module(*(x.clone() for x in examples), **numbers)
    return torch.export.export(
        module, examples, dict(numbers), dynamic_shapes=_free_rows(module, examples, batch, numbers)
    )


def _free_rows(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], batch: Any, numbers: Mapping[str, Number]
) -> Any:
    rows = tuple({0: batch} for _ in examples)
    if not numbers:
        return rows
    # Where arguments go by name, torch.export wants the shapes so, and None for what has none.
    named = dict(zip(inspect.signature(module.forward).parameters, rows, strict=False))
    return named | dict.fromkeys(numbers)


def _refused(error: Exception, dtypes: Mapping[str, torch.dtype], path: Path) -> ConversionError:
    name = next(iter(dtypes))
    return ConversionError(
        f"{path}: torch.export: {one_line(error, 240)}; given were {_kinds(dtypes, list(dtypes))}: if another dtype is "
        f"meant, say so: `inputs: {{{name}: {{shape: [...], dtype: int64}}}}`"
    )


def _kinds(dtypes: Mapping[str, torch.dtype], names: list[str]) -> str:
    return ", ".join(f"{name} ({str(dtypes[name]).removeprefix('torch.')})" for name in names)
