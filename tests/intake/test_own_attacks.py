"""Files that go round a guard by what it allows: helpers that rebuild, names that libraries ask for, states that lie.

Each is opened by the code that opens every source: one line, nothing run, nothing written. Those that write are opened
too with the guards of pickles switched off, where the sandbox holds.
"""

import copyreg
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
import skops.io
from numpy.random import _pickle as numbers
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.metrics._scorer import _PassthroughScorer
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.neighbors import _kd_tree
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from edgewright.child import run_in_child
from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError, InputError, UntrustedModelError
from edgewright.intake import preflight
from edgewright.intake.pickle_guard import load_model
from tests.intake.test_pickle_guard import Calls, by_hand, stacked
from tests.intake.test_reported_attacks import ask_pickle

X = np.random.default_rng(0).normal(size=(60, 2))
Y = (X[:, 0] > 0).astype(int)
EXTENSION = 217


def _caller() -> Any:
    """Asks its first argument for a score of the others."""
    return _PassthroughScorer(LinearRegression())


def _writer() -> Pipeline:
    """Asked for a score of a path it writes there: the stack in it calls a method of an array by its name."""
    stack = stacked("tofile")
    stack.estimators_ = [np.zeros(1)]
    return Pipeline([("s", stack), ("f", LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))])


def _with(name: str, value: Any) -> Any:
    thing = StandardScaler()
    thing.__dict__[name] = value
    return thing


def _address() -> dict[str, Any]:
    return {"data": (8, True), "shape": (18,), "typestr": "|u1", "version": 3}


def _dumped(path: Path, thing: Any, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(thing, protocol=protocol))


def reconstructor(path: Path, proof: Path) -> None:
    """``base.__new__(kind, state)`` of an object whose ``__new__`` is a scorer."""
    _dumped(path, Calls(copyreg._reconstructor, _writer(), _with("__new__", _caller()), str(proof)), protocol=4)


def reconstructor_of_an_object(path: Path, _: Path) -> None:
    _dumped(path, Calls(copyreg._reconstructor, StandardScaler(), object, None))


def initializer(path: Path, proof: Path) -> None:
    """``base.__init__(made, state)``."""
    base = _with("__init__", _caller())
    _dumped(path, Calls(copyreg._reconstructor, StandardScaler, base, str(proof)))


def random_state(path: Path, _: Path) -> None:
    """A constructor of random bits that is a scorer of the file."""
    _dumped(path, Calls(numbers.__dict__["__randomstate_ctor"], "MT19937", _caller()))


def generator(path: Path, _: Path) -> None:
    _dumped(path, Calls(numbers.__dict__["__generator_ctor"], LinearRegression()))


def masked(path: Path, _: Path) -> None:
    _dumped(path, Calls(np.ma.core._mareconstruct, _caller(), np.ndarray, (1,), "f8"))


def new_object(path: Path, _: Path, *, of: Callable[..., Any]) -> None:
    _dumped(path, Calls(of, StandardScaler()))


def memory(path: Path, _: Path, *, into: Any) -> None:
    """An object that says where in memory its numbers lie."""
    _dumped(path, Calls(into, _with("__array_interface__", _address())))


def memory_of_a_bunch(path: Path, _: Path) -> None:
    """The same of one that answers for any name that it holds."""
    held = Bunch()
    held["__array_interface__"] = _address()
    _dumped(path, Calls(np.float64, held))


def slots(path: Path, _: Path) -> None:
    """A state whose second half is set attribute by attribute: the class of an object is one."""
    by_hand(path, _caller(), ({"a": 1}, {"__class__": LinearRegression}), pickle.BUILD)


def state_setter(path: Path, _: Path) -> None:
    by_hand(path, StandardScaler(), {"__setstate__": _caller()}, pickle.BUILD)


