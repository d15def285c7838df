"""Loading scikit-learn models without trusting them: an allow-list decides on every name before it is even imported.

A pickle is a program; what it may call is decided by `Unpickler.find_class`. Allowed are estimator classes of
scikit-learn (their constructors and ``__setstate__`` only set attributes), the few internal classes that fitted
estimators hold, models of XGBoost and LightGBM (a booster is read by the library's own parser of its format), and what
rebuilds numpy and scipy arrays. Functions are not allowed, save those that rebuild arrays.
Runs in a child process: imports scikit-learn when a model asks for it.
"""

import bz2
import gzip
import importlib
import io
import lzma
import pickle
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.pickle_names import ESTIMATOR_PACKAGES, EXACT

__all__ = ["load_model"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_NUMPY_DTYPES = re.compile(r"numpy\.dtypes\.[A-Z][A-Za-z0-9]*DType")

_MODULES_OF_COMPRESSION: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip),
    (b"BZh", bz2),
    (b"\xfd7zXZ", lzma),
    (b"\x5d\x00", lzma),
)
_MODULES_OF_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # how protocols 0 to 2 write them
_MAX_UNPACKED_BYTES = 4 << 30


def load_model(path: Path) -> Any:
    """A scikit-learn model out of a pickle, a joblib file (also compressed) or a ``.skops`` file.

    Raises:
        UntrustedModelError: it asks for a name outside the allow-list; nothing of it has run.
        InputError: damaged, truncated, or in need of a package that is not installed.
    """
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"PK"):
        return _load_skops(path)
    try:
        with _opened(path, head) as stream:
            return GuardedUnpickler(stream, path).load()
    except InputError:
        raise
    except MemoryError as e:
        raise InputError(f"{path}: damaged: it asks for more memory than there is") from e
    except Exception as e:  # a damaged pickle can raise anything
        raise InputError(f"{path}: damaged or not readable by this scikit-learn: {type(e).__name__}: {_line(e)}") from e


# The unpickler in C cannot be stopped between opcodes, where joblib puts its arrays.
_PythonUnpickler = pickle._Unpickler
_BUILD: Any = _PythonUnpickler.dispatch[pickle.BUILD[0]]


class GuardedUnpickler(_PythonUnpickler):
    """An unpickler that knows an allow-list, and joblib's arrays that lie between the opcodes."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__(stream)
        self.stream, self.path = stream, path

    def find_class(self, module: str, name: str) -> Any:
        """The object behind a name, if it is allowed."""
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return _JoblibArray
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        return _permitted(module, name, self.path)

    def get_extension(self, code: int) -> None:
        """Extension codes stand for names that the file does not show."""
        raise UntrustedModelError(f"{self.path}: asks for the registered extension {code}; such codes are not allowed")

    def persistent_load(self, pid: Any) -> Any:
        """Persistent ids point outside the file."""
        raise UntrustedModelError(f"{self.path}: asks for the external object {pid!r}; such references are not allowed")

    def load_build(self) -> None:
        """BUILD; where it completes a joblib array, its bytes follow in the stream."""
        _BUILD(self)
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].read(self)
        elif type(self.stack[-1]).__name__ == "Tree":
            _inspect_tree(self.stack[-1], self.path)
        elif type(self.stack[-1]).__name__ == "TreePredictor":
            nodes = self.stack[-1].nodes
            own, inner = np.arange(len(nodes)), nodes["is_leaf"] == 0
            for side in ("left", "right"):
                _inspect_children(nodes[side].astype(np.int64)[inner], own[inner], len(nodes), self.path)

    dispatch[pickle.BUILD[0]] = load_build


class _JoblibArray:
    """Stand-in for joblib's NumpyArrayWrapper; its own would read nested pickles with an unguarded unpickler."""

    subclass: Any
    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]
    numpy_array_alignment_bytes: int | None = None

    def read(self, unpickler: GuardedUnpickler) -> Any:
        """The array whose bytes come next."""
        if self.subclass is not np.ndarray:
            raise UntrustedModelError(
                f"{unpickler.path}: an array of the class {self.subclass}; only numpy.ndarray is allowed"
            )
        if self.dtype.hasobject:
            return GuardedUnpickler(unpickler.stream, unpickler.path).load()
        if self.numpy_array_alignment_bytes is not None:
            unpickler.stream.read(unpickler.stream.read(1)[0])
        count = int(np.prod(self.shape, dtype=np.int64))
        content = unpickler.stream.read(count * self.dtype.itemsize)
        if len(content) != count * self.dtype.itemsize:
            raise EOFError("an array ends before its last element")
        flat = np.frombuffer(bytearray(content), dtype=self.dtype, count=count)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


