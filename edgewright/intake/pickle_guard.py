"""Loading scikit-learn models without trusting them: an allow-list decides on every name before it is even imported.

A pickle is a program; what it may call is decided by `Unpickler.find_class`. Allowed are estimator classes of
scikit-learn (their constructors and ``__setstate__`` only set attributes), the few internal classes that fitted
estimators hold, models of XGBoost and LightGBM (whose boosters `booster_guard` looks at before their libraries' parsers
do), and what rebuilds numpy and scipy arrays. Functions are not allowed, save those that rebuild arrays and those of
numpy that take one number to another. Nothing but what was named so is ever called: not an object that the file made
before. What a model calls by a name that it holds (``stack_method_``) is one of scikit-learn's own methods.
Runs in a child process: imports scikit-learn when a model asks for it.

Written by hand, since what an allowed class is called with, and what it then holds, matters as much as its name:
checkers of pickles (picklescan, fickling) judge the names that a file imports, and skops' own check is for its format.
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

from edgewright.errors import InputError, UnsupportedError, UntrustedModelError
from edgewright.failures import one_line
from edgewright.intake.archives import normalized
from edgewright.intake.booster_guard import inspect_booster, refuse_arguments
from edgewright.intake.fitted_counts import inspect_counts
from edgewright.intake.fitted_trees import inspect_if_tree
from edgewright.intake.pickle_names import ESTIMATOR_PACKAGES, EXACT, FUNCTIONS, FUNCTIONS_WITHOUT_PATH
from edgewright.intake.pickle_rebuilding import inspect_if_sparse, rebuilding, refuse_special_names
from edgewright.intake.pickle_stand_ins import is_function, is_only_held, shown, stand_in, zone
from edgewright.intake.skops_guard import load_inspected

__all__ = ["load_model"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_NUMPY_DTYPES = re.compile(r"numpy\.dtypes\.[A-Z][A-Za-z0-9]*DType")

_MODULES_OF_COMPRESSION: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip),
    (b"BZh", bz2),
    (b"\xfd7zXZ", lzma),
    # The older .lzma format has no magic of its own: the default properties, and a dictionary of a multiple of 256.
    (b"\x5d\x00", lzma),
)
_MODULES_OF_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # how protocols 0 to 2 write them
# What joblib's zlib streams unpack to is read whole; the others are read as they are asked for.
_MAX_UNPACKED_BYTES = 4 << 30


def load_model(path: Path) -> Any:
    """A scikit-learn model out of a pickle, a joblib file (also compressed) or a ``.skops`` file.

    Raises:
        UntrustedModelError: it asks for a name outside the allow-list; nothing of it has run.
        UnsupportedError: it applies a function of numpy that has no path.
        InputError: damaged, truncated, or in need of a package that is not installed.
    """
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"PK"):
        with normalized(path) as copy:
            return _load_skops(copy)
    try:
        with _opened(path, head) as stream:
            return _inspected(GuardedUnpickler(stream, path).load(), path)
    except (InputError, UnsupportedError) as e:
        if str(path) in str(e):
            raise
        raise type(e)(f"{path}: {e}") from e  # of what stands for a name, which knows no file
    except MemoryError as e:
        raise InputError(f"{path}: damaged: it asks for more memory than there is") from e
    except Exception as e:  # a damaged pickle can raise anything
        raise InputError(f"{path}: damaged or not readable by this scikit-learn: {one_line(e, 200)}") from e


# The unpickler in C cannot be stopped between opcodes, where joblib puts its arrays.
_PythonUnpickler = pickle._Unpickler
_OPCODES: dict[int, Any] = dict(_PythonUnpickler.dispatch)


class GuardedUnpickler(_PythonUnpickler):
    """An unpickler that knows an allow-list, and joblib's arrays that lie between the opcodes."""

    stack: list[Any]
    metastack: list[list[Any]]
    memo: dict[int, Any]
    # A copy: the entries below must not change pickle's own table, by which other code unpickles.
    dispatch: ClassVar[dict[int, Any]] = dict(_OPCODES)

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__(stream)
        self.stream, self.path = stream, path
        # By identity: equality is what an object of the file may define. Kept, so that no object of the file gets the
        # identity of a name that is gone.
        self._named: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The object behind a name, if it is allowed."""
        named = self._found(module, name)
        self._named[id(named)] = named
        return named

    def _found(self, module: str, name: str) -> Any:
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return _JoblibArray
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        plain = _MODULES_OF_PYTHON_2.get(module, module)
        rebuilt = rebuilding(plain, name)
        if rebuilt is not None:
            return rebuilt
        standing = stand_in(plain, name)
        if standing is None:
            return _permitted(module, name, self.path)
        if name == "getattr":
            self._named[id(zone)] = zone  # what it gives is called
        return standing

    def get_extension(self, code: int) -> None:
        """Extension codes stand for names that the file does not show."""
        raise UntrustedModelError(f"{self.path}: asks for the registered extension {code}; such codes are not allowed")

    def persistent_load(self, pid: Any) -> Any:
        """Persistent ids point outside the file."""
        raise UntrustedModelError(f"{self.path}: asks for the external object {shown(pid)}; none may be referred to")

    def _is_named(self, thing: Any) -> bool:
        return id(thing) in self._named

    def _named_alone(self, place: int, opcode: int) -> None:
        """Let an opcode call what stands on the stack only if it was named: an object of the file has methods too."""
        if not self._is_named(self.stack[place]):
            raise UntrustedModelError(
                f"{self.path}: calls an object of {type(self.stack[place]).__name__}, not a class or a function of the "
                "allow-list; nothing of it has run"
            )
        _OPCODES[opcode](self)

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        """OBJ and INST: call with what lies above the mark."""
        refuse_arguments(kind, self.path)
        super()._instantiate(kind, arguments)  # type: ignore[misc]

    def load_reduce(self) -> None:
        """REDUCE: call with a tuple of arguments."""
        # The stack below the arguments holds what is called: [..., callable, arguments].
        refuse_arguments(self.stack[-2], self.path)
        self._named_alone(-2, pickle.REDUCE[0])

    def load_newobj(self) -> None:
        """NEWOBJ: ``__new__`` with a tuple of arguments."""
        self._named_alone(-2, pickle.NEWOBJ[0])

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same with named arguments."""
        self._named_alone(-3, pickle.NEWOBJ_EX[0])

    def load_obj(self) -> None:
        """OBJ: call with what lies above the mark."""
        # OBJ: the class is the first above the mark, at the bottom of the current stack.
        self._named_alone(0, pickle.OBJ[0])

    def _filled(self, kinds: tuple[type, ...], container: Any, opcode: int) -> None:
        # pickle calls append, add or __setitem__ of whatever stands there: objects of the file have their own.
        if not isinstance(container, kinds):
            raise UntrustedModelError(
                f"{self.path}: fills an object of {type(container).__name__} as if it were a "
                f"{kinds[0].__name__}; nothing of it has run"
            )
        _OPCODES[opcode](self)

    def load_append(self) -> None:
        """APPEND to a list."""
        self._filled((list,), self.stack[-2], pickle.APPEND[0])

    def load_appends(self) -> None:
        """APPENDS to a list what lies above the mark."""
        # The container lies under the mark: last of the stack that the mark has put aside.
        self._filled((list,), self.metastack[-1][-1], pickle.APPENDS[0])

    def load_setitem(self) -> None:
        """SETITEM of a dict."""
        self._filled((dict,), self.stack[-3], pickle.SETITEM[0])

    def load_setitems(self) -> None:
        """SETITEMS of a dict to what lies above the mark."""
        self._filled((dict,), self.metastack[-1][-1], pickle.SETITEMS[0])

    def load_additems(self) -> None:
        """ADDITEMS to a set."""
        self._filled((set,), self.metastack[-1][-1], pickle.ADDITEMS[0])

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_build(self) -> None:
        """BUILD; where it completes a joblib array, its bytes follow in the stream."""
        # A class or function of the allow-list is shared by the whole process: a state would change it for all.
        if self._is_named(self.stack[-2]):
            raise UntrustedModelError(
                f"{self.path}: changes {getattr(self.stack[-2], '__name__', 'a name')} itself; nothing of it has run"
            )
        # numpy's __setstate__ is not called: see _build_dtype.
        if isinstance(self.stack[-2], np.dtype):
            self._build_dtype()
            return
        refuse_special_names(self.stack[-1], self.path)
        # Before the library's own parser gets the bytes.
        inspect_booster(type(self.stack[-2]), self.stack[-1], self.path)
        _OPCODES[pickle.BUILD[0]](self)
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].read(self)
        else:
            # Here for objects that the file uses before it ends; `_inspected` looks again at what they came to hold.
            inspect_if_tree(self.stack[-1], self.path)
            inspect_if_sparse(self.stack[-1], self.path)

    def _build_dtype(self) -> None:
        """A dtype made anew of its state: numpy takes flags as they are, and by wrong ones reads memory as objects."""
        state, plain = self.stack.pop(), self.stack[-1]
        self.stack[-1] = dtype = _dtype_of(plain, state, self.path)
        # The memo holds the dtype as it was before its state: later references must get the new one.
        for place, held in self.memo.items():
            if held is plain:
                self.memo[place] = dtype

    dispatch[pickle.BUILD[0]] = load_build


