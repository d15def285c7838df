"""Answers are matched with classes by number or by text, and the task follows from model and answers together."""

from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.answers import (
    answers_of_classifier,
    answers_of_network,
    answers_of_regressor,
    single_score_threshold,
)
from edgewright_runtime.bundle.manifest import TensorSpec

ORDER = [0, 1, 10, 11, 2, 3]


def spec(**options):
    return DataSpec(path=Path("data.csv"), **options)


def of_classes(y, classes, **options):
    return answers_of_classifier(np.array(y), np.array(classes), spec(**options))


def of_network(y, *shape, dtype=None, **options):
    output = TensorSpec("out", (-1, *shape), "float32")
    return answers_of_network(np.array(y, dtype=dtype), (output,), spec(**options))


@pytest.mark.parametrize(
    "write", [int, float, str, lambda v: f"{v}.0", np.float32], ids=["int", "float", "text", "3.0", "f4"]
)
@pytest.mark.parametrize(
    "classes", [np.arange(12), np.arange(12.0), np.arange(12).astype(str)], ids=["int", "float", "text"]
)
def test_a_class_is_found_by_its_number_however_it_is_written(write, classes):
    y = np.array([write(v) for v in ORDER], dtype=object)
    found = answers_of_classifier(y, classes, spec())
    np.testing.assert_array_equal(found.y, ORDER)
    assert found.notes == ()
    assert found.task is ModelTask.CLASSIFICATION


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        ([True, False], [False, True], [1, 0]),
        (["True", "False"], [False, True], [1, 0]),
        ([1, 0], [False, True], [1, 0]),
        ([True, False], [0, 1], [1, 0]),
        ([-1.0, 1.0], [-1, 1], [0, 1]),
        ([0.5, 0.25], [0.25, 0.5], [1, 0]),
        (["b", " a"], ["a", "b"], [1, 0]),
        ([" a", "b"], [" a", "b"], [0, 1]),
        (["01", "1"], ["01", "1"], [0, 1]),
        (["é", "日本"], ["é", "日本"], [0, 1]),
    ],
)
def test_truth_values_texts_and_fractions_are_matched(y, classes, expected):
    np.testing.assert_array_equal(of_classes(y, classes).y, expected)


def test_a_fraction_in_float32_is_the_class_that_it_was():
    y = np.array([0.1, 0.7], dtype=np.float32)
    np.testing.assert_array_equal(answers_of_classifier(y, np.array([0.1, 0.7]), spec()).y, [0, 1])


def test_texts_are_taken_for_the_numbers_that_label_encoder_gives_them_and_a_note_says_so():
    found = of_classes(["yes", "no", "yes"], [0, 1])
    np.testing.assert_array_equal(found.y, [1, 0, 1])
    assert "no = 0, yes = 1" in found.notes[0]


@pytest.mark.parametrize(
    ("y", "classes", "words"),
    [
        ([1, 2, 3], [0, 1, 2], "the target holds '3', but the model knows 0, 1, 2; name the answers in the order"),
        ([3, 4, 5], [0, 1, 2], "holds '3', '4', '5', but"),
        ([10.0, 20.0], [0, 1], "holds '10.0', '20.0'"),
        (["10", "20"], [0, 1], "holds '10', '20'"),
        (["a", "b", "c"], [0, 1], "holds 'a', 'b', 'c'"),
        (["a", "b"], [1, 2], "holds 'a', 'b'"),
        ([1], ["1", "01"], "holds '1', but the model knows 1, 01"),
        ([0.5, 1.0], [0, 1], "holds '0.5'"),
    ],
)
def test_numbers_are_never_matched_by_their_order(y, classes, words):
    with pytest.raises(InputError, match=words):
        of_classes(y, classes)


def test_labels_of_the_data_file_name_the_classes_in_their_order():
    found = of_classes([5, 3, 4], [0, 1, 2], labels=("3", "4", "5"))
    np.testing.assert_array_equal(found.y, [2, 0, 1])
    assert found.labels == ("3", "4", "5")
    with pytest.raises(InputError, match="labels names 2 classes, the model has 3"):
        of_classes([5], [0, 1, 2], labels=("3", "4"))
    with pytest.raises(InputError, match="holds '6', but the model knows 3, 4, 5"):
        of_classes([6], [0, 1, 2], labels=("3", "4", "5"))


def test_a_task_that_the_model_does_not_have_is_refused():
    with pytest.raises(InputError, match="task: regression, but the model is a classifier of 2 classes"):
        of_classes([0, 1], [0, 1], task="regression")
    with pytest.raises(InputError, match="task: classification, but a Ridge predicts values"):
        answers_of_regressor(np.array([1.0]), "Ridge", spec(task="classification"))