def _inspect_tree(tree: Any, path: Path) -> None:
    """scikit-learn walks a tree without looking: a child that lies elsewhere crashes it or keeps it walking for ever.

    Raises:
        InputError: a child that does not come after its parent, or a feature that the model does not have.
    """
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    own = np.arange(tree.node_count)[inner]
    for children in (left, right):
        if ((children != -1) != inner).any():
            raise InputError(f"{path}: damaged: a tree with a branch on one side only")
        _inspect_children(children[inner], own, tree.node_count, path)
    features = tree.feature[inner]
    if (features < 0).any() or (features >= tree.n_features).any():
        raise InputError(f"{path}: damaged: a tree that decides by a feature which the model does not have")


def _inspect_children(children: Any, parents: Any, count: int, path: Path) -> None:
    if (children <= parents).any() or (children >= count).any():
        raise InputError(f"{path}: damaged: a tree whose branches lead nowhere")


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec has a place in a model."""
    if encoding not in {"latin1", "latin-1"}:
        raise UntrustedModelError(f"a model asks for _codecs.encode with the codec {encoding!r}; allowed: latin1")
    return text.encode("latin1")


def _permitted(module: str, name: str, path: Path) -> Any:
    module = _MODULES_OF_PYTHON_2.get(module, module)
    asked = f"{module}.{name}"
    exact = asked in EXACT or _NUMPY_DTYPES.fullmatch(asked)
    parts = module.split(".")
    estimator = parts[0] == "sklearn" and len(parts) > 1 and parts[1] in ESTIMATOR_PACKAGES and "tests" not in parts
    if not all(_IDENTIFIER.fullmatch(p) for p in [*parts, name]) or not (exact or estimator):
        raise UntrustedModelError(f"{path}: asks for {asked}, {_hint(parts[0])}; nothing of it has run")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        if e.name == parts[0]:
            raise InputError(f"{path}: needs {parts[0]}, which is not installed; install it and try again") from e
        raise InputError(f"{path}: needs {asked}, which the installed version does not have") from e
    except (ImportError, AttributeError) as e:
        raise InputError(f"{path}: needs {asked}, which the installed version does not have") from e
    if not exact and not _is_estimator(found):
        raise UntrustedModelError(f"{path}: asks for {asked}, which is no estimator class; nothing of it has run")
    return found


def _hint(package: str) -> str:
    if package == "catboost":
        return "a model of catboost: not supported in a pickle; save it as ONNX (save_model, format='onnx')"
    if package in {"xgboost", "lightgbm"}:
        return f"which is outside the allow-list (of {package}: classifiers and regressors with their boosters)"
    return "which is outside the allow-list (scikit-learn estimators, numpy and scipy arrays, joblib)"


def _is_estimator(thing: Any) -> bool:
    from sklearn.base import BaseEstimator

    return isinstance(thing, type) and issubclass(thing, BaseEstimator)


def _opened(path: Path, head: bytes) -> BinaryIO:
    for magic, module in _MODULES_OF_COMPRESSION:
        if head.startswith(magic):
            return cast(BinaryIO, module.open(path))
    if head[:1] == b"\x78":  # a bare zlib stream
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(path.read_bytes(), _MAX_UNPACKED_BYTES)
        return io.BytesIO(content)
    return path.open("rb")


def _load_skops(path: Path) -> Any:
    import skops.io

    try:
        asked = skops.io.get_untrusted_types(file=path)
    except Exception as e:  # a damaged archive can raise anything
        raise InputError(f"{path}: damaged .skops file: {_line(e)}") from e
    trusted = []
    for name in asked:
        module, _, leaf = str(name).rpartition(".")
        _permitted(module, leaf, path)
        trusted.append(str(name))
    try:
        return skops.io.load(path, trusted=trusted)
    except Exception as e:
        raise InputError(f"{path}: damaged .skops file: {_line(e)}") from e


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
