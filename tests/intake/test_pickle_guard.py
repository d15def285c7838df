"""Hostile files, each made for one way around an unpickler; a file that appears is proof that something ran."""

import io
import os
import pickle
import pickletools
import subprocess

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.pickle_guard import load_model

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused(path, name, proof=None):
    with pytest.raises(UntrustedModelError, match=name.replace(".", r"\.")):
        load_model(path)
    assert proof is None or not proof.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_shell_command_is_refused_by_name_and_has_not_run(tmp_path, protocol):
    proof, path = tmp_path / "proof", tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {proof}"), protocol=protocol))
    refused(path, "posix.system", proof)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1+1",), "builtins.eval"),
        (exec, ("x=1",), "builtins.exec"),
        (getattr, (os, "system"), "builtins.getattr"),
        (__import__, ("os",), "builtins.__import__"),
        (subprocess.Popen, (["true"],), "subprocess.Popen"),
        (open, ("x", "w"), "io.open"),
        (np.load, ("x.npy",), "numpy.load"),
        (pickle.loads, (b"N.",), "_pickle.loads"),
        (joblib.load, ("x",), "joblib.numpy_pickle.load"),
    ],
)
def test_a_function_outside_the_list_is_refused(tmp_path, function, arguments, name):
    path = tmp_path / "m.pkl"
    # getattr's module argument cannot be pickled; the name is all that matters.
    safe = tuple(a for a in arguments if not isinstance(a, type(os)))
    path.write_bytes(pickle.dumps(Calls(function, *safe)))
    refused(path, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy.f2py.crackfortran", "myeval"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.testing", "rundocs"),
        ("numpy", "memmap"),
        ("numpy.distutils.exec_command", "exec_command"),
        ("scipy.io", "savemat"),
        ("scipy.io", "loadmat"),
        ("joblib.externals.cloudpickle.cloudpickle", "_make_function"),
        ("joblib._memmapping_reducer", "make_memmap"),
        ("joblib.memory", "Memory"),
        ("sklearn.utils._testing", "check_skip_network"),
        ("sklearn.datasets", "fetch_openml"),
        ("sklearn.datasets", "load_svmlight_file"),
        ("sklearn.externals.array_api_compat", "numpy"),
        ("sklearn.tree", "export_graphviz"),
        ("sklearn.ensemble._forest", "Parallel"),
        ("sklearn.ensemble._forest", "threading"),
        ("sklearn.pipeline", "clone"),
        ("sklearn.model_selection", "cross_val_score"),
        ("sklearn.linear_model", "os.system"),
        ("sklearn.linear_model._base", "BaseEstimator.__class__"),
        ("builtins", "type.__subclasses__"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("runpy", "run_path"),
        ("ctypes", "CDLL"),
    ],
)
def test_known_gadgets_are_refused_by_stack_global_too(tmp_path, module, name):
    """STACK_GLOBAL with any module and dotted name, then REDUCE."""
    path = tmp_path / "m.pkl"
    code = pickle.PROTO + b"\x04"
    for text in (module, name):
        code += pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
    path.write_bytes(code + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.STOP)
    refused(path, f"{module}.{name}")


def test_inst_and_obj_opcodes_are_refused(tmp_path):
    path = tmp_path / "m.pkl"
    path.write_bytes(b"(S'true'\nios\nsystem\n.")
    refused(path, "os.system")


@pytest.mark.parametrize(
    "opcode", [pickle.EXT1 + b"\x01", pickle.EXT2 + b"\x01\x00", pickle.EXT4 + b"\x01\x00\x00\x00"]
)
def test_extension_codes_are_refused_even_when_registered(tmp_path, opcode):
    import copyreg

    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.PROTO + b"\x04" + opcode + pickle.STOP)
    copyreg.add_extension("os", "system", 1)
    try:
        refused(path, "extension 1")
    finally:
        copyreg.remove_extension("os", "system", 1)


