"""The judgement itself, on arrays: what a limit allows, row for row."""

import numpy as np
import pytest

from edgewright.errors import ConversionError
from edgewright.export.parity_check import _judged, _Limits, _not_finite, _relative
from edgewright.export.real_rows import real_rows


def judged(expected, found, *, largest=None, snr_db=None, has_thresholds=False):
    off = _relative(expected, found)
    return _judged("y", expected, found, off, _Limits(largest, snr_db), has_thresholds=has_thresholds)


def test_difference_is_relative_to_the_largest_magnitude_of_all_rows():
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    found = np.array([[1.0, -3.0], [2.5, 0.25]], np.float32)
    assert _relative(expected, found).tolist() == [0.25, 0.125]


def test_small_numbers_are_held_against_small_ones():
    assert _relative(np.array([[0.5], [0.25]]), np.array([[0.5], [0.5]])).tolist() == [0.0, 0.5]


def test_where_all_is_zero_the_difference_stands_for_itself():
    assert _relative(np.zeros((2, 1)), np.array([[0.0], [0.5]])).tolist() == [0.0, 0.5]


def test_what_is_infinite_or_nan_in_both_is_the_same():
    same = np.array([[np.inf, 2.0], [np.nan, 2.0], [-np.inf, 2.0]])
    assert _relative(same, same.copy()).tolist() == [0.0, 0.0, 0.0]


def test_an_infinite_answer_of_the_source_hides_no_difference():
    expected = np.array([[np.inf, 4.0], [1.0, 4.0], [-np.inf, 4.0], [np.inf, 4.0]])
    found = np.array([[np.inf, 4.0], [1.0, 3.0], [np.inf, 4.0], [1.0, 4.0]])
    assert _relative(expected, found).tolist() == [0.0, 0.25, np.inf, np.inf]
    assert _relative(expected[:1, :1], found[3:, :1]).tolist() == [np.inf]


def test_what_is_nan_in_one_alone_is_not_the_same():
    for expected, found in ((np.nan, 1.0), (1.0, np.nan)):
        off = _relative(np.array([[expected], [1.0]]), np.array([[found], [1.0]]))
        assert np.isnan(off[0])
        assert off[1] == 0


def test_labels_differ_or_do_not():
    assert _relative(np.array([[1, 2], [3, 900]]), np.array([[1, 2], [3, 4]])).tolist() == [0.0, 1.0]


def test_another_shape_is_refused_and_the_same_numbers_in_another_are_not():
    with pytest.raises(ConversionError, match="shape"):
        _relative(np.zeros((2, 3)), np.zeros((2, 4)))
    assert _relative(np.ones((2, 4)), np.ones((2, 2, 2))).tolist() == [0.0, 0.0]


def test_rows_are_counted_that_only_the_exported_file_spoils():
    expected = np.array([[1.0, 2.0], [np.nan, 2.0], [1.0, 2.0], [1.0, 2.0]])
    found = np.array([[np.nan, np.inf], [np.nan, 2.0], [1.0, 2.0], [np.inf, 2.0]])
    assert _not_finite(expected, found) == 2
    assert _not_finite(expected[:1], found[:1]) == 1
    assert _not_finite(np.array([[1], [2]]), np.array([[1], [2]])) == 0


def test_a_difference_at_the_limit_is_allowed_and_one_beyond_is_not():
    expected = np.array([[4.0], [1.0]], np.float32)
    assert judged(expected, np.array([[4.0], [1.5]], np.float32), largest=0.125) == ("", False)
    said, is_told = judged(expected, np.array([[4.0], [1.5]], np.float32), largest=0.12)
    assert said == "output 'y' is off by 0.12 of its largest magnitude (limit 0.12) in 1 of 2 real rows"
    assert not is_told


def test_nan_is_beyond_every_limit():
    said, is_told = judged(np.array([[4.0], [1.0]]), np.array([[np.nan], [1.0]]), largest=1e9)
    assert "NaN or infinite in 1 of 2 real rows" in said
    assert not is_told
    said, is_told = judged(np.array([[4.0], [1.0]]), np.array([[np.nan], [1.0]]), largest=1e9, has_thresholds=True)
    assert "off by inf " in said
    assert not is_told


