"""One model on one platform in one channel: what a device follows, and what has versions of its own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.wire import rule

__all__ = ["PLATFORMS", "Line", "checked_channel", "checked_line", "checked_model", "checked_platform"]

PLATFORMS = ("ios", "android", "edge_device")
_CHANNEL = re.compile(r"[a-z0-9_-]{1,64}")
_LINE = re.compile(r"[a-z0-9_-]{1,64}(\.[a-z0-9_-]{1,64}){0,2}")
_MAX_MODEL_BYTES = 200  # it names files, with endings
_SLUG_CHARACTERS = 48


def checked_model(model: str) -> str:
    """The model's name, if it is one. Raises `IntegrityError` else, as the others here do."""
    plain = model.isprintable() and not set(model) & {"/", "\\"} and not model.startswith(".")
    if not model or not plain or len(model.encode()) > _MAX_MODEL_BYTES:
        raise IntegrityError(
            f"model name {model[:70]!r}: 1 to {_MAX_MODEL_BYTES} bytes of printable text are allowed, no slash, no dot "
            "in front"
        )
    return model


def checked_platform(platform: str) -> str:
    """The platform, if there is such a one."""
    if platform not in PLATFORMS:
        raise IntegrityError(f"platform {platform[:70]!r}: {', '.join(PLATFORMS)} are allowed")
    return platform


def checked_channel(channel: str) -> str:
    """The channel's name, if it is one that can stand in a path."""
    if not _CHANNEL.fullmatch(channel):
        raise IntegrityError(f"channel {channel[:70]!r}: 1 to 64 of a-z, 0-9, - and _ are allowed")
    return channel


def checked_line(line: str) -> str:
    """A line's id, if it is one that can stand in a path."""
    if not _LINE.fullmatch(line):
        raise IntegrityError(f"line {line[:90]!r}: expected is MODEL.PLATFORM.CHANNEL")
    return line


@dataclass(frozen=True)
class Line:
    """A model's name, its platform and a channel.

    >>> Line("churn", "edge_device", "stable").id
    'churn.edge_device.stable'
    """

    model: str = field(metadata=rule(form=checked_model))
    platform: str = field(metadata=rule(form=checked_platform))
    channel: str = field(metadata=rule(form=checked_channel))

    @property
    def id(self) -> str:
        """The line's name in paths; models whose names cannot stand there are told apart by a digest."""
        if not self.model:  # a release of schema version 1, which knew channels only
            return self.channel
        slug = re.sub(r"[^a-z0-9_-]+", "-", self.model.lower())[:_SLUG_CHARACTERS]
        # "Churn v2" and "churn-v2" have the same slug.
        told_apart = "" if slug == self.model else f"-{hashlib.sha256(self.model.encode()).hexdigest()[:8]}"
        return f"{slug}{told_apart}.{self.platform}.{self.channel}"

    def __str__(self) -> str:
        return f"'{self.model}' for {self.platform} on {self.channel}" if self.model else self.channel
