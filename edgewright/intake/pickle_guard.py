"""Loading scikit-learn models without trusting them: an allow-list decides on every name before it is even imported.

A pickle is a program; what it may call is decided by `Unpickler.find_class`. Allowed are estimator classes of
scikit-learn (their constructors and ``__setstate__`` only set attributes), the few internal classes that fitted
estimators hold, and what rebuilds numpy and scipy arrays. Functions are not allowed, save those that rebuild arrays.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgewright.errors import InputError, UntrustedModelError

__all__ = ["load_model"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SKLEARN_PACKAGES = frozenset(
    ["calibration", "cluster", "compose", "covariance", "cross_decomposition", "decomposition", "discriminant_analysis", "dummy", "ensemble", "feature_extraction", "feature_selection", "gaussian_process", "impute", "isotonic", "kernel_approximation", "kernel_ridge", "linear_model", "manifold", "mixture", "model_selection", "multiclass", "multioutput", "naive_bayes", "neighbors", "neural_network", "pipeline", "preprocessing", "random_projection", "semi_supervised", "svm", "tree"]
)
"""Where estimators live. Left out on purpose: datasets (network), utils (runs code), externals, inspection, tests."""

_EXACT = frozenset(
    ["numpy.ndarray", "numpy.dtype", "numpy.matrix", "numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer", "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__bit_generator_ctor", "numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64", "numpy.random._mtrand.RandomState", "numpy.random.mtrand.RandomState", "numpy.ma.core.MaskedArray", "numpy.ma.core._mareconstruct", "scipy.sparse._csr.csr_matrix", "scipy.sparse._csc.csc_matrix", "scipy.sparse._coo.coo_matrix", "scipy.sparse._csr.csr_array", "scipy.sparse._csc.csc_array", "scipy.sparse._coo.coo_array", "scipy.sparse.csr.csr_matrix", "scipy.sparse.csc.csc_matrix", "scipy.interpolate._interpolate.interp1d", "scipy.interpolate._bsplines.BSpline", "collections.OrderedDict", "collections.defaultdict", "builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.slice", "builtins.complex", "builtins.object", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.int", "builtins.float", "builtins.bool", "builtins.str", "builtins.bytes", "builtins.range", "copyreg._reconstructor", "copy_reg._reconstructor", "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch", "sklearn.utils.Bunch", "sklearn.neighbors._kd_tree.KDTree64", "sklearn.neighbors._kd_tree.KDTree32", "sklearn.neighbors._kd_tree.KDTree", "sklearn.neighbors._kd_tree.newObj", "sklearn.neighbors._ball_tree.newObj", "sklearn.neighbors._ball_tree.BallTree64", "sklearn.neighbors._ball_tree.BallTree32", "sklearn.neighbors._ball_tree.BallTree", "sklearn.metrics._dist_metrics.newObj", "sklearn.metrics._dist_metrics.EuclideanDistance64", "sklearn.metrics._dist_metrics.EuclideanDistance32", "sklearn.metrics._dist_metrics.EuclideanDistance", "sklearn.metrics._dist_metrics.ManhattanDistance64", "sklearn.metrics._dist_metrics.MinkowskiDistance64", "sklearn.metrics._dist_metrics.ChebyshevDistance64", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn._loss.loss.HalfBinomialLoss", "sklearn._loss.loss.HalfMultinomialLoss", "sklearn._loss.loss.HalfSquaredError", "sklearn._loss.loss.ExponentialLoss", "sklearn._loss.loss.AbsoluteError", "sklearn._loss.loss.HuberLoss", "sklearn._loss.loss.PinballLoss", "sklearn._loss.loss.HalfPoissonLoss", "sklearn._loss.loss.HalfGammaLoss", "sklearn._loss._loss.CyHalfBinomialLoss", "sklearn._loss._loss.CyHalfMultinomialLoss", "sklearn._loss._loss.CyHalfSquaredError", "sklearn._loss._loss.CyExponentialLoss", "sklearn._loss._loss.CyAbsoluteError", "sklearn._loss._loss.CyHuberLoss", "sklearn._loss._loss.CyPinballLoss", "sklearn._loss._loss.CyHalfPoissonLoss", "sklearn._loss._loss.CyHalfGammaLoss", "sklearn._loss._loss.__pyx_unpickle_CyHalfSquaredError", "sklearn._loss._loss.__pyx_unpickle_CyHalfBinomialLoss", "sklearn._loss._loss.__pyx_unpickle_CyHalfMultinomialLoss", "sklearn._loss._loss.__pyx_unpickle_CyExponentialLoss", "sklearn._loss._loss.__pyx_unpickle_CyAbsoluteError", "sklearn._loss._loss.__pyx_unpickle_CyHalfPoissonLoss", "sklearn._loss._loss.__pyx_unpickle_CyHalfGammaLoss", "sklearn._loss.link.LogitLink", "sklearn._loss.link.MultinomialLogit", "sklearn._loss.link.IdentityLink", "sklearn._loss.link.LogLink", "sklearn._loss.link.HalfLogitLink", "sklearn._loss.link.Interval", "sklearn.linear_model._sgd_fast.Hinge", "sklearn.linear_model._sgd_fast.Log", "sklearn.linear_model._sgd_fast.SquaredLoss", "sklearn.linear_model._sgd_fast.ModifiedHuber", "sklearn.linear_model._sgd_fast.SquaredHinge", "sklearn.linear_model._sgd_fast.Huber", "sklearn.linear_model._sgd_fast.EpsilonInsensitive", "sklearn.linear_model._sgd_fast.SquaredEpsilonInsensitive", "sklearn.compose._column_transformer._RemainderColsList", "sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration"]
)
_NUMPY_SCALARS = frozenset(
    f"numpy.{name}"
    for name in ["bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128", "str_", "bytes_", "intp", "object_", "datetime64", "timedelta64", "longlong", "ulonglong", "intc", "uintc"]
)
_NUMPY_DTYPES = re.compile(r"numpy\.dtypes\.[A-Z][A-Za-z0-9]*DType")

_OPENERS: tuple[tuple[bytes, Callable[[Path], BinaryIO]], ...] = (
    (b"\x1f\x8b", lambda p: gzip.open(p)),  # type: ignore[list-item,return-value]
    (b"BZh", lambda p: bz2.open(p)),  # type: ignore[list-item,return-value]
    (b"\xfd7zXZ", lambda p: lzma.open(p)),  # type: ignore[list-item,return-value]
    (b"\x5d\x00", lambda p: lzma.open(p)),  # type: ignore[list-item,return-value]
)
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
    except UntrustedModelError:
        raise
    except MemoryError as e:
        raise InputError(f"{path}: damaged: it asks for more memory than there is") from e
    except Exception as e:  # a damaged pickle can raise anything
        raise InputError(f"{path}: damaged or not readable by this scikit-learn: {type(e).__name__}: {_line(e)}") from e


class GuardedUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]  # the C one cannot read between opcodes
    """An unpickler that knows an allow-list, and joblib's arrays that lie between the opcodes."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

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
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].read(self)

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


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec has a place in a model."""
    if encoding not in {"latin1", "latin-1"}:
        raise UntrustedModelError(f"a model asks for _codecs.encode with the codec {encoding!r}; allowed: latin1")
    return text.encode("latin1")


def _permitted(module: str, name: str, path: Path) -> Any:
    asked = f"{module}.{name}"
    exact = asked in _EXACT or asked in _NUMPY_SCALARS or _NUMPY_DTYPES.fullmatch(asked)
    parts = module.split(".")
    estimator = parts[0] == "sklearn" and len(parts) > 1 and parts[1] in _SKLEARN_PACKAGES and "tests" not in parts
    if not all(_IDENTIFIER.fullmatch(p) for p in [*parts, name]) or not (exact or estimator):
        raise UntrustedModelError(f"{path}: asks for {asked}, {_hint(parts[0])}; nothing of it has run")
    module = {"copy_reg": "copyreg"}.get(module, module)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise InputError(f"{path}: needs {asked}, which the installed version does not have") from e
    if not exact and not _is_estimator(found):
        raise UntrustedModelError(f"{path}: asks for {asked}, which is no estimator class; nothing of it has run")
    return found


def _hint(package: str) -> str:
    if package in {"xgboost", "lightgbm", "catboost"}:
        return f"and models of {package} are not supported in a pickle; export it to ONNX with onnxmltools and give the .onnx"
    return "which is outside the allow-list (scikit-learn estimators, numpy and scipy arrays, joblib)"


def _is_estimator(thing: Any) -> bool:
    from sklearn.base import BaseEstimator

    return isinstance(thing, type) and issubclass(thing, BaseEstimator)


def _opened(path: Path, head: bytes) -> BinaryIO:
    for magic, opener in _OPENERS:
        if head.startswith(magic):
            return opener(path)
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
