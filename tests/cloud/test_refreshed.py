"""What is slow to read is read by one thread, outside every lock that others need."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgewright.cloud.offers import Offers
from edgewright.cloud.refreshed import Refreshed
from edgewright_runtime.predict.offline import Offer

LONG_S = 10.0


def test_others_get_the_value_before_while_one_reads() -> None:
    begun, goes_on, read = threading.Event(), threading.Event(), iter(range(9))

    def slow() -> int:
        value = next(read)
        if value:
            begun.set()
            assert goes_on.wait(LONG_S)
        return value

    refreshed = Refreshed(slow)
    assert refreshed.value(0.0) == 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(refreshed.value, 0.0)
        assert begun.wait(LONG_S)
        assert [refreshed.value(0.0) for _ in range(3)] == [0, 0, 0]
        goes_on.set()
        assert reading.result(LONG_S) == 1


def test_all_wait_for_the_first_value_and_it_is_read_once() -> None:
    goes_on, read = threading.Event(), iter(range(9))

    def slow() -> int:
        assert goes_on.wait(LONG_S)
        return next(read)

    refreshed = Refreshed(slow)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(refreshed.value, 3600.0) for _ in range(4)]
        goes_on.set()
        assert [answer.result(LONG_S) for answer in asked] == [0] * 4


def test_an_error_is_not_kept() -> None:
    tried = iter((True, False))

    def fails_once() -> int:
        if next(tried):
            raise OSError("gone")
        return 1

    refreshed = Refreshed(fails_once)
    with pytest.raises(OSError, match="gone"):
        refreshed.value(3600.0)
    assert refreshed.value(3600.0) == 1


def test_a_line_that_is_slow_to_read_keeps_no_other_line_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def read(_: Offers, __: Any, line: str) -> Offer:
        if line == "slow.edge_device.stable":
            begun.set()
            assert goes_on.wait(LONG_S)
        return Offer(line, 1)

    monkeypatch.setattr(Offers, "_read", read)
    offers = Offers("file:///unused", {}, every_s=0.0)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(offers.current, {"release": "slow.edge_device.stable.1"})
        assert begun.wait(LONG_S)
        quick = pool.submit(offers.current, {"release": "quick.edge_device.stable.1"})
        assert quick.result(LONG_S / 2) == Offer("quick.edge_device.stable", 1)
        goes_on.set()
        assert slow.result(LONG_S) == Offer("slow.edge_device.stable", 1)
