import numpy as np
import pytest

from edgewright.artifact import ModelTask
from edgewright.errors import InputError
from edgewright.statistics.accuracy import accuracy_of, compare_accuracy, per_class, worst_class

TRUTH = np.array([0, 0, 1, 1, 2, 2, 2, 2])


def test_accuracy_is_the_share_of_right_rows_within_its_interval() -> None:
    found = accuracy_of(ModelTask.CLASSIFICATION, TRUTH, np.array([0, 1, 1, 1, 2, 2, 2, 0]))
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    assert (found.metric, found.rows) == ("accuracy", 8)


def test_paired_comparison_rests_on_the_rows_that_differ() -> None:
    source, candidate = TRUTH.copy(), TRUTH.copy()
    candidate[:3] = 9
    source[7] = 9
    drop = compare_accuracy(ModelTask.CLASSIFICATION, TRUTH, source, candidate)
    assert (drop.only_source_right, drop.only_candidate_right) == (3, 1)
    assert drop.percent == pytest.approx(25.0)
    assert drop.low_percent < 25.0 < drop.high_percent
    assert drop.p_value > 0.05


def test_equal_answers_lose_nothing() -> None:
    drop = compare_accuracy(ModelTask.CLASSIFICATION, TRUTH, TRUTH, TRUTH)
    assert (drop.percent, drop.p_value) == (0.0, 1.0)


def test_regressor_is_judged_by_r2() -> None:
    truth = np.linspace(0, 1, 50)
    found = accuracy_of(ModelTask.REGRESSION, truth, (truth + 0.01)[:, None])
    assert found.metric == "r2"
    assert 0.99 < found.value < 1
    drop = compare_accuracy(ModelTask.REGRESSION, truth, truth[:, None], (truth + 0.1)[:, None])
    assert drop.percent > 1
    assert drop.p_value < 0.05


def test_per_class_shows_which_class_lost() -> None:
    candidate = TRUTH.copy()
    candidate[4:6] = 0
    table = per_class(TRUTH, TRUTH, candidate, ("a", "b", "c"))
    assert [(row.label, row.rows, row.source, row.candidate) for row in table] == [
        ("a", 2, 1.0, 1.0),
        ("b", 2, 1.0, 1.0),
        ("c", 4, 1.0, 0.5),
    ]
    worst = worst_class(table)
    assert (worst.label, worst.drop_percent) == ("c", 50.0)
    assert worst_class(()) is None


def test_unusable_truth_is_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        accuracy_of(ModelTask.CLASSIFICATION, np.array([], int), np.array([], int))
    with pytest.raises(InputError, match="8 true answers in the test split, the model gave 7"):
        accuracy_of(ModelTask.CLASSIFICATION, TRUTH, TRUTH[:7])
    with pytest.raises(InputError, match="R² has no meaning"):
        accuracy_of(ModelTask.REGRESSION, np.ones(5), np.ones(5))


def test_the_numbers_of_a_row_are_no_rows_of_their_own() -> None:
    """Fifty equal columns say no more than one of them."""
    chance = np.random.default_rng(0)
    truth = chance.normal(size=30)
    source, candidate = (truth + size * chance.normal(size=30) for size in (1.0, 1.2))
    wide = [np.repeat(values[:, None], 50, axis=1) for values in (truth, source, candidate)]
    for one, many in zip(
        (
            accuracy_of(ModelTask.REGRESSION, truth, source),
            compare_accuracy(ModelTask.REGRESSION, truth, source, candidate),
        ),
        (accuracy_of(ModelTask.REGRESSION, *wide[:2]), compare_accuracy(ModelTask.REGRESSION, *wide)),
        strict=True,
    ):
        figures = [name for name, value in one.model_dump().items() if isinstance(value, float)]
        assert [getattr(many, name) for name in figures] == pytest.approx([getattr(one, name) for name in figures])


def test_each_column_counts_by_its_variation() -> None:
    truth = np.stack([np.linspace(0, 1, 20), np.linspace(0, 100, 20)], axis=1)
    wrong = truth * [0, 1]  # the small column is lost, the large one is kept
    assert accuracy_of(ModelTask.REGRESSION, truth, wrong).value > 0.99
