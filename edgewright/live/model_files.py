"""A model in memory as a source file; its own framework writes it."""

import copy
import inspect
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import ConversionError, InputError
from edgewright.failures import one_line

__all__ = ["model_name", "write_model"]

_ALLOWED = (
    "a path, a torch.nn.Module, a torch.export.ExportedProgram, a Keras model, an ONNX ModelProto, or a fitted "
    "scikit-learn, XGBoost or LightGBM estimator"
)
_MAX_ROWS = 1 << 16


def model_name(model: Any) -> str:
    """What a model is called where its user gives no name: as its file, or as its class, in small letters."""
    if isinstance(model, (str, os.PathLike)):
        return Path(model).stem
    return re.sub(r"[^a-z0-9]+", "_", type(model).__name__.lower()).strip("_") or "model"


def write_model(model: Any, name: str, folder: Path, examples: Mapping[str, NDArray[Any]] | None = None) -> Path:
    """Write a model into ``folder`` and return its file; a path is taken as it is. The model stays as it was.

    Args:
        model: see the message of the error.
        name: the file's, without its ending.
        folder: an empty one.
        examples: two rows of each input, by the name that the data has for it: a module is exported with such rows.

    Raises:
        InputError: no model that is known here.
        ConversionError: its framework cannot export it.
    """
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    # By name: comparing with the classes would import every framework here.
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(model).__mro__]
    # Before Module, which a ScriptModule is too.
    if ("torch", "ScriptModule") in kinds:
        return _saved(model, model.save, folder / f"{name}.pt")
    if ("torch", "Module") in kinds or ("torch", "ExportedProgram") in kinds:
        return _written_program(model, folder / f"{name}.pt2", examples)
    if ("keras", "Model") in kinds or ("tf_keras", "Model") in kinds:
        return _saved(model, model.save, folder / f"{name}.keras")
    if ("onnx", "ModelProto") in kinds:
        return _saved(model, lambda path: path.write_bytes(model.SerializeToString()), folder / f"{name}.onnx")
    # Last: a Keras model can predict as well.
    if hasattr(model, "predict"):
        return _pickled(model, folder / f"{name}.pkl")
    raise InputError(f"model: found {type(model).__name__}; allowed: {_ALLOWED}")


def _saved(model: Any, save: Callable[[Path], object], path: Path) -> Path:
    """The file that a model's own framework writes."""
    try:
        save(path)
    except OSError:  # of the disk
        raise
    except Exception as e:  # whatever its layers raise: a get_config that is missing, 2 GB of ONNX
        raise ConversionError(f"model: a {type(model).__name__} that cannot be saved: {one_line(e)}") from e
    return path


def _pickled(model: Any, path: Path) -> Path:
    try:
        path.write_bytes(pickle.dumps(model))
    except Exception as e:  # whatever the parts of an estimator raise
        raise InputError(f"model: a {type(model).__name__} that cannot be pickled: {one_line(e)}") from e
    return path


def _written_program(model: Any, path: Path, examples: Mapping[str, NDArray[Any]] | None) -> Path:
    import torch

    program = model
    if isinstance(model, torch.nn.Module):
        if examples is None:
            raise InputError("model: a module is exported with rows of its data; give these as arrays, or a .pt2 file")
        program = _exported(model, examples)
    return _saved(model, lambda file: torch.export.save(program, file), path)


def _exported(model: Any, examples: Mapping[str, NDArray[Any]]) -> Any:
    import torch

    module = _copied(model).cpu().eval()  # the user's own may be in training, and elsewhere
    arrays = _in_order(module, examples)
    free = tuple({0: torch.export.Dim("batch", max=_MAX_ROWS)} for _ in arrays)
    error: Exception | None = None
    for rows in _as_tensors(arrays):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.export's, about how recurrent layers keep their weights
                module(*(one.clone() for one in rows))  # torch.export lets layers of real numbers take whole ones
                return torch.export.export(module, rows, dynamic_shapes=free)
        except Exception as e:  # whatever the module's code raises
            # The first one: it is of the rows as the data file has them.
            error = error or e
    shapes = ", ".join(str(("N", *array.shape[1:])) for array in arrays)
    raise ConversionError(f"model: torch.export: {one_line(error, 240)}; given were rows of shape {shapes}") from error


def _copied(model: Any) -> Any:
    import torch

    # Tensors that a forward computed and left, as weight_norm does: torch copies none that has a gradient's history.
    tensors = [value for part in model.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    known = {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, known)
    except Exception as e:  # a lock, a file or a generator among its attributes
        raise ConversionError(
            f"model: a {type(model).__name__} that cannot be copied: {one_line(e)}; "
            "export it yourself by torch.export, and give the program"
        ) from e


def _as_tensors(arrays: Sequence[NDArray[Any]]) -> list[tuple[Any, ...]]:
    """As the data file's rows will come: whole numbers and masks as they are, or all as float32."""
    import torch

    from edgewright.intake.example_rows import example_dtype

    as_data = tuple(torch.from_numpy(np.ascontiguousarray(a)).to(example_dtype(a.dtype)) for a in arrays)
    as_real = tuple(tensor.float() for tensor in as_data)
    # A network over pixels may be written for reals alone, one over tokens for whole numbers alone: both are tried.
    return [as_data] if all(tensor.dtype == torch.float32 for tensor in as_data) else [as_data, as_real]


def _in_order(module: Any, examples: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The rows in the order of forward's arguments; those that are named must have these names."""
    by_name = {key.partition(".")[2]: rows for key, rows in examples.items()}
    # An input without a name, `x` or `x_train`: forward has one argument, whatever it is called.
    if list(by_name) == [""]:
        return list(by_name.values())
    arguments = [name for name in inspect.signature(module.forward).parameters if name in by_name]
    if unknown := sorted(set(by_name) - set(arguments)):
        taken = ", ".join(inspect.signature(module.forward).parameters)
        raise InputError(f"data: rows named {', '.join(unknown)}, but the model's forward takes {taken}")
    return [by_name[name] for name in arguments]