def _dtype_of(plain: Any, state: Any, path: Path) -> Any:
    """The dtype that pickle writes as ``plain`` and a state: (version, byte order, None, names, fields, size, ...).

    Raises:
        InputError: a state that numpy does not write for numbers, texts, objects or records of numbers.
    """
    try:
        order, shape, names, fields, size = state[1:6]
        # A subarray: pickle writes it as a void dtype with (base, shape).
        if plain.kind == "V" and shape is not None and names is None and fields is None:
            dtype = np.dtype((shape[0], tuple(int(n) for n in shape[1])))
            if isinstance(shape[0], np.dtype) and not dtype.hasobject:
                return dtype
        elif order in "<>|=" and len(order) == 1 and shape is None and names is None and fields is None:
            # Dates and durations: state[8] holds (metadata, (unit, count, ...)).
            if plain.kind in "mM":
                unit, count = state[8][1][:2]
                plain = np.dtype(f"{plain.kind}8[{int(count)}{unit.decode()}]")
            # numpy counts the width of texts in bytes, four to a character of U.
            if plain.kind in "SUV" and size not in {-1, plain.itemsize}:
                plain = np.dtype(f"{plain.kind}{size // 4 if plain.kind == 'U' else size}")
            return plain if order in "|=" else plain.newbyteorder(order)
        # A record: fields are (dtype, offset), as np.dtype takes them in a dictionary.
        elif plain.kind == "V" and shape is None and set(names) == set(fields):
            parts = [fields[name] for name in names]
            dtype = np.dtype({"names": list(names), "formats": [p[0] for p in parts], "offsets": [p[1] for p in parts],
                              "itemsize": size})  # fmt: skip
            if not dtype.hasobject:
                return dtype
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as e:
        raise InputError(f"{path}: damaged: an array of no known type: {one_line(e, 200)}") from e
    raise InputError(f"{path}: damaged: an array of no known type: {shown(state)} for {plain}")


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
            # Padding before the numbers, so that they can be mapped into memory: its length is one byte.
            unpickler.stream.read(unpickler.stream.read(1)[0])
        count = int(np.prod(self.shape, dtype=np.int64))
        content = unpickler.stream.read(count * self.dtype.itemsize)
        if len(content) != count * self.dtype.itemsize:
            raise EOFError("an array ends before its last element")
        # bytearray, since an array over bytes is read-only, and estimators write into theirs.
        flat = np.frombuffer(bytearray(content), dtype=self.dtype, count=count)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


