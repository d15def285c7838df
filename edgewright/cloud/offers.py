"""What devices are told is current: thousands that sync must not each read a repository in an object store."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from threading import Lock
from typing import Any

from edgewright.cloud.refreshed import Refreshed
from edgewright.errors import EdgewrightError
from edgewright.release.release import current_document
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.bundle.line import checked_line
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.predict.protocol import Offer

__all__ = ["Offers"]

_MAX_LINES = 1000


class Offers:
    """The current release of each line that devices follow, read at most once in ``every_s``.

    A repository that is slow to answer for one line keeps nobody of another waiting.
    """

    def __init__(self, repository: str | None, counted: dict[str, int], every_s: float) -> None:
        self._repository = ReleaseRepository(repository) if repository is not None else None
        self._counted, self._every_s = counted, every_s
        self._known: OrderedDict[str, Refreshed[Offer | None]] = OrderedDict()
        self._lock = Lock()

    def current(self, status: Mapping[str, Any]) -> Offer | None:
        """The line of the release that a device says it has, and its current version; None where there is none, or the
        repository fails.
        """
        line = _line_in(status)
        if self._repository is None or line is None:
            return None
        return self._of(self._repository, line).value(self._every_s)

    def _of(self, repository: ReleaseRepository, line: str) -> Refreshed[Offer | None]:
        with self._lock:
            # Only the table is locked: the repository is read outside, by `Refreshed`.
            known = self._known.setdefault(line, Refreshed(partial(self._read, repository, line)))
            self._known.move_to_end(line)
            if len(self._known) > _MAX_LINES:  # devices say what they like
                self._known.popitem(last=False)
            return known

    def _read(self, repository: ReleaseRepository, line: str) -> Offer | None:
        try:
            document = current_document(repository, line)
        except EdgewrightError:
            # A repository that fails must not keep devices from delivering their records.
            self._counted["offer_failures"] += 1
            return None
        return Offer(line, document.version) if document else None


def _line_in(status: Mapping[str, Any]) -> str | None:
    """The line in a device's ``release``, ``LINE.VERSION``."""
    try:
        return checked_line(str(status.get("release", "")).rpartition(".")[0])
    except IntegrityError:
        return None
