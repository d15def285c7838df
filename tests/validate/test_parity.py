import numpy as np
import pytest

from edgewright.errors import ConversionError
from edgewright.validate.decision import Decision
from edgewright.validate.parity import check_outputs, parity

SCORES = Decision("y", None, is_class=False)


def test_differences_are_those_of_the_arrays() -> None:
    reference, outputs = {"y": np.array([[1.0, -4.0], [2.0, 0.0]])}, {"y": np.array([[1.5, -4.0], [2.0, 0.1]])}
    found = parity(reference, outputs, "test", None)
    assert found.max_absolute == 0.5
    assert found.mean_absolute == pytest.approx(0.15)
    assert found.max_relative == 0.125
    assert found.rows == 2
    assert found.agreement is None


def test_tie_in_the_source_is_explained_as_one() -> None:
    reference = {"y": np.array([[0.5, 0.5 - 1e-9], [0.9, 0.1]])}
    found = parity(reference, {"y": np.array([[0.4999999, 0.5000001], [0.9, 0.1]])}, "test", SCORES)
    assert (found.agreement, found.disagreements) == (0.5, 1)
    assert "tie there within float32 rounding" in found.explanation
    assert "test row 0" in found.explanation


def test_real_disagreement_is_not_called_a_tie() -> None:
    reference = {"y": np.array([[0.6, 0.4], [0.9, 0.1]])}
    found = parity(reference, {"y": np.array([[0.4, 0.6], [0.9, 0.1]])}, "test", SCORES)
    assert "0 of them tie" in found.explanation
    assert "margin is 0.2" in found.explanation


def test_nan_is_named_with_its_rows() -> None:
    reference = {"y": np.ones((4, 2))}
    broken = reference["y"].copy()
    broken[2:, 1] = np.nan
    with pytest.raises(ConversionError, match=r"'y' is NaN or infinite in 2 of 4 test rows \(first: row 2\)"):
        check_outputs(reference, {"y": broken}, "model.onnx")


def test_wrong_shape_and_missing_output_are_named() -> None:
    reference = {"y": np.ones((4, 2))}
    with pytest.raises(ConversionError, match=r"shape \[3\] a row, the source model's has \[2\]"):
        check_outputs(reference, {"y": np.ones((4, 3))}, "model.onnx")
    with pytest.raises(ConversionError, match=r"output 'y' is missing; the exported file has \['z'\]"):
        check_outputs(reference, {"z": np.ones((4, 2))}, "model.onnx")


def test_as_many_numbers_in_other_rows_are_another_shape() -> None:
    for found in (np.ones((2, 4)), np.ones((4, 1))):
        with pytest.raises(ConversionError, match="'y' has shape"):
            check_outputs({"y": np.ones((4, 2))}, {"y": found}, "model.onnx")
    check_outputs({"y": np.ones((4, 2))}, {"y": np.ones((4, 2, 1))}, "model.onnx")


def test_what_is_not_finite_in_the_source_may_be_so_here() -> None:
    reference = {"y": np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 1.0]])}
    check_outputs(reference, reference, "model.onnx")
    spoilt = {"y": np.array([[np.nan, 1.0], [np.inf, np.inf], [1.0, 1.0]])}
    with pytest.raises(ConversionError, match=r"in 1 of 3 test rows \(first: row 1\)"):
        check_outputs(reference, spoilt, "model.onnx")


def test_every_output_is_looked_at() -> None:
    reference = {"a": np.ones((2, 1)), "b": np.ones((2, 1))}
    with pytest.raises(ConversionError, match="'b' is NaN"):
        check_outputs(reference, {"a": np.ones((2, 1)), "b": np.full((2, 1), np.nan)}, "model.onnx")


MASKED = {"y": np.array([[1.0, -np.inf], [2.0, -np.inf], [-np.inf, 3.0]])}


@pytest.mark.parametrize("decision", [None, SCORES])
def test_equal_infinities_are_agreement(decision: Decision | None) -> None:
    outputs = {"y": MASKED["y"] + 0.5}
    check_outputs(MASKED, outputs, "m.onnx")
    found = parity(MASKED, outputs, "test", decision)
    assert (found.max_absolute, found.max_relative) == (0.5, pytest.approx(0.5 / 3))
    assert found.mean_absolute == 0.25
    assert found.cosine is not None
    assert found.cosine > 0.98


def test_a_mask_that_became_another_is_named() -> None:
    for other in (np.nan, np.inf):
        outputs = {"y": np.where(MASKED["y"] == -np.inf, other, MASKED["y"])}
        with pytest.raises(ConversionError, match="NaN or infinite in 3 of 3 test rows"):
            check_outputs(MASKED, outputs, "m.onnx")
    # In 8 bits a mask is the lowest number there.
    check_outputs(MASKED, {"y": np.maximum(MASKED["y"], -9.0)}, "m.onnx")


def test_a_decision_among_masked_scores_is_explained_in_numbers() -> None:
    outputs = {"y": np.where(MASKED["y"] == 1.0, -np.inf, MASKED["y"])}
    outputs["y"][0, 1] = 0.0
    said = parity(MASKED, outputs, "test", SCORES).explanation
    assert "nan" not in said


def test_the_same_infinities_are_no_difference() -> None:
    reference = {"y": np.array([[-np.inf, 1.0], [np.inf, 2.0]])}
    found = parity(reference, reference, "test", None)
    assert (found.max_absolute, found.mean_absolute, found.max_relative) == (0, 0, 0)
    assert found.cosine == pytest.approx(1)
