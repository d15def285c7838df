import numpy as np
import pytest

from edgewright.errors import InputError
from edgewright.validate.decision import decision_of


def test_largest_score_decides_where_there_is_one_score_a_class() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    rule = decision_of({"label": np.array([1.0, 0.0, 1.0]), "scores": scores}, np.array([1, 0, 1]), ["scores", "label"])
    assert rule.output == "scores"
    assert rule.classes({"scores": scores[::-1]}).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("raw", "threshold"), [([[0.3], [0.7], [0.45]], 0.5), ([[-2.0], [0.3], [-0.1]], 0.0)])
def test_single_score_is_a_probability_or_a_logit(raw: list[list[float]], threshold: float) -> None:
    scores = np.array(raw)
    rule = decision_of({"y": scores}, np.array([0, 1, 0]), ["y"])
    assert rule.threshold == threshold
    assert rule.classes({"y": scores}).tolist() == [0, 1, 0]


def test_class_output_alone_is_taken_as_it_is() -> None:
    labels = np.array([2.0, 0.0, 1.0])
    rule = decision_of({"label": labels}, np.array([2, 0, 1]), ["label"])
    assert rule.is_class
    assert rule.classes({"label": labels}).tolist() == [2, 0, 1]


def test_outputs_that_explain_nothing_are_refused() -> None:
    scores = np.eye(3)
    with pytest.raises(InputError, match="no output of the model explains"):
        decision_of({"y": scores}, np.array([2, 0, 1]), ["y"])


def _agreeing(count: int) -> np.ndarray:
    """Scores of 100 rows, the first ``count`` of which decide for class 1."""
    return np.where(np.arange(100)[:, None] < count, [[0.0, 1.0]], [[1.0, 0.0]])


def test_two_rows_in_a_hundred_may_be_ties_that_fall_the_other_way() -> None:
    predicted = np.ones(100, np.int64)
    assert decision_of({"y": _agreeing(98)}, predicted, ["y"]).output == "y"
    with pytest.raises(InputError, match=r"best: 97\.0% of rows"):
        decision_of({"y": _agreeing(97)}, predicted, ["y"])


def test_of_outputs_that_explain_as_much_the_first_decides_else_the_better() -> None:
    predicted = np.ones(100, np.int64)
    found = {"a": _agreeing(98), "b": _agreeing(98), "c": _agreeing(99)}
    assert decision_of(found, predicted, ["a", "b"]).output == "a"
    assert decision_of(found, predicted, ["a", "c"]).output == "c"
    assert decision_of(found, predicted, ["c", "a"]).output == "c"


def test_model_without_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="no output of the model explains"):
        decision_of({}, np.ones(3, np.int64), [])
