"""The fewest that pass, in few tries."""

import pytest

from edgewright.optimize.search import fewest


@pytest.mark.parametrize("most", [1, 2, 7, 53])
def test_the_least_that_passes_is_found(most):
    for needed in range(1, most + 1):
        tried: list[int] = []

        def passes(count: int, tried: list[int] = tried, needed: int = needed) -> bool:
            tried.append(count)
            return count >= needed

        assert fewest(most, passes) == needed
        assert len(tried) == len(set(tried))
        assert len(tried) <= 12


def test_nothing_passes():
    assert fewest(9, lambda _: False) is None
    assert fewest(0, lambda _: True) is None
