"""Rows in memory become the data file that their user would have written."""

import functools
import importlib

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, make_scorer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from edgewright.artifact import ModelTask
from edgewright.errors import InputError
from edgewright.live import write_data

X, Y = np.arange(24.0).reshape(12, 2), np.arange(12) % 3


def arrays(written):
    described = yaml.safe_load(written.path.read_text())
    with np.load(written.path.parent / described.pop("path")) as file:
        return described, {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [torch.tensor(X), torch.tensor(Y)],
        (X.tolist(), pd.Series(Y)),
        DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=5),
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
    ],
    ids=["arrays", "tensors", "lists", "loader", "data set"],
)
def test_rows_with_answers(data, tmp_path):
    described, held = arrays(write_data(data, tmp_path, seed=7, labels=None))
    assert described == {"seed": 7}
    np.testing.assert_array_equal(held["x"], X)
    np.testing.assert_array_equal(held["y"], Y)


@pytest.mark.parametrize("data", [(X, Y, X[:5], Y[:5]), ((X, Y), (X[:5], Y[:5]))], ids=["flat", "pairs"])
def test_rows_of_their_own_to_test_with(data, tmp_path):
    written = write_data(data, tmp_path)
    _, held = arrays(written)
    assert {name: len(array) for name, array in held.items()} == {
        "x_train": 12,
        "y_train": 12,
        "x_test": 5,
        "y_test": 5,
    }
    assert {name: array.shape for name, array in written.examples.items()} == {"x_train": (2, 2)}


def test_rows_of_several_inputs_without_answers_have_no_task(tmp_path):
    described, held = arrays(write_data({"a": X, "b": Y}, tmp_path))
    assert described == {"task": "none"}
    assert sorted(held) == ["x.a", "x.b"]


def test_a_frame_keeps_its_types(tmp_path):
    frame = pd.DataFrame({"town": pd.Categorical(["a", "b"] * 6), "rooms": pd.array([1, None] * 6, "Int64"), "y": Y})
    described = yaml.safe_load(write_data(frame, tmp_path, target="y").path.read_text())
    assert described == {"target": "y", "path": "data.parquet"}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "data.parquet"), frame)


def test_frames_to_train_and_to_test_with(tmp_path):
    frame = pd.DataFrame({"a": X[:, 0]})
    described = yaml.safe_load(write_data((frame, Y, frame[:4], Y[:4]), tmp_path).path.read_text())
    assert described == {"path": "data.parquet", "test_path": "test_data.parquet", "target": "target"}
    assert len(pd.read_parquet(tmp_path / "test_data.parquet")) == 4