# By these names an estimator of scikit-learn is asked for its answers; "auto" and None choose among them.
_METHODS = frozenset(
    {"predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples", "auto", None}
)
_CALLED_BY_NAME = frozenset({"stack_method", "stack_method_", "response_method", "_response_method", "predict_method"})


def _inspected(model: Any, path: Path) -> Any:
    """The model, all of whose trees are whole, and whose parts call others by names of scikit-learn's methods alone.

    Raises:
        InputError: a damaged tree.
        UntrustedModelError: another name.
    """
    # By identity, since objects refer to each other in circles; no recursion, since chains may be long.
    seen: dict[int, Any] = {}  # kept, so that none is passed over for the identity of one that is gone
    waiting = [model]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        inspect_if_tree(thing, path)
        inspect_if_sparse(thing, path)
        inspect_counts(thing, path)
        # Of a class the __dict__ is its own code.
        held = getattr(thing, "__dict__", None) if not isinstance(thing, type) else None
        if not is_function(thing):  # those have their own: of their name, of what they wrap
            refuse_special_names(held, path)
        if type(thing).__name__ == "Bunch":  # what it holds are its attributes
            refuse_special_names(dict(thing), path)
        for key, value in held.items() if isinstance(held, dict) else ():
            names = value if isinstance(value, (list, tuple)) else [value]
            others = [n for n in names if not (isinstance(n, (str, type(None))) and n in _METHODS)]
            if key in _CALLED_BY_NAME and others:
                raise UntrustedModelError(
                    f"{path}: {key} is {shown(others[0])}, no method that answers; nothing has run"
                )
            # RFE reads an attribute of that name, also a path of names, of its estimator.
            if key == "importance_getter" and isinstance(value, str) and "__" in value:
                raise UntrustedModelError(f"{path}: importance_getter is {value[:80]}, no attribute of a model")
        waiting += _parts(thing, held)
    return model


