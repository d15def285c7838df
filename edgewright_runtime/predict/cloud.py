"""The device's side of the cloud: bounded time, retries with jitter, a circuit breaker, replies strictly read."""

from __future__ import annotations

import gzip
import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from edgewright_runtime.errors import IntegrityError, RefusedError, TransportError
from edgewright_runtime.predict.protocol import PREDICT_PATH, CloudAnswer, Question, message
from edgewright_runtime.strict_json import Fields, parse_object
from edgewright_runtime.web import opener, plain_line
from edgewright_runtime.wire import read

__all__ = ["Breaker", "CloudClient"]

T = TypeVar("T")

_MAX_REPLY_BYTES = 1 << 20
_GZIP_FROM_BYTES = 1024  # below that the header costs more than it saves
_RETRIED = {429, 500, 502, 503, 504}


class Breaker:
    """Stop asking after ``failures`` in a row; after ``pause_s`` a single request tries again.

    While it is open a call costs nothing: no added latency while the network is down.
    """

    def __init__(self, failures: int = 3, pause_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._pause_s, self._clock = failures, pause_s, clock
        self._failed = 0
        self._try_at = 0.0
        self._lock = threading.Lock()

    def another(self) -> Breaker:
        """A closed one with the same settings."""
        return Breaker(self._allowed, self._pause_s, self._clock)

    def admits(self) -> bool:
        """Whether a request may be made now; after the pause this is true for one caller only."""
        with self._lock:
            if self._failed < self._allowed:
                return True
            if self._clock() < self._try_at:
                return False
            # Moved on at once, so that the others are refused while this one tries.
            self._try_at = self._clock() + self._pause_s
            return True

    def is_open(self) -> bool:
        """Whether a request would be refused now; unlike `admits` this takes no turn."""
        with self._lock:
            return self._failed >= self._allowed and self._clock() < self._try_at

    def succeeded(self) -> None:
        """Close the breaker."""
        with self._lock:
            self._failed = 0

    def failed(self) -> None:
        """Count a failure; open the breaker after enough of them."""
        with self._lock:
            self._failed += 1
            if self._failed >= self._allowed:
                self._try_at = self._clock() + self._pause_s


class CloudClient:
    """Speaks to ``edgewright cloud`` at ``url`` as the device that ``token`` names.

    ``timeout_s`` bounds a whole exchange. ``breaker`` is of `predict`; other paths have one of their own, since a
    cloud that does not serve this model must not keep records from being sent.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = 5.0,
        attempts: int = 3,
        breaker: Breaker | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise TransportError(f"{url}: the cloud is reached by http or https")
        self._url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._pause = pause
        self.breaker = breaker or Breaker()
        self._other_breaker = self.breaker.another()
        self._opener = opener(grace_s=timeout_s, redirect_hosts=None)  # the token is for this server alone

    def ask(self, row: Any, model: str, classes: int | None = None) -> CloudAnswer:
        """Ask for an answer to one raw row (table) or array (nested lists): a distribution where there are ``classes``.

        Raises:
            TransportError: no answer within the attempts, or the breaker is open.
            IntegrityError: an answer that is not what the protocol says.
        """
        return self.post(PREDICT_PATH, Question(model, row), partial(_judged, classes=classes))

    def post(self, path: str, content: Any, judge: Callable[[Fields], T]) -> T:
        """Post a request of `protocol` and return what ``judge`` makes of the JSON reply.

        Tried again where the failure may pass. A reply that ``judge`` refuses with an `IntegrityError` counts for the
        breaker as no reply does.

        Raises:
            TransportError: no answer, or refused.
            IntegrityError: a reply that is not a JSON object, or that was refused.
        """
        breaker = self.breaker if path == PREDICT_PATH else self._other_breaker
        if not breaker.admits():
            raise TransportError(f"{self._url}: not asked, since it failed repeatedly; tried again after a pause")
        body = message(content)
        for attempt in range(1, self._attempts + 1):
            try:
                reply = self._once(path, body)
                break
            except TransportError as e:
                if attempt == self._attempts or isinstance(e, RefusedError):
                    breaker.failed()
                    raise
                # Full jitter: many devices that lost the same server do not come back at the same instant.
                self._pause(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - spreading load, not a secret
        try:
            judged = judge(parse_object(reply, "the cloud's reply"))
        except IntegrityError:
            breaker.failed()
            raise
        breaker.succeeded()
        return judged

    def _once(self, path: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        if len(body) >= _GZIP_FROM_BYTES:
            body = gzip.compress(body, 6)
            headers["Content-Encoding"] = "gzip"
        request = urllib.request.Request(f"{self._url}{path}", body, headers)  # noqa: S310 - http(s), checked above
        deadline = time.monotonic() + self._timeout_s
        try:
            with self._opener.open(request, timeout=self._timeout_s) as reply:
                return _read(reply, deadline)
        except urllib.error.HTTPError as e:
            kind = TransportError if e.code in _RETRIED else RefusedError
            raise kind(f"{self._url}{path}: the server answered {e.code}: {_detail(e)}") from e
        except (OSError, ValueError, http.client.HTTPException) as e:
            raise TransportError(f"{self._url}{path}: no answer: {plain_line(getattr(e, 'reason', None) or e)}") from e


def _judged(fields: Fields, classes: int | None) -> CloudAnswer:
    answer = read(CloudAnswer, fields.rest(), "the cloud's reply")
    if not answer.scores:
        raise IntegrityError("the cloud's answer holds no scores")
    # The cloud's model may be another than the device's: its classes must be the same in number.
    if classes is not None and not _is_distribution(answer.scores, classes):
        raise IntegrityError(f"the cloud's answer is not a distribution over {classes} classes")
    return answer


def _is_distribution(scores: Sequence[float], classes: int) -> bool:
    return len(scores) == classes and min(scores) >= 0 and abs(sum(scores) - 1) <= 0.01


def _detail(error: urllib.error.HTTPError) -> str:
    """What the server says of its refusal, as far as it says it."""
    try:
        with error:
            return plain_line(error.read(300).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as e:
        return f"and no more ({plain_line(e)})"


def _read(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole reply, within its length and time: a byte a second must not hold a device."""
    content = b""
    while block := reply.read1(1 << 16):
        content += block
        if len(content) > _MAX_REPLY_BYTES:
            raise TransportError(f"the server's reply is longer than {_MAX_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TransportError("the server's reply is too slow")
    # read1() ends quietly where a connection breaks off.
    announced = reply.headers.get("Content-Length")
    if announced is not None and len(content) != int(announced):
        raise TransportError("the server's reply broke off")
    return content