def extension_within_an_array(path: Path, _: Path) -> None:
    """A registered code in the pickle that lies within joblib's own."""
    copyreg.add_extension("posix", "system", EXTENSION)
    try:
        joblib.dump({"a": np.array([Calls(__import__("os").system, "true")], dtype=object)}, path, protocol=2)
    finally:
        copyreg.remove_extension("posix", "system", EXTENSION)


def persistent_within_an_array(path: Path, _: Path) -> None:
    joblib.dump({"a": np.array([None], dtype=object)}, path, protocol=2)
    before, _, _ = path.read_bytes().partition(b"\x80\x05")
    path.write_bytes(before + b"\x80\x02X\x04\0\0\0XXXXQ." + b"s.")


def memo_of_a_class(path: Path, _: Path) -> None:
    """A class from the memo whose own attributes are set."""
    name = b"csklearn.preprocessing._data\nStandardScaler\n"
    path.write_bytes(b"\x80\x02" + name + b"q\x070h\x07}U\x01aK\x01sb.")


def sparse(path: Path, _: Path, *, kind: Any) -> None:
    """Coefficients whose indices lead out of their memory."""
    model = LogisticRegression().fit(X, Y)
    held = kind(model.coef_)
    if kind is scipy.sparse.coo_matrix:
        held.coords = (np.array([0, 0], np.int32), np.array([0, 10**8], np.int32))
    else:
        held.indices = np.array([0, 10**8], np.int32)
    model.coef_ = held
    _dumped(path, model)


def skops_memory(path: Path, _: Path) -> None:
    """An estimator of a trusted name, with an address among its attributes."""
    model = LogisticRegression().fit(X, Y)
    model.__dict__["__array_interface__"] = [8, 18]
    skops.io.dump(model, path)