def _parts(thing: Any, held: Any) -> list[Any]:
    if isinstance(thing, dict):
        return [*thing.values(), *(held or {}).values()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    if isinstance(thing, np.ndarray):
        return list(thing.flat) if thing.dtype.hasobject else []
    return list(held.values()) if isinstance(held, dict) else []


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec has a place in a model."""
    if encoding not in {"latin1", "latin-1"}:
        raise UntrustedModelError(f"a model asks for _codecs.encode with the codec {shown(encoding)}; allowed: latin1")
    return text.encode("latin1")


def _permitted(module: str, name: str, path: Path) -> Any:
    module = _MODULES_OF_PYTHON_2.get(module, module)
    asked = f"{module}.{name}"
    exact = asked in EXACT or _NUMPY_DTYPES.fullmatch(asked)
    # The package's own tests hold estimators, too, which do what a test needs.
    parts = module.split(".")
    estimator = parts[0] == "sklearn" and len(parts) > 1 and parts[1] in ESTIMATOR_PACKAGES and "tests" not in parts
    if asked in FUNCTIONS_WITHOUT_PATH:
        raise UnsupportedError(
            f"{path}: applies the function numpy.{name}, which has no path; these of numpy have one: "
            f"{', '.join(sorted(FUNCTIONS))}; apply another one to the data before the model"
        )
    # An empty or dotted part would make the import walk elsewhere than the check looked.
    if not all(_IDENTIFIER.fullmatch(p) for p in [*parts, name]) or not (exact or estimator):
        raise UntrustedModelError(f"{path}: asks for {asked}, {_hint(parts[0])}; nothing of it has run")
    try:
        member = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        if e.name == parts[0]:
            raise InputError(f"{path}: needs {parts[0]}, which is not installed; install it and try again") from e
        raise InputError(f"{path}: needs {asked}, which the installed version does not have") from e
    except (ImportError, AttributeError) as e:
        raise InputError(f"{path}: needs {asked}, which the installed version does not have") from e
    # The package is allowed, not all that stands in it: functions and base classes of another kind are refused.
    if not exact and not _is_estimator(member):
        raise UntrustedModelError(f"{path}: asks for {asked}, which is not an estimator class; nothing of it has run")
    return member


def _hint(package: str) -> str:
    if package == "catboost":
        return "a model of catboost: not supported in a pickle; save it as ONNX (save_model, format='onnx')"
    if package in {"xgboost", "lightgbm"}:
        return f"which is outside the allow-list (of {package}: estimators with their boosters)"
    if package == "scipy":
        return "which is outside the allow-list (of scipy: arrays; of a search, save its best_estimator_)"
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
        # What is cut off at the limit ends as a truncated pickle.
        content = unpacker.decompress(path.read_bytes(), _MAX_UNPACKED_BYTES)
        return io.BytesIO(content)
    return path.open("rb")


def _load_skops(path: Path) -> Any:
    import skops.io

    try:
        # It reads the schema alone; nothing is built before every name was looked at.
        asked = skops.io.get_untrusted_types(file=path)
    except Exception as e:  # a damaged archive can raise anything
        raise InputError(f"{path}: damaged .skops file: {one_line(e, 200)}") from e
    trusted = []
    for name in asked:
        module, _, leaf = str(name).rpartition(".")
        if not is_only_held(module, leaf):
            _permitted(module, leaf, path)
        trusted.append(str(name))
    try:
        model = load_inspected(path, trusted)
    except (InputError, UntrustedModelError):
        raise
    except Exception as e:
        raise InputError(f"{path}: damaged .skops file: {one_line(e, 200)}") from e
    return _inspected(model, path)
