"""Hostile files, each made for one way around an unpickler; a file that appears is proof that something ran."""

import datetime
import io
import json
import os
import pickle
import pickletools
import subprocess
import time
import zipfile
import zoneinfo
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy.interpolate import BSpline
from scipy.stats import loguniform
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.pickle_guard import GuardedUnpickler, load_model

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


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("schema.json", b"{}", UntrustedModelError, "two entries are called 'schema.json'"),
        ("SCHEMA.json", b"{}", UntrustedModelError, "two entries are called 'SCHEMA.json'"),
        ("../../outside", b"x", InputError, "would be written outside"),
        ("/outside", b"x", InputError, "would be written outside"),
        ("zeros", b" " * (80 << 20), InputError, "at most 100 times the size is allowed"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_skops_archive_that_readers_take_differently_or_that_swells_is_refused(tmp_path, name, content, error, said):
    path = tmp_path / "m.skops"
    skops.io.dump(LogisticRegression().fit(X, Y), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    with pytest.raises(error) as caught:
        load_model(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        ("FunctionNode", "os.system"),
        ("TypeNode", "subprocess.Popen"),
        ("OperatorFuncNode", "operator.methodcaller"),
        ("MethodNode", "numpy.ndarray.tofile"),
    ],
)
def test_a_skops_file_made_by_hand_calls_nothing(tmp_path, loader, name):
    path, forged = tmp_path / "m.skops", tmp_path / "f.skops"
    skops.io.dump(LogisticRegression().fit(X, Y), path)
    with zipfile.ZipFile(path) as honest, zipfile.ZipFile(forged, "w") as made:
        schema = json.loads(honest.read("schema.json"))
        array = next(v for v in schema["content"]["content"].values() if v["__loader__"] == "NdArrayNode")
        owner = name.removesuffix(".tofile")
        schema["content"]["content"]["more"] = {
            "__module__": owner.rpartition(".")[0],
            "__class__": owner.rpartition(".")[2],
            "__loader__": loader,
            "__id__": 1,
            "content": {"func": "tofile", "obj": array},
            "attrs": {"__module__": "builtins", "__class__": "tuple", "__loader__": "TupleNode", "content": []},
        }
        for entry in honest.namelist():
            made.writestr(entry, json.dumps(schema) if entry == "schema.json" else honest.read(entry))
    refused(forged, name)


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


def saved(model, folder, form):
    path = folder / f"m.{form}"
    skops.io.dump(model, path) if form == "skops" else path.write_bytes(pickle.dumps(model))
    return path


@pytest.mark.parametrize("form", ["pkl", "skops"])
@pytest.mark.parametrize(("field", "value"), [("left_child", 0), ("right_child", 10**6), ("feature", 77)])
def test_a_tree_that_leads_nowhere_is_refused_before_anything_walks_it(tmp_path, field, value, form):
    """scikit-learn would crash on it, or never end."""
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    state = model.tree_.__getstate__()
    state["nodes"][field][0] = value
    model.tree_.__setstate__(state)
    with pytest.raises(InputError, match="damaged: a tree"):
        load_model(saved(model, tmp_path, form))


def nested(depth):
    """Lists that hold the next one twice each: written out, it is as long as 2 to the power of their depth."""
    inner = []
    for _ in range(depth):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize("value", [nested(12), (nested(12), "predict"), "__class__"], ids=["list", "tuple", "text"])
def test_what_a_method_is_called_is_not_written_out(tmp_path, value):
    model = StackingClassifier([("a", LogisticRegression())]).fit(X, Y)
    model.stack_method = value
    with pytest.raises(UntrustedModelError, match=r"stack_method is (a list|'__class__'), no method"):
        load_model(saved(model, tmp_path, "pkl"))


def test_an_external_object_is_not_written_out(tmp_path):
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.dump(nested(12))
    content = stream.getvalue()[:-1] + pickle.BINPERSID + pickle.STOP
    (tmp_path / "m.pkl").write_bytes(content)
    with pytest.raises(UntrustedModelError, match="asks for the external object a list; none"):
        load_model(tmp_path / "m.pkl")


class _Told(pickle.Pickler):
    """Writes a tree with another count of its nodes than it has."""

    count = 0

    def reducer_override(self, thing):
        if type(thing).__name__ != "Tree":
            return NotImplemented
        made, given, state = thing.__reduce__()
        return made, given, {**state, "node_count": self.count}


@pytest.mark.parametrize("count", [0, 1])
def test_nodes_behind_the_count_are_not_passed_over(tmp_path, count):
    """The arrays of a tree end at its count; compiled code walks all nodes."""
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    with (tmp_path / "m.pkl").open("wb") as stream:
        pickler = _Told(stream)
        pickler.count = count
        pickler.dump(model)
    with pytest.raises(InputError, match=rf"damaged: a tree of {count} nodes that holds {model.tree_.node_count}"):
        load_model(tmp_path / "m.pkl")


@pytest.mark.parametrize("form", ["pkl", "skops"])
def test_a_tree_without_a_node_is_refused(tmp_path, form):
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    state = model.tree_.__getstate__()
    model.tree_.__setstate__(
        {**state, "node_count": 0, "nodes": state["nodes"][:0].copy(), "values": state["values"][:0].copy()}
    )
    with pytest.raises(InputError, match="damaged: a tree without a node"):
        load_model(saved(model, tmp_path, form))


@pytest.mark.parametrize("form", ["pkl", "skops"])
def test_a_histogram_tree_without_a_node_is_refused(tmp_path, form):
    model = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    tree = model._predictors[0][0]
    tree.nodes = tree.nodes[:0].copy()
    with pytest.raises(InputError, match="damaged: a tree without a node"):
        load_model(saved(model, tmp_path, form))


def _far_row(state):
    state[1][0] = 10**9


def _long_node(state):
    state[2]["idx_end"][0] = 10**9


def _endless_node(state):
    state[2]["is_leaf"][-1] = 0


def _few_bounds(state):
    state[3] = state[3][:, :1].copy()


def _few_columns(state):
    state[3] = state[3][:, :, :1].copy()


@pytest.mark.parametrize("form", ["pkl", "skops"])
@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("change", [_far_row, _long_node, _endless_node, _few_bounds, _few_columns])
def test_a_tree_of_neighbours_leads_to_its_own_rows_only(tmp_path, change, algorithm, form):
    """scikit-learn would read memory that is not the model's."""
    model = KNeighborsClassifier(algorithm=algorithm, leaf_size=5).fit(X, Y)
    state = list(model._tree.__getstate__())
    change(state)
    model._tree.__setstate__(tuple(state))
    with pytest.raises(InputError, match="damaged: a tree of neighbours"):
        load_model(saved(model, tmp_path, form))


WEIGHTED = {"algorithm": "ball_tree", "p": 3, "metric_params": {"w": [1, 2, 3, 4]}}


@pytest.mark.parametrize("form", ["pkl", "skops"])
@pytest.mark.parametrize(
    "options", [{"algorithm": "kd_tree"}, {"algorithm": "kd_tree", "p": 3}, {"metric": "manhattan"}, WEIGHTED]
)
def test_a_whole_tree_of_neighbours_is_taken(tmp_path, options, form):
    model = KNeighborsClassifier(**{"algorithm": "ball_tree", "leaf_size": 5, **options}).fit(X, Y)
    np.testing.assert_array_equal(load_model(saved(model, tmp_path, form)).predict(X), model.predict(X))


def by_hand(path, *parts):
    """A pickle of objects and opcodes one after the other, as no pickler writes it."""
    stream = io.BytesIO()
    pickler = pickle._Pickler(stream, protocol=2)
    pickler.write(pickle.PROTO + b"\x02")
    for part in parts:
        (pickler.write if isinstance(part, bytes) else pickler.save)(part)
    pickler.write(pickle.STOP)
    path.write_bytes(stream.getvalue())


def stacked(method):
    """A fitted stack whose member is an array, asked by a method that the file names."""
    from sklearn.ensemble import StackingRegressor
    from sklearn.linear_model import LinearRegression

    model = StackingRegressor([("a", LinearRegression())])
    model.estimators_, model.stack_method_, model.final_estimator_ = [np.zeros(3)], [method], LinearRegression()
    return model


def test_an_object_of_the_file_is_not_called(tmp_path):
    """scikit-learn's scorers are objects that call any method by a name which the model holds."""
    from sklearn.metrics._scorer import _PassthroughScorer

    proof, path = tmp_path / "proof", tmp_path / "m.pkl"
    by_hand(path, _PassthroughScorer(stacked("tofile")), (LogisticRegression(), str(proof)), pickle.REDUCE)
    refused(path, "_PassthroughScorer", proof)
    by_hand(path, _PassthroughScorer(stacked("tofile")), (str(proof),), pickle.NEWOBJ)
    refused(path, "_PassthroughScorer", proof)


def test_a_method_that_a_model_calls_by_name_is_one_of_scikit_learn_s(tmp_path):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(make_pipeline(StandardScaler(), stacked("tofile"))))
    refused(path, "stack_method_")
    path.write_bytes(pickle.dumps(stacked("predict")))
    assert load_model(path).stack_method_ == ["predict"]
    joblib.dump([{"a": stacked("dump")}], path)
    refused(path, "stack_method_")


