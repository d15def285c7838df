"""Values of two computations are aligned by content, arrangement and order, and operators are tried one at a time."""

import numpy as np
import pytest

from edgewright.export.diagnosis.alignment import Alignment
from edgewright.export.diagnosis.computation import Computation
from edgewright.export.diagnosis.layouts import arranged, layouts
from edgewright.export.diagnosis.orientation import oriented
from edgewright.export.diagnosis.reference import Node, Reference
from edgewright.export.diagnosis.values import Difference, Limit, difference, limit_of, print_of, tells

random = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("one", "other", "moved"),
    [
        ((1, 3, 4, 5), (1, 4, 5, 3), lambda x: x.transpose(0, 1, 3, 4, 2)),
        ((1, 4, 5, 3), (1, 3, 4, 5), lambda x: x.transpose(0, 1, 4, 2, 3)),
        ((1, 3, 4, 4), (1, 3, 4, 4), lambda x: x.transpose(0, 1, 2, 4, 3)),
        ((1, 3, 4, 5), (1, 60), lambda x: x.transpose(0, 1, 3, 4, 2)),
        ((1, 60), (1, 4, 5, 3), lambda x: x.reshape(2, 3, 4, 5).transpose(0, 2, 3, 1)),
        ((1, 6, 8), (2, 6, 4), lambda x: x.reshape(2, 6, 2, 4).transpose(0, 2, 1, 3)),
    ],
)
def test_every_way_in_which_converters_lay_out_a_value_is_tried(one, other, moved):
    stack = random.normal(size=(2, *one))
    wanted = moved(stack).reshape(2, *other)
    assert any(np.array_equal(arranged(stack, layout, other), wanted) for layout in layouts(one, other))


def test_values_of_other_sizes_have_no_arrangement():
    assert layouts((1, 3, 4), (1, 13)) == ()


def test_a_difference_is_scaled_by_the_reference():
    value = random.normal(size=(2, 50))
    off = difference(value * 1000, value * 1000 * 1.01)
    assert off.snr_db == pytest.approx(40, abs=0.01)
    assert off.largest == pytest.approx(0.01, abs=1e-6)
    assert difference(value, value).snr_db == np.inf


def test_a_number_that_is_lost_is_no_rounding():
    value = random.normal(size=(2, 50))
    lost = value.copy()
    lost[1, 3] = np.nan
    assert difference(value, lost) == Difference(-np.inf, np.inf)
    both = value.copy()
    both[0, 0] = -np.inf
    assert difference(both, both).largest == 0
    assert not Limit(largest=1.0).holds(difference(value, both))


@pytest.mark.parametrize(("dtype", "off", "holds"), [
    ("float32", 1e-5, True), ("float32", 1e-4, False), ("float16", 1e-3, True), ("float16", 0.1, False),
    ("int8", 0.1, True), ("int8", 0.5, False),
])  # fmt: skip
def test_what_an_operator_may_add_depends_on_its_dtype(dtype, off, holds):
    value = random.uniform(0.5, 1, size=100)
    assert limit_of(dtype).holds(difference(value, value + off)) is holds


def test_a_print_never_excludes_what_is_within_the_limit():
    for _ in range(200):
        value = random.normal(size=60)
        noisy = random.permutation(value + random.uniform(-1, 1, 60) * 0.9e-2 * np.abs(value).max())
        assert print_of(value).near(print_of(noisy), Limit(largest=1e-2))
        assert print_of(value).near(print_of(random.permutation(value * 1.17)), Limit(snr_db=15.0))
    assert not print_of(value).near(print_of(value * 1.1), Limit(largest=1e-2))


def test_values_that_others_equal_by_chance_do_not_tell():
    assert tells(random.normal(size=(4, 1)))
    assert not tells(np.zeros((4, 10)))
    assert not tells(np.array([[0.0, 1.0, 1.0, 0.0]]))
    assert not tells(np.arange(10))


def test_inputs_are_turned_where_only_that_fits():
    image = random.normal(size=(1, 3, 8, 8))
    assert oriented(image, (1, 8, 8, 3)).shape == (1, 8, 8, 3)
    assert oriented(image, (1, 3, 8, 8)) is image
    assert oriented(image, (-1, 8, 8, 3)).shape == (1, 8, 8, 3)


class _Nothing(Computation):
    """A file without operators: only its values are matched."""

    operators, outputs, quantized = (), (), {}

    def entered(self, row):
        return {}

    def computed(self, operator, values):
        return {}

    def whole(self, row):
        return []


def alignment(**values: np.ndarray) -> Alignment:
    """Of a reference in which each value rests on the one before it."""
    names = list(values)
    nodes = [Node(name, name, "step", tuple(names[i - 1 : i])) for i, name in enumerate(names)]
    return Alignment(Reference(nodes, values, names[-1:], lambda node: ([], {})), _Nothing(), [{}, {}])


def test_a_rounded_value_is_only_one_that_rests_on_what_its_operator_read():
    first, second = random.normal(size=(2, 1, 50)), random.normal(size=(2, 1, 50))
    at = alignment(first=first, second=second)
    noisy = first + random.normal(size=first.shape) * 0.05
    rounded = limit_of("int8")
    assert at.match(noisy, frozenset(), rounded).names == ("first",)
    assert at.match(noisy, frozenset({("second",)}), rounded) is None
    # Without rounding nothing but the value itself explains such a coincidence.
    assert at.match(first, frozenset({("second",)}), limit_of("float32")).names == ("first",)


def test_a_value_that_comes_again_later_is_the_earlier_one():
    first = random.normal(size=(2, 1, 50))
    at = alignment(first=first, again=first + 1e-4)
    noisy = first + 1e-4 + random.normal(size=first.shape) * 0.01
    assert at.match(noisy, frozenset(), limit_of("int8")).names[0] == "first"


def test_values_that_differ_by_an_epsilon_are_two():
    first = random.normal(size=(2, 1, 50))
    at = alignment(first=first, shifted=first + 1e-5)
    assert at.match(first, frozenset(), limit_of("float32")).names == ("first",)
    assert at.match(first + 1e-5, frozenset(), limit_of("float32")).names == ("shifted",)
