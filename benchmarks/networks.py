"""Devices behind bad networks, at full length: in the end the server's count equals each device's, exactly.

``make networks`` takes about 22 minutes of mostly waiting: four devices at once log ten predictions a second into their
outboxes and sync every second with the real cloud (a process of its own, SQLite), each through its own network:

``offline``        no network for two minutes, then back
``five_minutes``   five minutes without, five with, and the same again
``lossy``          600 ms round trip; 2% of the pieces lost: retransmitted a second later, or the connection breaks
``lost_answers``   for three of ten connections the answer is lost after the server has committed
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.local_cloud import running_cloud
from edgewright.cloud.database import Database
from edgewright_runtime.errors import IntegrityError, TransportError
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.predict.offline import sync
from tests.runtime.relay import Relay

__all__ = ["Result", "run"]

_EVERY_S = 0.1
_SYNC_S = 1.0
_DRAIN_S = 300.0


@dataclass
class Result:
    """What one device logged and the server has of it; ``failed_syncs`` shows that the network was bad."""

    seconds: float
    logged: int = 0
    server_count: int = 0
    lost: int = 0
    twice: int = 0
    failed_syncs: int = 0
    broken: int = 0
    stalled: int = 0
    answers_lost: int = 0
    still_waiting: int = 0


def main() -> None:
    """Run every profile at once and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--five-minutes-s", type=float, default=300.0, help="length of the on and off phases")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "networks.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), options.five_minutes_s)
    shown = {name: asdict(result) for name, result in results.items()}
    print(json.dumps(shown, indent=1))
    options.out.write_text(json.dumps(shown, indent=1) + "\n")
    wrong = [name for name, r in results.items() if r.lost or r.twice or r.still_waiting or r.logged != r.server_count]
    if wrong:
        sys.exit(f"FAILED: the server's count is not the device's: {', '.join(wrong)}")


def run(folder: Path, phase_s: float) -> dict[str, Result]:
    """All profiles at once; ``phase_s`` is the length of the phases that are five minutes."""
    with running_cloud(f"sqlite:///{folder / 'cloud.db'}") as (url, _, database):
        port = int(url.rpartition(":")[2])
        profiles: dict[str, tuple[Relay, float, Callable[[float], bool]]] = {
            "offline": (Relay(port), 0.6 * phase_s, lambda s: s > 0.4 * phase_s),
            "five_minutes": (Relay(port), 4 * phase_s, lambda s: int(s / phase_s) % 2 == 1),
            "lossy": (Relay(port, delay_s=0.3, loss=0.02), phase_s, lambda _: True),
            "lost_answers": (Relay(port, lost_answers=0.3), phase_s, lambda _: True),
        }
        results: dict[str, Result] = {}

        def live(name: str) -> None:
            relay, seconds, is_up = profiles[name]
            client = CloudClient(relay.url, database.add_device(name), attempts=2, breaker=Breaker(pause_s=5))
            results[name] = _lived(folder / f"{name}.db", client, relay, seconds, is_up, database, name)

        threads = [threading.Thread(target=live, args=(name,)) for name in profiles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {name: results[name] for name in profiles}


def _lived(
    path: Path,
    client: CloudClient,
    relay: Relay,
    seconds: float,
    is_up: Callable[[float], bool],
    database: Database,
    name: str,
) -> Result:
    """One device's life: it logs and syncs, then the network is well and the outbox empties."""
    outbox, result, keys = Outbox(path), Result(seconds), []
    began = synced = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        if relay.up != is_up(now - began):
            relay.up = not relay.up
        keys.append(outbox.add({"kind": "prediction", "n": len(keys)}))
        if now > synced + _SYNC_S:
            result.failed_syncs += not _synced(outbox, client)
            synced = time.monotonic()
        time.sleep(_EVERY_S)
    relay.up = True
    while outbox.counters()["waiting"] and time.monotonic() < began + seconds + _DRAIN_S:
        _synced(outbox, client)
        time.sleep(_EVERY_S)
    arrived = [body["n"] for body in database.bodies("prediction") if body["device"] == name]
    result.logged, result.server_count = len(keys), len(arrived)
    result.lost = len(set(range(len(keys))) - set(arrived))
    result.twice = len(arrived) - len(set(arrived))
    result.broken, result.stalled, result.answers_lost = relay.broken, relay.stalled, relay.answers_lost
    result.still_waiting = outbox.counters()["waiting"]
    outbox.close()
    return result


def _synced(outbox: Outbox, client: CloudClient) -> bool:
    with suppress(TransportError, IntegrityError):
        sync(outbox, client, {})
        return True
    return False


if __name__ == "__main__":
    main()