def test_a_path_is_taken_as_it_is_or_described(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    assert write_data(tmp_path / "d.npz", tmp_path).path == tmp_path / "d.npz"
    described = yaml.safe_load(write_data(str(tmp_path / "d.npz"), tmp_path, task="none").path.read_text())
    assert described == {"task": "none", "path": str(tmp_path / "d.npz")}
    with pytest.raises(InputError, match=r"data\.yaml describes the data already; write task into it"):
        write_data(tmp_path / "data.yaml", tmp_path, task="none")


class _Uneven(Dataset):
    """Rows of one and of two numbers."""

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return torch.zeros(place + 1), place


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ((X, Y[:5]), {}, "as many answers as rows are needed; given were x 12, y 5"),
        ((X, Y, X), {}, "found a tuple of 3; allowed: a path; rows;"),
        (7, {}, "found int of dtype int64"),
        (X, {"metric": "roc_auc"}, r"metric 'roc_auc' needs answers: data=\(rows, answers\)"),
        (X, {"task": "classification"}, r"task 'classification' needs answers: data=\(rows, answers\)"),
        ((pd.DataFrame({"target": Y}), Y), {}, "the frame has a column 'target', too"),
        ((X, Y), {"metric": lambda outputs, answers: 0.0}, "cannot be imported by another process"),
        ((X, Y), {"metric": functools.partial(max, 1)}, "a partial cannot be imported by another process"),
        ((X, Y), {"metric": make_scorer(accuracy_score)}, "a _Scorer cannot be imported by another process"),
        ((X, Y), {"metric": np.add}, "cannot be imported by another process"),
        (pd.DataFrame({"a": [1, "b", None]}), {}, "the frame cannot be written: .*give each column one type"),
        (pd.DataFrame(X, columns=["a", "a"]), {}, "several columns of one name: a"),
        (pd.DataFrame(X, columns=[1, "1"]), {}, "several columns of one name: 1"),
        (pd.DataFrame(X, columns=[["a", "b"], ["c", "d"]]), {}, "columns have 2 levels of names"),
        ((pd.DataFrame(X), X), {}, r"answers of shape \('N', 2\); one column"),
        ((pd.DataFrame(X), pd.DataFrame(X)), {}, r"answers of shape \('N', 2\); one column"),
        ((pd.DataFrame(X), Y, X, Y), {}, "to train with are a DataFrame, those to test with a ndarray"),
        (([[1.0], [1.0, 2.0], []], [0, 1, 0]), {}, "a list that is not an array: .*inhomogeneous"),
        (DataLoader(_Uneven(), batch_size=1), {}, "batches of rows of different shapes"),
        (X, {"target": object()}, "an option is not plain text"),
        (DataLoader(TensorDataset(torch.tensor(X))), {}, r"a DataLoader of list; expected \(rows, answers\)"),
    ],
)
def test_what_is_no_data_is_said_in_one_line(data, options, said, tmp_path):
    with pytest.raises(InputError, match=said) as caught:
        write_data(data, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_metric_is_named_by_its_module_and_found_again(tmp_path):
    from edgewright.statistics.accuracy import accuracy_of

    described, _ = arrays(write_data((X, Y), tmp_path, metric=accuracy_of))
    assert described["metric"] == "edgewright.statistics.accuracy:accuracy_of"
    assert (tmp_path / described["folder"] / "edgewright" / "statistics" / "accuracy.py").is_file()


def test_a_metric_of_a_package_or_behind_a_decorator_is_found_from_the_folder_above(tmp_path, monkeypatch):
    (tmp_path / "site" / "my_metrics").mkdir(parents=True)
    (tmp_path / "site" / "decorated.py").write_text(
        "import contextlib\n@contextlib.contextmanager\ndef own(outputs, answers):\n    yield 0.0\n"
    )
    (tmp_path / "site" / "my_metrics" / "__init__.py").write_text("def own(outputs, answers):\n    return 0.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for number, module in enumerate(("my_metrics", "decorated")):
        folder = tmp_path / str(number)
        folder.mkdir()
        described, _ = arrays(write_data((X, Y), folder, metric=importlib.import_module(module).own))
        assert (described["metric"], described["folder"]) == (f"{module}:own", str(tmp_path / "site"))


@pytest.mark.parametrize(
    "rows", [torch.eye(4, dtype=torch.bfloat16), torch.eye(4).to_sparse(), torch.eye(4, requires_grad=True)]
)
def test_tensors_that_numpy_does_not_know_are_taken(rows, tmp_path):
    _, held = arrays(write_data(rows, tmp_path))
    np.testing.assert_array_equal(held["x"], np.eye(4))


@pytest.mark.parametrize("answers", [Y[:, None], pd.DataFrame({"name": Y}), pd.Series(Y, name="name")])
def test_one_column_of_answers_is_taken_as_it_comes(answers, tmp_path):
    frame = pd.DataFrame(X)
    described = yaml.safe_load(write_data((frame, answers), tmp_path).path.read_text())
    assert described["target"] == ("target" if isinstance(answers, np.ndarray) else "name")
    assert pd.read_parquet(tmp_path / "data.parquet")[described["target"]].tolist() == Y.tolist()


def test_options_of_numpy_are_written_as_plain_ones(tmp_path):
    options = {"seed": np.int64(7), "scale": np.float64(0.5), "labels": np.array(["a", "b"]), "task": ModelTask.NONE}
    described, _ = arrays(write_data((X, Y), tmp_path, **options))
    assert described == {"seed": 7, "scale": 0.5, "labels": ["a", "b"], "task": "none"}