def test_a_class_is_not_changed_and_nothing_else_filled_like_a_list(tmp_path):
    path = tmp_path / "m.pkl"
    by_hand(path, LogisticRegression, {"predict": 1}, pickle.BUILD)
    refused(path, "LogisticRegression")
    assert callable(LogisticRegression.predict)
    for opcode, parts in ((pickle.APPEND, (1,)), (pickle.SETITEM, (1, 2)), (pickle.APPENDS, (pickle.MARK, 1))):
        by_hand(path, LogisticRegression(), *parts, opcode)
        refused(path, "as if it were a")


@pytest.mark.parametrize(
    "state",
    [
        (3, "|", None, None, None, -1, -1, 63),  # numbers that are flagged as objects: their bytes would be pointers
        (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0),
        (3, "|", (np.dtype("O"), (2,)), None, None, -1, -1, 0),
        (3, "x", None, None, None, -1, -1, 0),
        (3,),
        None,
    ],
)
def test_a_dtype_is_what_it_says_whatever_its_flags(tmp_path, state):
    """numpy takes the flags of a state as they are, and reads the memory of an array by them."""
    path = tmp_path / "m.pkl"
    by_hand(path, np.dtype, ("f8", False, True), pickle.REDUCE, state, pickle.BUILD)
    if state is not None and len(state) > 6 and state[1] == "|" and state[2:5] == (None,) * 3:
        made = load_model(path)
        assert made == np.dtype("f8")
        assert not made.hasobject
        assert made.flags == np.dtype("f8").flags
    else:
        with pytest.raises(InputError, match="no known type"):
            load_model(path)