@pytest.mark.parametrize(
    ("rows", "differing", "is_told"), [(200, 2, True), (200, 3, False), (100, 1, True), (99, 1, False)]
)
@pytest.mark.parametrize("kind", ["labels", "thresholds"])
def test_one_row_in_a_hundred_may_fall_on_the_other_side_of_a_threshold(kind, rows, differing, is_told):
    expected = np.ones((rows, 1), np.int64 if kind == "labels" else np.float32)
    found = expected.copy()
    found[:differing] += 1
    said, told = judged(expected, found, largest=1e-3, has_thresholds=kind == "thresholds")
    assert said.endswith("rows differ, by a tie at a threshold" if is_told else "real rows")
    assert told == is_told


def test_scores_without_thresholds_have_no_ties():
    expected = np.ones((200, 1), np.float32)
    found = expected.copy()
    found[0] = 2
    said, is_told = judged(expected, found, largest=1e-3)
    assert said.startswith("output 'y' is off by 1 ")
    assert not is_told


@pytest.mark.parametrize(
    ("noise", "said", "is_told"),
    [
        (1.0, "output 'y' is lost in its own error: 0.0 dB", False),  # at the limit
        (2.0, "output 'y' is lost in its own error: -6.0 dB", False),
        (0.5, "output 'y' holds 6.0 dB of signal over the error of fewer bits: accuracy decides", True),
        (0.01, "", False),
    ],
)
def test_an_output_must_stand_above_its_error(noise, said, is_told):
    expected = np.array([[1.0], [-1.0]])
    assert judged(expected, expected * (1 + noise), snr_db=0.0) == (said, is_told)


def test_ten_decibels_are_not_loud_noise():
    expected = np.array([[10.0], [0.0]])
    assert judged(expected, np.array([[13.0], [1.0]]), snr_db=0.0) == ("", False)  # the error's power is 10 of 100
    assert judged(expected, expected * 1.33, snr_db=0.0)[1] is True


def test_labels_have_no_signal_to_be_lost():
    said, is_only_told = judged(np.array([[1], [2]]), np.array([[2], [1]]), snr_db=0.0)
    assert is_only_told
    assert "is the source's in 0.0% of 2 real rows" in said


def test_without_a_limit_only_what_is_not_finite_is_refused():
    assert judged(np.array([[1.0]]), np.array([[-9.0]])) == ("", False)
    assert "NaN" in judged(np.array([[1.0]]), np.array([[np.nan]]))[0]


def _dataset(folder, **splits):
    np.savez(folder / "d.npz", **{f"{split}.x.a": np.array(rows)[:, None] for split, rows in splits.items()})
    return folder / "d.npz"


def test_rows_are_spread_evenly_from_first_to_last(tmp_path):
    path = _dataset(tmp_path, validation=range(9))
    assert real_rows(path, ["a"], 3)["a"][:, 0].tolist() == [0, 4, 8]


def test_the_next_split_gives_what_the_first_lacks(tmp_path):
    path = _dataset(tmp_path, validation=range(2), calibration=range(10, 15))
    assert real_rows(path, ["a"], 4)["a"][:, 0].tolist() == [0, 1, 10, 14]
    assert real_rows(path, ["a"], 2)["a"][:, 0].tolist() == [0, 1]
    assert real_rows(path, ["a"], 4, splits=("validation",))["a"][:, 0].tolist() == [0, 1]


def test_a_split_that_is_absent_or_empty_is_passed_over(tmp_path):
    assert real_rows(_dataset(tmp_path, calibration=[7]), ["a"], 3)["a"][:, 0].tolist() == [7]
    assert real_rows(_dataset(tmp_path, validation=[], calibration=[7, 8]), ["a"], 1)["a"][:, 0].tolist() == [7]
    assert real_rows(_dataset(tmp_path, test=[7]), ["a"], 3) == {}


def test_rows_that_would_have_to_be_unpickled_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", **{"validation.x.a": np.array([{}], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        real_rows(tmp_path / "d.npz", ["a"])