@pytest.mark.parametrize("value", ["cheap", float("inf"), "nan", "1_0", "\uff11"])
def test_a_regressor_needs_finite_numbers(value):
    with pytest.raises(InputError, match=r"the target in row 1 is .*; a regressor needs"):
        answers_of_regressor(np.array([1.5, value], dtype=object), "Ridge", spec())


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
def test_a_network_with_scores_and_whole_numbers_classifies(dtype):
    found = of_network([0, 11, 3], 12, dtype=dtype)
    assert found.task is ModelTask.CLASSIFICATION
    assert found.labels == tuple(str(i) for i in range(12))
    assert found.y.dtype == np.int64
    assert bool(found.notes) == np.issubdtype(dtype, np.floating)


@pytest.mark.parametrize("dtype", [np.int64, bool, np.float32])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_output_and_the_answers_0_and_1_are_two_classes(shape, dtype):
    found = of_network([0, 1, 1], *shape, dtype=dtype)
    assert (found.task, found.labels) == (ModelTask.CLASSIFICATION, ("0", "1"))
    assert "one output a row and the answers 0 and 1" in found.notes[0]
    assert of_network([0, 1, 1], *shape, dtype=dtype, task="regression").task is ModelTask.REGRESSION


@pytest.mark.parametrize("y", [[0, 1, 2], [20, 31, 64], [0.5, 1.0], [0.0, 0.0]])
def test_one_output_and_other_numbers_are_a_regression(y):
    found = of_network(y, 1)
    assert found.task is ModelTask.REGRESSION
    assert found.y.dtype == np.float64


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([-1, 1, 1], r"-1 and 1, .*`labels: \[-1, 1\]` in the data file, .*, or `task: regression`"),
        ([2.0, 1.0], r"1 and 2, .*`labels: \[1, 2\]`"),
        (["yes", "no"], r"'no' and 'yes', .*`labels: \['no', 'yes'\]` in the data file, .* last$"),
    ],
)
def test_one_output_and_two_other_answers_must_be_named(y, words):
    with pytest.raises(InputError, match=words):
        of_network(y, 1)


@pytest.mark.parametrize("y", [[1e20, 3e20, 2e20], [2.0**63, 0.0], [-1e19, 0.5], [2**63, 2**64 - 1, 0]])
def test_numbers_beyond_int64_are_values(y):
    """Every float from 2^53 on is whole."""
    for options in ({}, {"task": "regression"}):
        found = of_network(y, 1, **options)
        assert found.task is ModelTask.REGRESSION
        np.testing.assert_array_equal(found.y, np.array(y, dtype=np.float64))
    with pytest.raises(InputError, match="is not a class number, but the model has scores for the classes 0-2"):
        of_network(y, 3)
    with pytest.raises(InputError, match="needs the answers 0 and 1, found"):
        of_network(y, 1, task="classification")


def test_a_text_and_a_number_must_be_named_as_well():
    with pytest.raises(InputError, match=r"the answers are 1 and 'no', .*`labels: \[1, 'no'\]`"):
        of_network(["no", 1], 1, dtype=object)


def test_two_other_answers_may_be_values():
    assert of_network([-1, 1], 1, task="regression").task is ModelTask.REGRESSION


@pytest.mark.parametrize(
    ("y", "shape", "options", "words"),
    [
        ([0, 1, 2], (1,), {"task": "classification"}, "needs the answers 0 and 1, found 0, 1, 2"),
        ([0, 1], (3,), {"task": "regression"}, "but the model gives 3 values a row"),
        ([0.5, 1.0], (3,), {}, "the answer 0.5 is not a class number, but the model has scores for the classes 0-2"),
        (["a", "b"], (3,), {}, "the answer 'a' is text"),
        ([0, 3], (3,), {}, "classes 0-3 but the model has scores for 0-2"),
        ([-1, 1], (3,), {}, "classes -1-1 but"),
        ([0, 1], (2, 8, 8), {}, r"one answer for each row, but the output has the shape \[-1, 2, 8, 8\]"),
    ],
)
def test_answers_that_do_not_fit_the_output_are_refused_in_one_line(y, shape, options, words):
    with pytest.raises(InputError, match=words) as error:
        of_network(y, *shape, **options)
    assert "\n" not in str(error.value)


def test_labels_give_names_to_a_networks_scores():
    found = of_network(["dog", "cat"], 2, labels=("cat", "dog"))
    np.testing.assert_array_equal(found.y, [1, 0])
    assert of_network([-1, 1], 1, labels=("-1", "1")).y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("scores", "threshold"), [([0.0, 1.0], 0.5), ([0.2], 0.5), ([-0.1, 0.9], 0.0), ([0.2, 3.0], 0.0)]
)
def test_one_score_is_a_probability_where_all_are_between_0_and_1(scores, threshold):
    assert single_score_threshold(np.array(scores)) == threshold
