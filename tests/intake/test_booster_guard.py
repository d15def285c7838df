"""XGBoost and LightGBM trust the model that they parse; here it is looked at first, whatever way leads there."""

import io
import json
import pickle
import re
import struct
import zipfile

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost

from benchmarks.boosters import pickled, ubjson
from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.booster_guard import inspect_booster
from edgewright.intake.pickle_guard import load_model
from edgewright.intake.ubjson import read_ubjson

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(120, 4))
KIND = RANDOM.integers(0, 3, 120)
Y = KIND + X[:, 0]
FRAME = pd.DataFrame(X[:, :2]).assign(n=pd.Categorical(KIND * 7), s=pd.Categorical(np.array(["aa", "b", "cc"])[KIND]))
SMALL = {"n_estimators": 3, "max_depth": 3, "n_jobs": 1}
EXACT = xgboost.XGBRegressor(**SMALL, tree_method="exact", gamma=5).fit(X, Y)


def regressor(x=X, y=Y, **asked):
    continued = asked.pop("continued", None)
    return xgboost.XGBRegressor(**(SMALL | asked)).fit(x, y, xgb_model=continued)


SOUND = {
    "binary": (xgboost.XGBClassifier(**SMALL).fit(X, KIND > 0), X),
    "softprob": (xgboost.XGBClassifier(**SMALL).fit(X, KIND), X),
    "pruned": (EXACT, X),
    "dart": (regressor(booster="dart", rate_drop=0.5), X),
    "gblinear": (regressor(booster="gblinear", max_depth=None), X),
    "no rounds": (regressor(booster="gblinear", max_depth=None, n_estimators=0), X),
    "vector leaves": (regressor(y=X[:, :3], multi_strategy="multi_output_tree"), X),
    "outputs": (regressor(y=X[:, :3]), X),
    "parallel": (xgboost.XGBClassifier(**SMALL, num_parallel_tree=4, subsample=0.5).fit(X, KIND), X),
    "forest": (xgboost.XGBRFClassifier(n_estimators=5).fit(X, KIND), X),
    "ranker": (xgboost.XGBRanker(**SMALL, lambdarank_unbiased=True).fit(X, KIND, qid=np.arange(120) // 10), X),
    "categories": (regressor(FRAME, enable_categorical=True, max_cat_to_onehot=1), FRAME),
    "types": (
        regressor(np.c_[X[:, 0], KIND], enable_categorical=True, feature_types=["q", "c"]),
        np.c_[X[:, 0], KIND],
    ),
    "early": (
        xgboost.XGBClassifier(**SMALL | {"n_estimators": 50}, early_stopping_rounds=3).fit(
            X, KIND > 0, eval_set=[(X, KIND == 0)], verbose=False
        ),
        X,
    ),
    "continued": (regressor(tree_method="approx", num_parallel_tree=2, continued=EXACT.get_booster()), X),
    "leafwise": (regressor(grow_policy="lossguide", max_leaves=9, max_depth=0), X),
    "quantiles": (regressor(objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]), X),
    "names": (regressor(pd.DataFrame(X, columns=list("äbc\u00a0"))), X),
}


def document(name):
    return read_ubjson(SOUND[name][0].get_booster().__getstate__()["handle"])


@pytest.mark.parametrize("way", ["pickle0", "pickle5", "joblib", "skops"])
@pytest.mark.parametrize("name", SOUND)
def test_what_xgboost_writes_is_taken_and_answers_as_before(name, way, tmp_path):
    model, rows = SOUND[name]
    path = tmp_path / "m"
    match way:
        case "joblib":
            joblib.dump(model, path, compress=3)
        case "skops":
            skops.io.dump(model, path)
        case _:
            path.write_bytes(pickle.dumps(model, int(way[-1])))
    np.testing.assert_array_equal(load_model(path).predict(rows), model.predict(rows))


@pytest.mark.parametrize("updater", ["prune", "refresh"])
def test_trees_that_were_changed_after_they_grew_are_taken(updater):
    """Pruned nodes stay in their arrays, with old parents."""
    data = xgboost.DMatrix(X, label=Y)
    grown = xgboost.train({"max_depth": 6}, data, 3)
    asked = {"process_type": "update", "updater": updater, "gamma": 4}
    booster = xgboost.train(asked, data, 3, xgb_model=grown)
    deleted = read_ubjson(booster.save_raw())["learner"]["gradient_booster"]["model"]["trees"][0]["tree_param"]
    assert (deleted["num_deleted"] != "0") == (updater == "prune")
    inspect_booster(xgboost.Booster, booster.__getstate__(), "m")


@pytest.mark.parametrize("name", SOUND)
def test_a_model_without_its_settings_is_taken(name):
    """XGBoost 3 reads no such pickle; those before it do."""
    inspect_booster(xgboost.Booster, {"handle": SOUND[name][0].get_booster().save_raw()}, "m")


def array(field, place, value):
    """A change of one number in an array of the first tree."""

    def change(learner):
        tree = trees_of(learner)["trees"][0]
        tree[field] = tree[field].copy()
        tree[field][place] = value

    return change


def cut(field):
    def change(learner):
        tree = trees_of(learner)["trees"][0]
        tree[field] = tree[field][:-1]

    return change


def value(*keys, to):
    """A change of what stands at these keys."""

    def change(learner):
        holder = learner
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = to

    return change


def trees_of(learner):
    booster = learner["gradient_booster"]
    return booster.get("gbtree", booster)["model"]


MODEL = ("gradient_booster", "model")
TREE = (*MODEL, "trees", 0)
DAMAGE = [
    ("binary", array("left_children", 0, 10**6), "a child that is not a node"),
    ("binary", array("left_children", 0, 0), "a child that is not a node"),
    ("binary", array("left_children", 0, -5), "a child that is not a node"),
    ("binary", array("left_children", 0, -1), "right child alone"),
    ("binary", array("right_children", 1, 0), "a child that is not a node"),
    ("binary", array("right_children", 0, 1), "a child twice"),
    ("binary", array("right_children", 1, 2), "a child twice"),
    ("binary", array("parents", 1, 10**8), "a parent that is not a node"),
    ("binary", array("parents", 1, 2), "another parent"),
    ("binary", array("parents", 0, 1), "a root with a parent"),
    ("binary", array("split_indices", 0, 10**6), "beyond the 4"),
    ("binary", array("split_indices", 0, 4), "beyond the 4"),
    ("binary", array("split_indices", 1, -1), "beyond the 4"),
    ("binary", array("split_type", 0, 1), "categories of other nodes"),
    ("binary", array("split_type", 0, 7), "neither 0 nor 1"),
    ("binary", array("default_left", 0, 9), "neither 0 nor 1"),
    *[
        ("binary", cut(name), f"'{name}' is not as long")
        for name in (
            "left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left",
            "split_type", "base_weights", "loss_changes", "sum_hessian",
        )
    ],
    ("binary", value(*TREE, "tree_param", "num_nodes", to="1000000"), "not as long as num_nodes"),
    ("binary", value(*TREE, "tree_param", "num_nodes", to="0"), "'num_nodes' is '0'"),
    ("binary", value(*TREE, "tree_param", "num_nodes", to="1_0"), "'num_nodes' is '1_0'"),
    ("binary", value(*TREE, "tree_param", "num_feature", to="5"), "'num_feature'"),
    ("binary", value(*TREE, "tree_param", "num_deleted", to="3"), "num_deleted"),
    ("binary", value(*TREE, "tree_param", "num_deleted", to="-100000"), "'num_deleted'"),
    ("binary", value(*TREE, "tree_param", "size_leaf_vector", to="1000"), "'size_leaf_vector'"),
    ("binary", value(*TREE, "id", to=1), "ids"),
    ("binary", value(*TREE, to=None), "not an object"),
    ("binary", value(*TREE, "left_children", to="x"), "not a list of whole numbers"),
    ("binary", value(*MODEL, "tree_info", 0, to=999), "'tree_info'"),
    ("binary", value(*MODEL, "tree_info", to=[]), "'tree_info'"),
    ("binary", value(*MODEL, "iteration_indptr", to=[0, 1, 2, 1000]), "'iteration_indptr'"),
    ("binary", value(*MODEL, "iteration_indptr", to=[0, 2, 1, 3]), "'iteration_indptr'"),
    ("binary", value(*MODEL, "iteration_indptr", to=[]), "'iteration_indptr'"),
    ("binary", value(*MODEL, "gbtree_model_param", "num_trees", to="100"), "'num_trees'"),
    ("binary", value(*MODEL, "gbtree_model_param", "num_parallel_tree", to="0"), "'num_parallel_tree'"),
    ("binary", value("learner_model_param", "num_class", to="100000"), "'num_class'"),
    ("binary", value("learner_model_param", "num_class", to="2"), "3 trees for 2"),
    ("binary", value("learner_model_param", "num_target", to="0"), "'num_target'"),
    ("binary", value("learner_model_param", "num_feature", to="100000000"), "'num_feature'"),
    ("binary", value("learner_model_param", "num_feature", to="1"), "'num_feature'"),
    ("binary", value("learner_model_param", "base_score", to="[1E0,2E0]"), "'base_score'"),
    ("binary", value("learner_model_param", "base_score", to="x"), "'base_score'"),
    ("binary", value("learner_model_param", "base_score", to=f"[{'1' * 200_000}x"), "'base_score'"),
    ("binary", value("feature_names", to=["a"]), "'feature_names'"),
    ("binary", value("attributes", to={"a": 1}), "'attributes'"),
    ("binary", value("gradient_booster", "name", to="other"), "a booster 'other'"),
    ("binary", value("gradient_booster", to=[]), "'gradient_booster' is list"),
    ("softprob", value("objective", "softmax_multiclass_param", "num_class", to="100"), "number of classes"),
    ("pruned", array("split_indices", -1, 0), "num_deleted"),
    ("pruned", array("left_children", -1, 1), "a child that is not a node"),
    ("dart", value("gradient_booster", "weight_drop", to=[1.0]), "'weight_drop'"),
    ("dart", array("left_children", 0, 10**6), "a child that is not a node"),
    ("gblinear", value(*MODEL, "weights", to=np.zeros(3, ">f4")), "'weights'"),
    ("gblinear", value(*MODEL, "weights", to=np.zeros(0, ">f4")), "'weights'"),
    ("gblinear", value(*MODEL, "boosted_rounds", to=-1), "'boosted_rounds'"),
    ("vector leaves", cut("leaf_weights"), "'leaf_weights'"),
    ("vector leaves", cut("base_weights"), "'base_weights'"),
    ("vector leaves", array("right_children", -1, 10**6), "values are not there"),
    ("vector leaves", value(*TREE, "tree_param", "size_leaf_vector", to="2"), "leaves of|'size_leaf_vector'"),
    ("categories", array("categories_segments", 0, 10**9), "end to end"),
    ("categories", array("categories_sizes", 0, 10**3), "beyond its list"),
    ("categories", array("categories_sizes", 0, 0), "beyond its list"),
    ("categories", array("categories_nodes", 0, 10**6), "not there"),
    ("categories", array("categories", 0, -1), "a category that is not a number"),
    ("categories", array("categories", 0, 2**30), "a category that is not a number"),
    ("categories", value(*MODEL, "cats", "feature_segments", to=np.arange(5, dtype=">i4")), "'feature_segments'"),
    ("categories", value(*MODEL, "cats", "sorted_idx", to=np.full(6, 9, ">i4")), "'sorted_idx'"),
    ("categories", value(*MODEL, "cats", "enc", 3, "offsets", to=np.array([0, 2, 3, 500], ">i4")), "'offsets'"),
    ("categories", value(*MODEL, "cats", to=[]), "'cats'"),
]  # fmt: skip


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize(("name", "change", "said"), DAMAGE)
def test_a_damaged_model_is_one_clear_error(name, change, said, is_alone, tmp_path, monkeypatch):
    changed = document(name)
    change(changed["Model"]["learner"])
    path = tmp_path / "m.pkl"
    path.write_bytes(pickled(bytearray(ubjson(changed["Model"] if is_alone else changed))))
    monkeypatch.setattr(xgboost.Booster, "__setstate__", None)  # the library is never asked
    with pytest.raises(InputError, match=rf"m\.pkl: damaged: .*XGBoost.*{said}") as e:
        load_model(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("gradient_booster", "name"), "gblinear", "of another model"),
        (("learner_train_param", "booster"), "dart", "of another model"),
        (("learner_train_param", "objective"), "reg:squarederror", "of another model"),
        (("objective", "softmax_multiclass_param", "num_class"), "1000000", "'num_class'"),
        (("objective", "softmax_multiclass_param", "num_class"), "2", "number of classes"),
        (("learner_model_param", "num_feature"), "5", "of another model"),
        (("generic_param", "nthread"), "1000000", "'nthread'"),
        (("generic_param",), None, "'generic_param'"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(keys, to, said, tmp_path):
    changed = document("softprob")
    value(*keys, to=to)(changed["Config"]["learner"])
    (tmp_path / "m.pkl").write_bytes(pickled(bytearray(ubjson(changed))))
    with pytest.raises(InputError, match=said):
        load_model(tmp_path / "m.pkl")


@pytest.mark.parametrize(("depth", "is_taken"), [(512, True), (600, False)])
def test_trees_are_as_deep_as_the_library_can_write(depth, is_taken, tmp_path):
    changed = document("binary")
    tree, nodes = trees_of(changed["Model"]["learner"])["trees"][0], 2 * depth + 1
    own = np.arange(nodes)
    inner = (own % 2 == 0) & (own < nodes - 1)
    tree["left_children"], tree["right_children"] = (np.where(inner, own + side, -1).astype(">i4") for side in (1, 2))
    tree["parents"] = np.where(own > 0, own - 2 + own % 2, -1).astype(">i4")
    for name in ("split_indices", "split_type", "default_left", "loss_changes", "sum_hessian", "split_conditions",
                 "base_weights"):  # fmt: skip
        tree[name] = np.zeros(nodes, tree[name].dtype)
    tree["tree_param"]["num_nodes"] = str(nodes)
    (tmp_path / "m.pkl").write_bytes(pickled(bytearray(ubjson(changed))))
    if is_taken:
        load_model(tmp_path / "m.pkl").get_dump()
    else:
        with pytest.raises(InputError, match=r"tree 0: .*more than 512 deep"):
            load_model(tmp_path / "m.pkl")


def test_nodes_in_a_circle_are_refused(tmp_path):
    """Each is the child of one, and names it: only the way from the root does not come there."""
    changed = document("binary")["Model"]
    tree = trees_of(changed["learner"])["trees"][0]
    for name, values in {"left_children": [-1, 3, -1, 1, -1], "right_children": [-1, 2, -1, 4, -1],
                         "parents": [-1, 3, 1, 1, 3]}.items():  # fmt: skip
        tree[name] = np.array(values, ">i4")
    for name in ("split_indices", "split_type", "default_left", "loss_changes", "sum_hessian", "split_conditions",
                 "base_weights"):  # fmt: skip
        tree[name] = tree[name][:5]
    tree["tree_param"]["num_nodes"] = "5"
    (tmp_path / "m.pkl").write_bytes(pickled(bytearray(ubjson(changed))))
    with pytest.raises(InputError, match="in a circle"):
        load_model(tmp_path / "m.pkl")


def test_a_model_in_json_is_one_clear_error(tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickled(SOUND["binary"][0].get_booster().save_raw("json")))
    with pytest.raises(InputError, match=r"damaged: .*it is JSON, .* save it anew"):
        load_model(tmp_path / "m.pkl")


def raw():
    return SOUND["binary"][0].get_booster().save_raw()


def body(thing):
    return pickle.dumps(thing, 5)[2:-1]


MODEL_TEXT = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(X, Y).booster_.model_to_string()


@pytest.mark.parametrize(
    "program",
    [
        lambda: b"cxgboost.core\nBooster\n(N)" + body(raw()) + b"tR.",
        lambda: b"(cxgboost.core\nBooster\nN)" + body(raw()) + b"o.",
        lambda: b"(N)" + body(raw()) + b"ixgboost.core\nBooster\n.",
        lambda: b"clightgbm.basic\nBooster\n(NNN" + body(MODEL_TEXT) + b"tR.",
        lambda: b"cxgboost.core\nBooster\n)R.",
    ],
)
def test_constructors_of_boosters_are_not_called(program, tmp_path, monkeypatch):
    monkeypatch.setattr(xgboost.Booster, "__init__", None)
    monkeypatch.setattr(lightgbm.Booster, "__init__", None)
    (tmp_path / "m.pkl").write_bytes(b"\x80\x05" + program())
    with pytest.raises(UntrustedModelError, match="by calling its class"):
        load_model(tmp_path / "m.pkl")


@pytest.mark.parametrize(
    ("kind", "state", "said"),
    [
        (xgboost.Booster, {"handle": bytes(raw())}, "its handle is bytes"),
        (xgboost.Booster, {"handle": np.frombuffer(raw(), np.uint8)}, "its handle is ndarray"),
        (xgboost.Booster, np.zeros(3, [("handle", "u1")]), "whose state is ndarray"),
        (xgboost.Booster, {"handle": bytearray(b"")}, "cut short"),
        (xgboost.Booster, {"handle": bytearray(b"CONFIG-offset:\0")}, "no value begins"),
        (lightgbm.Booster, {"_handle": MODEL_TEXT.encode()}, "its handle is bytes"),
        (lightgbm.Booster, {"_handle": np.str_(MODEL_TEXT)}, "its handle is str_"),
        (lightgbm.Booster, {"handle": MODEL_TEXT + "\0"}, "zero byte"),
        (lightgbm.Booster, [("handle", MODEL_TEXT)], "whose state is list"),
    ],
)
def test_a_state_of_another_form_is_refused(kind, state, said, tmp_path):
    with pytest.raises(InputError, match=rf"damaged: .*{said}"):
        inspect_booster(kind, state, tmp_path / "m.pkl")


def skops_file(path, model, change):
    """A skops file of the model, its entries and schema changed."""
    stream = io.BytesIO(skops.io.dumps(model))
    with zipfile.ZipFile(stream) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(entries["schema.json"])
    change(schema, entries)
    entries["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def nodes(part):
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [part, *(node for value in inner for node in nodes(value))] if isinstance(part, (dict, list)) else []


def booster_of(schema):
    return next(node for node in nodes(schema) if isinstance(node, dict) and node.get("__class__") == "Booster")


def damaged_tree():
    changed = document("binary")
    array("parents", 1, 10**8)(changed["Model"]["learner"])
    return ubjson(changed)


def other_bytes(schema, entries):
    entries[booster_of(schema)["content"]["content"]["handle"]["file"]] = damaged_tree()


def alias(schema, entries):
    """The booster's handle looks sound, but bears the id of one that was read before it."""
    handle = booster_of(schema)["content"]["content"]["handle"]
    entries["other.bin"] = damaged_tree()
    attributes = schema["content"]["content"]
    schema["content"]["content"] = {"first": handle | {"file": "other.bin"}} | attributes
    key_types = schema["content"]["key_types"]["content"]
    key_types.insert(0, key_types[0])


def text_of_nodes(schema, _):
    fields = booster_of(schema)["content"]["content"]
    name = "_handle" if "_handle" in fields else "handle"
    text = json.loads(fields[name]["content"])
    fields[name]["content"] = json.dumps(re.sub(r"^left_child=\S", "left_child=9", text, flags=re.M))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("xgboost", other_bytes, "XGBoost.*a parent that is not a node"),
        ("xgboost", alias, "XGBoost.*a parent that is not a node"),
        ("lightgbm", text_of_nodes, "a tree of LightGBM"),
    ],
)
def test_a_damaged_booster_in_a_skops_file_never_reaches_the_library(name, change, said, tmp_path, monkeypatch):
    model = SOUND["binary"][0] if name == "xgboost" else lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(X, Y)
    skops_file(tmp_path / "m.skops", model, change)
    monkeypatch.setattr(xgboost.Booster, "__setstate__", None)
    monkeypatch.setattr(lightgbm.Booster, "__setstate__", None)
    with pytest.raises(InputError, match=rf"m\.skops: damaged: .*{said}") as e:
        load_model(tmp_path / "m.skops")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("loader", "named"),
    [
        ("ConstructorFromReduceNode", "ConstructorFromReduceNode"),
        ("LossNode", "TypeNode"),  # its part that names the class
        ("DictNode", "DictNode"),
        ("TypeNode", "TypeNode"),
        ("FunctionNode", "FunctionNode"),
    ],
)
def test_a_skops_file_makes_boosters_of_their_state_alone(loader, named, tmp_path, monkeypatch):
    def change(schema, _):
        node = booster_of(schema)
        none = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": "null"}
        given = [none, none, node["content"]["content"]["handle"]]
        arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": given}
        state = node["content"]
        node.update({"__loader__": loader, "content": arguments, "__reduce__": {"args": arguments}})
        if loader == "DictNode":
            node.update(state | {"__class__": "Booster", "__module__": "xgboost.core"})

    skops_file(tmp_path / "m.skops", SOUND["binary"][0], change)
    monkeypatch.setattr(xgboost.Booster, "__init__", None)
    with pytest.raises(UntrustedModelError, match=f"makes a booster by {named}"):
        load_model(tmp_path / "m.skops")


def test_sizes_are_refused_before_memory_is_taken_for_them(tmp_path):
    content = b"{L" + struct.pack(">q", 1) + b"a[#L" + struct.pack(">q", 1 << 50) + b"}"
    (tmp_path / "m.pkl").write_bytes(pickled(bytearray(content)))
    with pytest.raises(InputError, match="a size of 1125899906842624"):
        load_model(tmp_path / "m.pkl")
