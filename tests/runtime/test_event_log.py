"""Events as they leave the device: JSON by kind, which clouds of every version count."""

import json
from pathlib import Path

import pytest

from edgewright_runtime.health.event_log import Event, EventLog
from edgewright_runtime.health.outbox import Outbox


@pytest.mark.parametrize(
    ("event", "record"),
    [
        (Event("rollback", release="m.1", reason="slow"), {"kind": "rollback", "release": "m.1", "reason": "slow"}),
        (Event("refused", channel="beta", reason=""), {"kind": "refused", "channel": "beta", "reason": ""}),
        (Event("rollback_failed", reason="none before it"), {"kind": "rollback_failed", "reason": "none before it"}),
    ],
)
def test_an_event_holds_what_it_concerns_and_no_other_key(tmp_path: Path, event: Event, record: dict[str, str]) -> None:
    outbox = Outbox(tmp_path / "o.db")
    EventLog(outbox, lambda: 7.0).add(event)
    (kept,) = outbox.batch()
    assert json.loads(kept.body) == {"time_s": 7.0, **record}
    outbox.close()
