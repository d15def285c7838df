"""How often a caller may ask."""

from edgewright.cloud.rates import Bucket, Rates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_a_steady_rate() -> None:
    clock = Clock()
    rates = Rates(Bucket(2.0, 3), Bucket(1000.0, 1000), clock)
    assert [rates.wait_of("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait_of("b") == 0  # another's bucket
    clock.now += 0.5
    assert [rates.wait_of("a") for _ in range(2)] == [0, 0.5]
    clock.now += 1000
    assert [rates.wait_of("a") for _ in range(4)] == [0, 0, 0, 0.5]  # no fuller than its burst


def test_everybody_together_has_a_bucket_too() -> None:
    rates = Rates(Bucket(100.0, 100), Bucket(1.0, 2), Clock())
    assert [rates.wait_of_all() for _ in range(3)] == [0, 0, 1.0]


def test_strangers_take_nothing_from_the_others() -> None:
    rates = Rates(Bucket(100.0, 100), Bucket(1.0, 2), Clock())
    assert [rates.wait_of_strangers() for _ in range(3)] == [0, 0, 1.0]
    assert [rates.wait_of_all() for _ in range(3)] == [0, 0, 1.0]


def test_callers_that_are_gone_are_forgotten() -> None:
    rates = Rates(Bucket(1.0, 1), Bucket(1.0, 1), Clock())
    for number in range(10_050):
        rates.wait_of(str(number))
    assert len(rates._levels) == 10_000
    assert "0" not in rates._levels