def test_persistent_ids_are_refused(tmp_path):
    path = tmp_path / "m.pkl"
    path.write_bytes(b"Psomewhere\n.")
    refused(path, "somewhere")


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("xz", 3)])
def test_a_pickle_nested_in_a_joblib_array_is_refused(tmp_path, compress):
    """joblib reads object arrays with an unguarded unpickler of its own."""
    proof, path = tmp_path / "proof", tmp_path / "m.joblib"
    hostile = np.array([Calls(os.system, f"touch {proof}")], dtype=object)
    joblib.dump({"coef": hostile}, path, compress=compress)
    refused(path, "posix.system", proof)


def test_a_hostile_function_inside_an_honest_estimator_is_refused(tmp_path):
    path = tmp_path / "m.pkl"
    pipeline = make_pipeline(FunctionTransformer(os.system), LogisticRegression())
    path.write_bytes(pickle.dumps(pipeline))
    refused(path, "posix.system")


def test_another_codec_than_latin1_is_refused(tmp_path):
    import codecs

    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Calls(codecs.encode, "x", "rot13"), protocol=2))
    refused(path, "rot13")


def test_a_skops_file_with_a_foreign_type_is_refused(tmp_path):
    path = tmp_path / "m.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(os.system), LogisticRegression()), path)
    refused(path, "posix.system")


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        MLPClassifier((5,), max_iter=20),
        RandomForestClassifier(5),
        GradientBoostingClassifier(n_estimators=3),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("way", ["pickle0", "pickle2", "pickle5", "joblib", "joblib-zlib", "joblib-lzma", "skops"])
def test_honest_models_load_and_answer_alike(tmp_path, model, way):
    model.fit(X, Y)
    path = tmp_path / "m"
    match way.partition("-"):
        case ("joblib", _, compression):
            joblib.dump(model, path, compress=(compression, 3) if compression else 0)
        case ("skops", _, _):
            skops.io.dump(model, path)
        case _:
            path.write_bytes(pickle.dumps(model, protocol=int(way[-1])))
    np.testing.assert_array_equal(load_model(path).predict_proba(X), model.predict_proba(X))


def test_every_truncation_of_a_pickle_is_an_input_error(tmp_path):
    content = pickle.dumps(LogisticRegression().fit(X, Y))
    path = tmp_path / "m.pkl"
    for end in range(0, len(content) - 1, 37):
        path.write_bytes(content[:end])
        with pytest.raises(InputError):
            load_model(path)


def test_the_guard_decides_before_the_module_is_imported(tmp_path):
    """`this` prints at import; antigravity opens a browser."""
    import sys

    path = tmp_path / "m.pkl"
    path.write_bytes(b"cantigravity\nfly\n.")
    refused(path, "antigravity.fly")
    assert "antigravity" not in sys.modules


def test_the_files_of_these_tests_would_do_harm_without_the_guard(tmp_path):
    """The tests above can fail: the plain unpickler runs the same file."""
    proof = tmp_path / "proof"
    content = pickle.dumps(Calls(os.system, f"touch {proof}"))
    assert "system" in str(list(pickletools.genops(io.BytesIO(content))))
    pickle.loads(content)
    assert proof.exists()


@pytest.mark.parametrize(("field", "value"), [("left_child", 0), ("right_child", 10**6), ("feature", 77)])
def test_a_tree_that_leads_nowhere_is_refused_before_anything_walks_it(tmp_path, field, value):
    """scikit-learn would crash on it, or never end."""
    from sklearn.tree import DecisionTreeClassifier

    random = np.random.default_rng(0)
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(random.random((50, 4)), random.integers(0, 2, 50))
    state = model.tree_.__getstate__()
    nodes = state["nodes"].copy()
    nodes[field][0] = value
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(model).replace(state["nodes"].tobytes(), nodes.tobytes()))
    with pytest.raises(InputError, match="damaged: a tree"):
        load_model(path)
