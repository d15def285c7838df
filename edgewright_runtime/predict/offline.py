"""Offline first: answers come from the device, each is kept in the outbox, and the outbox empties when it can."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.disk import kept_once
from edgewright_runtime.errors import InputRejectedError, IntegrityError
from edgewright_runtime.health.outbox import Outbox, OutboxError, Record
from edgewright_runtime.predict.cache import AnswerCache, feeds_key
from edgewright_runtime.predict.encoding import as_json, encode, needed
from edgewright_runtime.predict.hybrid import Answer, Hybrid
from edgewright_runtime.predict.protocol import SYNC_PATH, Offer, SentRecord, SyncReply, SyncRequest
from edgewright_runtime.strict_json import Fields
from edgewright_runtime.wire import read

if TYPE_CHECKING:
    from edgewright_runtime.predict.cloud import CloudClient

__all__ = ["OfflineModel", "Privacy", "Synced", "sync"]

_MODES = ("keep", "hash", "omit")


@dataclass(frozen=True)
class Privacy:
    """What a logged prediction holds of its user and its input: ``keep``, ``hash`` (keyed, by device) or ``omit``.

    Columns that the model does not use are never kept, nor sent to the cloud with a question.
    """

    user: str = "hash"
    inputs: str = "omit"

    def __post_init__(self) -> None:
        for mode in (self.user, self.inputs):
            if mode not in _MODES:
                raise InputRejectedError(f"privacy '{mode}': allowed are {', '.join(_MODES)}")


@dataclass(frozen=True)
class Synced:
    """How many records arrived, how many batches that took, and what the cloud offered."""

    records: int
    batches: int
    offer: Offer | None


class OfflineModel:
    """A model with a cache before it and an outbox behind it; safe from many threads.

    An answer comes when its record is on the disk, some milliseconds later than without; with ``wait_for_log`` False at
    once, and what was not yet written when the power fails is gone. A full disk or a broken outbox does not stop the
    answers: ``not_logged`` counts what could not be kept.
    """

    def __init__(
        self,
        model: Hybrid,
        manifest: Manifest,
        version: str,
        outbox: Outbox,
        *,
        privacy: Privacy | None = None,
        key_file: Path | None = None,
        cache_capacity: int = 1000,
        wait_for_log: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._manifest = manifest
        self._version = version
        self._privacy = privacy or Privacy()
        self._key = _hash_key(key_file) if key_file else secrets.token_bytes(32)
        self._keep = outbox.add if wait_for_log else outbox.add_soon
        self._clock = clock
        self.cache: AnswerCache[Answer] = AnswerCache(cache_capacity, version)
        self.not_logged = 0

    def answer(self, raw: Any, *, user: str | None = None) -> Answer:
        """Answer a raw row or array and log it; a repeated input is answered from the cache, and logged too.

        Raises:
            InputRejectedError: the input does not fit the manifest.
        """
        began = time.perf_counter()
        # Outside the model's guard: a wrong input is the caller's, and no earlier answer stands in for it.
        feeds = encode(raw, self._manifest.inputs, self._manifest.preprocessing)
        # Of the encoded input: rows that differ only in columns that the model does not use share an answer.
        key = feeds_key(feeds)
        answer = self.cache.get(key, self._version)
        if answer is None:
            answer = self._model.answer(raw, feeds)
            if answer.source in {"edge", "cloud"}:  # a fallback may be better next time
                self.cache.put(key, self._version, answer)
        else:
            answer = replace(answer, source="cache", latency_ms=(time.perf_counter() - began) * 1000, model_ms=None)
        try:
            self._keep(self._entry(answer, key, raw, user))
        except OutboxError:
            self.not_logged += 1
        return answer

    def _entry(self, answer: Answer, key: bytes, raw: Any, user: str | None) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "kind": "prediction",
            "time_s": self._clock(),
            "release": self._version,
            "source": answer.source,
            "label": answer.label,
            "confidence": answer.confidence,
            "latency_ms": answer.latency_ms,
        }
        if user is not None and self._privacy.user != "omit":
            in_clear = self._privacy.user == "keep"
            # A user's name from JSON may hold half of a surrogate pair, which has no UTF-8.
            entry["user"] = user if in_clear else self._hashed(user.encode("utf-8", "surrogatepass"))
        if self._privacy.inputs == "keep":
            entry["input"] = as_json(needed(raw, self._manifest.preprocessing))
        elif self._privacy.inputs == "hash":
            entry["input"] = self._hashed(key)
        return entry

    def _hashed(self, content: bytes) -> str:
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()


def sync(outbox: Outbox, cloud: CloudClient, status: Mapping[str, Any], most_batches: int = 1000) -> Synced:
    """Send what waits, oldest first, until nothing does; a record leaves the outbox when the cloud has confirmed it.

    A batch whose confirmation was lost is sent again with the same keys, and counted once there.
    ``status`` tells the cloud about the device: release, versions, counters.

    Raises:
        TransportError: the cloud does not answer; what was not confirmed stays.
        IntegrityError: a reply that is not what the protocol says.
    """
    sent, offer = 0, None
    for number in range(most_batches):
        batch = outbox.batch()
        # The first round goes out even with nothing to send: the status and the offer travel with it.
        if not batch and number:
            return Synced(sent, number, offer)
        request = SyncRequest(dict(status), tuple(_sent(record) for record in batch))
        offer = cloud.post(SYNC_PATH, request, partial(_confirmed, keys={record.key for record in batch})).offer
        outbox.acknowledge(sorted(record.key for record in batch))
        sent += len(batch)
        if not batch:
            return Synced(0, 1, offer)
    return Synced(sent, most_batches, offer)


def _sent(record: Record) -> SentRecord:
    return SentRecord(record.key, json.loads(record.body))


def _confirmed(fields: Fields, keys: AbstractSet[str]) -> SyncReply:
    reply = read(SyncReply, fields.rest(), "the cloud's reply")
    # Exactly the keys that were sent: on any other reply nothing is deleted.
    if set(reply.confirmed) != keys:
        raise IntegrityError(
            f"the cloud confirmed {len(set(reply.confirmed))} records, {len(keys)} were sent: nothing is removed"
        )
    return reply


def _hash_key(path: Path) -> bytes:
    """This device's secret for hashes: without it a hashed user id could be found by trying all of them."""
    return kept_once(path, lambda: secrets.token_bytes(32), 0o600)
