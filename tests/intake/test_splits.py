import numpy as np
import pytest

from edgewright.errors import InputError
from edgewright.intake.splits import CALIBRATION_ROWS, VALIDATION_ROWS, split_rows, thinned


def test_test_rows_are_the_share_asked_for_and_no_training_rows():
    training, test = split_rows(np.zeros(200), test_fraction=0.3, seed=1, classes=False)
    assert len(test) == 60
    assert sorted([*training, *test]) == list(range(200))
    assert list(training) == sorted(training)
    assert list(test) == sorted(test)


def test_each_class_gives_its_share_of_the_test_rows():
    y = np.array([0] * 60 + [1] * 30 + [2] * 10)
    _, test = split_rows(y, test_fraction=0.3, seed=1, classes=True)
    assert np.bincount(y[test]).tolist() == [18, 9, 3]


def test_values_of_a_regression_are_drawn_without_regard_to_them():
    y = np.arange(100) // 2  # of two equal rows each, stratified sampling by 0.2 would take none
    _, test = split_rows(y, test_fraction=0.2, seed=1, classes=False)
    assert len(test) == 20


def test_split_follows_the_seed_alone():
    y = np.arange(100) % 3
    first, same, other = (split_rows(y, test_fraction=0.3, seed=s, classes=True)[1].tolist() for s in (1, 1, 2))
    assert first == same
    assert first != other


@pytest.mark.parametrize(("rows", "fraction"), [(4, 0.1), (4, 0.9)])
def test_rows_that_leave_a_split_empty_are_refused(rows, fraction):
    with pytest.raises(InputError, match="give at least 10"):
        split_rows(np.zeros(rows), test_fraction=fraction, seed=0, classes=False)


def test_one_row_to_test_or_to_train_with_is_enough():
    assert [len(part) for part in split_rows(np.zeros(4), test_fraction=0.25, seed=0, classes=False)] == [3, 1]
    assert [len(part) for part in split_rows(np.zeros(4), test_fraction=0.75, seed=0, classes=False)] == [1, 3]


@pytest.mark.parametrize("classes", [True, False])
def test_validation_is_a_fifth_that_neither_trains_nor_calibrates(classes):
    training, y = np.arange(50, 150), np.arange(200) % 2
    train, calibration, validation = thinned(training, y, seed=1, classes=classes)
    assert len(validation) == 20
    assert sorted([*train, *validation]) == training.tolist()
    assert calibration.tolist() == train.tolist()
    for part in (train, calibration, validation):
        assert list(part) == sorted(part)


def test_validation_and_calibration_take_no_more_rows_than_they_need():
    training = np.arange(20_000)
    train, calibration, validation = thinned(training, np.zeros(20_000), seed=1, classes=False)
    assert (len(train), len(calibration), len(validation)) == (18_000, CALIBRATION_ROWS, VALIDATION_ROWS)
    assert set(calibration) <= set(train)


def test_one_of_few_rows_is_for_validation():
    train, _, validation = thinned(np.arange(3), np.zeros(3), seed=1, classes=False)
    assert (len(train), len(validation)) == (2, 1)


def test_classes_are_in_validation_and_calibration_by_their_shares():
    y = np.array([0] * 6_000 + [1] * 3_000 + [2] * 1_000)
    _, calibration, validation = thinned(np.arange(10_000), y, seed=1, classes=True)
    assert np.bincount(y[validation]).tolist() == pytest.approx([1200, 600, 200], abs=2)
    assert np.bincount(y[calibration]).tolist() == pytest.approx([600, 300, 100], abs=2)


def test_training_rows_are_drawn_otherwise_than_test_rows():
    """With the same seed for both, the first permutation would order validation rows as it did test rows."""
    rows = np.arange(100)
    _, _, validation = thinned(rows, np.zeros(100), seed=7, classes=False)
    assert validation.tolist() != np.sort(np.random.default_rng(7).permutation(rows)[:20]).tolist()
