"""LightGBM's parser trusts its text: what leads nowhere would crash it, or keep it walking for ever."""

import pickle
import re
from itertools import pairwise

import lightgbm
import numpy as np
import pytest

from edgewright.errors import InputError
from edgewright.intake.booster_guard import inspect_booster
from edgewright.intake.pickle_guard import load_model

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 4))
X[:, 3] = RANDOM.integers(0, 9, 300)
Y = (X[:, 3] % 3).astype(int)
SMALL = {"n_estimators": 3, "verbose": -1, "min_child_samples": 5}
SOUND = {
    "classes": lightgbm.LGBMClassifier(**SMALL).fit(X, Y),
    "categories": lightgbm.LGBMClassifier(**SMALL).fit(X, Y > 0, categorical_feature=[3]),
    "linear": lightgbm.LGBMRegressor(linear_tree=True, num_leaves=6, **SMALL).fit(X, X[:, 0] * X[:, 1]),
    "leaf": lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, min_child_samples=999).fit(X, Y),
    "forest": lightgbm.LGBMRegressor(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, **SMALL).fit(X, Y),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_lightgbm_writes_is_taken(name, tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(SOUND[name]))
    np.testing.assert_array_equal(load_model(tmp_path / "m.pkl").predict(X), SOUND[name].predict(X))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("classes", "left_child", "100000000"),
        ("classes", "left_child", "-100000000"),
        ("classes", "right_child", "0"),
        ("classes", "split_feature", "100000000"),
        ("classes", "split_feature", "-1"),
        ("classes", "num_leaves", "100000"),
        ("classes", "num_leaves", "-5"),
        ("classes", "decision_type", "1"),
        ("classes", "max_feature_idx", "0"),
        ("classes", "num_tree_per_iteration", "1000"),
        ("classes", "num_tree_per_iteration", "2"),
        ("classes", "num_class", "1000"),
        ("classes", "tree_sizes", "99999999"),
        ("classes", "tree_sizes", "-3"),
        ("classes", "leaf_value", "nothing"),
        ("categories", "cat_boundaries", "7"),
        ("categories", "num_cat", "500"),
        ("linear", "num_features", "300"),
        ("leaf", "num_leaves", "9"),
        ("classes", "right_child", "1\nright_child=2"),
    ],
)
def test_text_that_leads_nowhere_is_one_clear_error(name, field, value, tmp_path):
    text = SOUND[name].booster_.model_to_string()
    inspect_booster(lightgbm.Booster, {"_handle": text}, tmp_path / "m.pkl")
    changed = re.sub(rf"^({field}=)[^ \n]+", rf"\g<1>{value}", text, flags=re.M)
    assert changed != text
    if field != "tree_sizes":  # which would give away what follows
        changed = _sized(changed)
    for key in ("_handle", "handle"):
        with pytest.raises(InputError, match=r"m\.pkl: damaged: .*LightGBM") as e:
            inspect_booster(lightgbm.Booster, {key: changed}, tmp_path / "m.pkl")
        assert "\n" not in str(e.value)


def _sized(text):
    """The text with the sizes of its trees as they are."""
    starts = [found.start() for found in re.finditer(r"^Tree=", text, flags=re.M)] + [text.index("end of trees")]
    sizes = " ".join(str(b - a) for a, b in pairwise(starts))
    return re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", text, flags=re.M)


def test_damaged_booster_in_a_pickle_never_reaches_the_library(tmp_path, monkeypatch):
    state = SOUND["classes"].booster_.__getstate__()
    held = {name: re.sub(r"^left_child=\S+", "left_child=0", v, flags=re.M) if isinstance(v, str) else v
            for name, v in state.items()}  # fmt: skip
    monkeypatch.setattr(lightgbm.Booster, "__getstate__", lambda _: held)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(SOUND["classes"]))
    monkeypatch.setattr(lightgbm.Booster, "__setstate__", None)
    with pytest.raises(InputError, match=r"a tree of LightGBM|cannot be read"):
        load_model(tmp_path / "m.pkl")