def skops_bunch(path: Path, _: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    model.coef_ = Bunch(**{"__array_interface__": [8, 18]})
    skops.io.dump(model, path)


def skops_sparse(path: Path, _: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    model.coef_ = scipy.sparse.csr_matrix(model.coef_)
    model.coef_.indices = np.array([0, 10**8], np.int32)
    skops.io.dump(model, path)


def skops_path(path: Path, _: Path, *, module: str, name: str) -> None:
    """A type below a trusted package that is none of its estimators."""
    whole = path.with_name("whole.skops")
    skops.io.dump(LogisticRegression().fit(X, Y), whole)
    with zipfile.ZipFile(whole) as honest, zipfile.ZipFile(path, "w") as made:
        schema = json.loads(honest.read("schema.json"))
        schema["content"]["content"]["more"] = {
            "__module__": module,
            "__class__": name,
            "__loader__": "ObjectNode",
            "__id__": 1,
            "content": None,
        }
        for entry in honest.namelist():
            made.writestr(entry, json.dumps(schema) if entry == "schema.json" else honest.read(entry))
    whole.unlink()


ATTACKS = [
    pytest.param("m.pkl", reconstructor, "sets __new__", id="reconstructor"),
    pytest.param("m.pkl", reconstructor_of_an_object, "_reconstructor of an object", id="reconstructor-object"),
    pytest.param("m.pkl", initializer, "sets __init__", id="initializer"),
    pytest.param("m.pkl", random_state, "random numbers of no generator", id="random-state"),
    pytest.param("m.pkl", generator, "random bits of an object of LinearRegression", id="generator"),
    pytest.param("m.pkl", masked, "a masked array of an object", id="masked"),
    pytest.param("m.pkl", partial(new_object, of=_kd_tree.newObj), "newObj of an object", id="new-object"),
    pytest.param("m.pkl", partial(memory, into=np.matrix), "sets __array_interface__", id="memory-matrix"),
    pytest.param("m.pkl", partial(memory, into=np.float64), "sets __array_interface__", id="memory-number"),
    pytest.param("m.pkl", memory_of_a_bunch, r"float\(\) argument", id="memory-bunch"),
    pytest.param("m.pkl", slots, "sets __class__", id="slots"),
    pytest.param("m.pkl", state_setter, "sets __setstate__", id="state-setter"),
    pytest.param("m.joblib", extension_within_an_array, "registered extension 217", id="extension"),
    pytest.param("m.joblib", persistent_within_an_array, "external object 'XXXX'", id="persistent"),
    pytest.param("m.pkl", memo_of_a_class, "changes StandardScaler itself", id="memo"),
    *(
        pytest.param("m.pkl", partial(sparse, kind=kind), "indices lead nowhere", id=kind.__name__)
        for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix, scipy.sparse.csr_array)
    ),
    pytest.param("m.skops", skops_memory, "sets __array_interface__", id="skops-memory"),
    pytest.param("m.skops", skops_bunch, "sets __array_interface__", id="skops-bunch"),
    pytest.param("m.skops", skops_sparse, "indices lead nowhere|damaged", id="skops-sparse"),
    *(
        pytest.param("m.skops", partial(skops_path, module=module, name=name), name, id=f"skops-{name}")
        for module, name in (
            ("sklearn.linear_model._base", "LinearRegression.__class__"),
            ("sklearn.utils._testing", "TempMemmap"),
            ("sklearn.datasets._base", "RemoteFileMetadata"),
            ("numpy", "memmap"),
        )
    ),
]


@pytest.mark.parametrize(("name", "make", "words"), ATTACKS)
def test_what_an_allowed_name_would_do_is_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path, Path], None], words: str
) -> None:
    given, proof = tmp_path / name, tmp_path / "proof"
    make(given, proof)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words) as caught:
        load_model(given)
    assert str(given) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_goes_round_the_guard_writes_nothing_without_it_and_is_refused_before_any_work(tmp_path: Path) -> None:
    given, proof, data = tmp_path / "m.pkl", tmp_path / "proof", tmp_path / "data.npz"
    np.savez(data, x=np.zeros((20, 2), np.float32), y=np.zeros(20))
    reconstructor(given, proof)
    opening = partial(ask_pickle, given, data)

    with pytest.raises(UntrustedModelError, match="sets __new__"):
        preflight(given, DataSpec(path=data))
    with suppress(EdgewrightError):
        run_in_child(opening, returns=str, what="opening it")
    assert not proof.exists()

    with suppress(EdgewrightError):  # it ends in an error once it has written
        run_in_child(opening, returns=str, what="opening it", is_confined=False)
    assert proof.exists()


def test_a_scorer_is_held_and_never_called(tmp_path: Path) -> None:
    model = TunedThresholdClassifierCV(LogisticRegression(), scoring=make_scorer(f1_score), cv=3).fit(X, Y)
    _dumped(tmp_path / "m.pkl", model)
    found = load_model(tmp_path / "m.pkl")
    np.testing.assert_array_equal(found.predict(X), model.predict(X))
    with pytest.raises(UntrustedModelError, match="which a model only holds"):
        found._curve_scorer(found, X, Y)


@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "thing",
    [
        np.random.RandomState(3),
        np.random.RandomState(np.random.PCG64(3)),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        scipy.sparse.csr_matrix(np.eye(3)),
        scipy.sparse.coo_matrix(np.eye(3)),
        Bunch(a=1),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_rebuilt_honestly_comes_back(tmp_path: Path, thing: Any, protocol: int) -> None:
    _dumped(tmp_path / "m.pkl", thing, protocol)
    found = load_model(tmp_path / "m.pkl")
    if isinstance(thing, np.random.RandomState):
        first = pickle.loads(pickle.dumps(thing))
        assert found.uniform() == first.uniform()
    elif scipy.sparse.issparse(thing):
        np.testing.assert_array_equal(found.toarray(), thing.toarray())
    elif isinstance(thing, np.ma.MaskedArray):
        np.testing.assert_array_equal(found.mask, thing.mask)
    else:
        assert (found, found.a) == (thing, 1)
