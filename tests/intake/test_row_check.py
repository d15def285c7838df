"""Rows that a device answers otherwise: few beside a tree's threshold are told, any elsewhere are an error."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeClassifier

from edgewright.data import DataSpec
from edgewright.errors import ConversionError
from edgewright.intake import child, row_check, sklearn_model

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = 400


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=ROWS).round(3), "b": generator.integers(0, 9, ROWS)})
    frame["y"] = np.where(frame["a"] > 0.5, "high", "low")
    frame.to_csv(tmp_path / "t.csv", index=False)
    return frame


def taken(model, folder, **data):
    (folder / "m.pkl").write_bytes(pickle.dumps(model))
    spec = DataSpec(**(data or {"path": folder / "t.csv", "target": "y", "test_path": folder / "t.csv"}))
    return child.take_in(folder / "m.pkl", spec, folder / "store", "m")


def answering_otherwise(monkeypatch, wrong):
    """The device's side says the opposite in the rows that ``wrong`` chooses of its features."""
    real = row_check._runner

    def runner(model):
        answer = real(model)

        def changed(rows):
            found, chosen = np.array(answer(rows)), wrong(rows)
            found[chosen] = 1 - found[chosen]
            return found

        return changed

    monkeypatch.setattr(row_check, "_runner", runner)


def test_a_row_beside_a_threshold_is_told(table, tmp_path, monkeypatch):
    model = DecisionTreeClassifier(max_depth=2).fit(table[["a", "b"]], table["y"])
    table.loc[5, "a"] = beside = model.tree_.threshold[0] * (1 + 3e-7)  # it rounds across in one computation or another
    table.to_csv(tmp_path / "t.csv", index=False)
    answering_otherwise(monkeypatch, lambda rows: rows[:, 0] == np.float32(beside))
    made = taken(model, tmp_path)
    assert any("1 of 400 test rows stand beside a threshold in float32" in note for note in made.model.notes)


@pytest.mark.parametrize("arrays", [False, True])
def test_other_rows_are_an_error_however_few(table, tmp_path, monkeypatch, arrays):
    columns = table[["a", "b"]].to_numpy() if arrays else table[["a", "b"]]
    model = DecisionTreeClassifier(max_depth=2).fit(columns, table["y"])
    chosen = np.float32(table.loc[table["a"].abs().idxmin(), "a"])
    answering_otherwise(monkeypatch, lambda rows: rows[:, 0] == chosen)
    x, y = table[["a", "b"]].to_numpy(np.float32), table["y"].to_numpy().astype(str)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ConversionError, match=r"what a device would answer is not .* of 400 test rows"):
        taken(model, tmp_path, **({"path": tmp_path / "d.npz"} if arrays else {}))


def test_wide_rows_are_moved_some_thousand_at_a_time():
    """A hundred rows of an image, each number in turn, would else take gigabytes."""
    rows = np.ones((100, 784), np.float32)
    pieces = [len(piece) for piece in sklearn_model._nudged_array(rows)]
    assert sum(pieces) == 100 * 784 * len(sklearn_model._NUDGES)
    assert max(pieces) <= sklearn_model._NUDGED_ROWS
