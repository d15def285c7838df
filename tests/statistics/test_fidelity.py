"""Where nobody knows the true answers, the source's are what is kept or lost."""

import tracemalloc

import numpy as np
import pytest

from edgewright.errors import InputError
from edgewright.statistics.fidelity import fidelity_drop, fidelity_of, output_parity


def answers(seed: int = 0, rows: int = 300) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {"boxes": chance.normal(size=(rows, 7, 4)), "scores": 5 + chance.normal(size=(rows, 7, 3))}


def noisy(reference: dict[str, np.ndarray], decibels: float) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)
    return {n: a + 10 ** (-decibels / 20) * chance.normal(size=a.shape) for n, a in reference.items()}


def test_the_same_answers_lose_nothing() -> None:
    reference = answers()
    assert fidelity_of(reference, reference).value == 1
    drop = fidelity_drop(reference, reference)
    assert (drop.percent, drop.p_value) == (0, 1)


def test_twenty_decibels_are_a_percentage_point() -> None:
    reference = answers()
    found = fidelity_of(reference, noisy(reference, 20))
    assert found.value == pytest.approx(0.99, abs=1e-3)
    assert found.low < found.value < found.high
    assert found.rows == 300
    drop = fidelity_drop(reference, noisy(reference, 20))
    assert drop.percent == pytest.approx(1, abs=0.1)
    assert drop.p_value < 0.01


def test_the_worst_output_counts() -> None:
    reference = answers()
    broken = noisy(reference, 60) | {"scores": reference["scores"][::-1]}
    assert fidelity_of(reference, broken).value < 0
    by_name = {found.name: found for found in output_parity(reference, broken)}
    assert by_name["boxes"].fidelity > 0.999
    assert by_name["scores"].fidelity < 0


def test_an_offset_hides_no_error() -> None:
    """A cosine near 1 proves nothing: these answers are 5 and a little, and the little is lost."""
    reference = {"scores": answers()["scores"]}
    flat = {"scores": np.full_like(reference["scores"], 5.0)}
    (found,) = output_parity(reference, flat)
    assert found.cosine is not None
    assert found.cosine > 0.95
    assert found.fidelity < 0.1


@pytest.mark.parametrize("off", [0.0, 1e-6])
def test_a_constant_output_is_judged_by_its_magnitude(off: float) -> None:
    constant = {"anchors": np.full((50, 3), 7.0) + 1e-7 * np.random.default_rng(0).normal(size=(50, 3))}
    assert fidelity_of(constant, {"anchors": constant["anchors"] + off}).value > 0.999_999
    assert fidelity_of({"zero": np.zeros((9, 2))}, {"zero": np.zeros((9, 2))}).value == 1
    assert fidelity_of({"zero": np.zeros((9, 2))}, {"zero": np.ones((9, 2))}).value == 0


def test_what_the_source_leaves_undefined_is_not_compared() -> None:
    reference = answers(rows=40)
    reference["scores"][3] = np.nan
    outputs = {n: np.nan_to_num(a, nan=123.0) for n, a in reference.items()}
    assert fidelity_of(reference, outputs).value == 1


def test_huge_answers_do_not_overflow() -> None:
    reference = {"y": 1e200 * answers()["boxes"]}
    assert fidelity_of(reference, {"y": 1.001 * reference["y"]}).value == pytest.approx(1 - 1e-6)


def test_agreement_is_of_the_largest_element() -> None:
    reference = {"tokens": np.eye(4)[np.arange(40) % 4].reshape(10, 4, 4)}
    outputs = {"tokens": reference["tokens"].copy()}
    outputs["tokens"][0, 0] = [0, 0, 0, 9]
    (found,) = output_parity(reference, outputs)
    assert found.agreement == pytest.approx(39 / 40)


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        fidelity_of({"y": np.zeros((0, 2))}, {"y": np.zeros((0, 2))})


def test_many_rows_take_no_more_memory() -> None:
    """The counts of 2000 draws of 60,000 rows are a gigabyte."""
    chance = np.random.default_rng(0)
    reference = {"y": chance.normal(size=(60_000, 1))}
    tracemalloc.start()
    found = fidelity_of(reference, noisy(reference, 20))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 200 << 20
    assert found.low < found.value < found.high