@pytest.mark.parametrize("kind", ["f8", ">i4", "U7", "S3", "O", "?", "M8[ns]", [("a", "<i4"), ("b", "f8", (2,))]])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_every_honest_type_come_back(tmp_path, kind, protocol):
    array = np.zeros(3, dtype=kind)
    path = tmp_path / "m.pkl"
    content = pickle.dumps([array, array.dtype, array], protocol)
    path.write_bytes(content)
    first, dtype, again = load_model(path)
    assert dtype == array.dtype
    assert first.dtype == pickle.loads(content)[0].dtype  # numpy makes native numbers of others
    assert first is again
    np.testing.assert_array_equal(first, array)


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (getattr, (zoneinfo.ZoneInfo, "clear_cache"), "getattr"),
        (getattr, (np.ndarray, "tofile"), "getattr"),
        (zoneinfo.ZoneInfo._unpickle, ("../../etc/hosts", 1), "time zone"),
        (f1_score, ([1], [1]), "f1_score"),
        (mutual_info_classif, (X, Y), "mutual_info_classif"),
        (BSpline.basis_element([0, 1, 2])._asarray, ({"data": (1 << 40, False)},), "array of dict"),
    ],
)
def test_what_a_model_only_holds_cannot_be_called(tmp_path, function, arguments, said):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Calls(function, *arguments)))
    refused(path, said)


def test_a_distribution_does_not_run_the_text_that_it_holds(tmp_path):
    """scipy's own class compiles a text of its state."""
    proof, path = tmp_path / "proof", tmp_path / "m.pkl"
    held = loguniform(0.1, 1).dist
    held._parse_arg_template = f"open({str(proof)!r}, 'w')"
    made = LogisticRegression().fit(X, Y)
    made.held = held
    path.write_bytes(pickle.dumps(made))
    np.testing.assert_array_equal(load_model(path).predict(X), made.predict(X))
    assert not proof.exists()
    assert type(load_model(path).held).__module__.startswith("edgewright")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_points_in_time_keep_their_zone(tmp_path, protocol):
    when = pd.to_datetime(["2024-01-01", "2024-07-01"])
    zones = ["UTC", "Europe/Paris", datetime.timezone(datetime.timedelta(hours=2))]
    for zone in zones:
        encoder = OneHotEncoder().fit(pd.DataFrame({"when": when.tz_localize(zone)}))
        path = tmp_path / "m.pkl"
        path.write_bytes(pickle.dumps(encoder, protocol=protocol))
        assert load_model(path).categories_[0].tolist() == encoder.categories_[0].tolist()


def test_a_name_is_found_at_once_among_many():
    """A file may name as many as it has calls: looking through all of them for each took the square of that."""
    unpickler = GuardedUnpickler(io.BytesIO(), Path("m.pkl"))
    for _ in range(40_000):
        unpickler.find_class("collections", "OrderedDict")
    start = time.process_time()
    assert not any(unpickler._is_named(object()) for _ in range(4_000))
    assert time.process_time() - start < 1
