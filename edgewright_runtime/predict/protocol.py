"""What a device and its cloud say to each other: paths, requests and replies, defined once for both.

A device writes the requests and reads the replies by `wire`; the cloud validates the requests by pydantic, from the
same fields.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Optional

from edgewright_runtime.bundle.line import checked_line
from edgewright_runtime.wire import rule

__all__ = [
    "PREDICT_PATH",
    "SYNC_PATH",
    "CloudAnswer",
    "Offer",
    "Question",
    "SentRecord",
    "SyncReply",
    "SyncRequest",
    "message",
]

PREDICT_PATH, SYNC_PATH = "/v1/predict", "/v1/sync"


@dataclass(frozen=True)
class Question:
    """A raw row (table) or array (nested lists) for one of the models that answer in the cloud."""

    model: str
    row: Any


@dataclass(frozen=True)
class CloudAnswer:
    """The cloud's answer to one row: probabilities by class (regressors: one value), and who gave it."""

    scores: tuple[float, ...]
    model: str
    version: str


@dataclass(frozen=True)
class SentRecord:
    """A record of the outbox; the cloud counts each key once."""

    key: str = field(metadata=rule(min_length=1, max_length=64))
    body: dict[str, Any]


@dataclass(frozen=True)
class SyncRequest:
    """What a device tells of itself (release, versions, counters), and records that it has kept."""

    status: dict[str, Any]
    records: tuple[SentRecord, ...] = field(metadata=rule(max_length=2000, fail_fast=True))


@dataclass(frozen=True)
class Offer:
    """A release that the cloud says is current; the updater decides and checks for itself."""

    line: str = field(metadata=rule(form=checked_line))
    version: int = field(metadata=rule(ge=1))


@dataclass(frozen=True)
class SyncReply:
    """The keys of the records that the cloud has now, and what it offers."""

    confirmed: tuple[str, ...]
    offer: Optional[Offer]


def message(content: Any) -> bytes:
    """A request or a reply as JSON.

    >>> message(SyncReply(("1-2",), Offer("churn.edge_device.stable", 4)))
    b'{"confirmed": ["1-2"], "offer": {"line": "churn.edge_device.stable", "version": 4}}'
    """
    return json.dumps(content, allow_nan=False, default=vars).encode()
