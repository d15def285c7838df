"""What ends a run without a fault of the pipeline's, in one line: bad input, a full disk, a Prefect server that failed.

>>> request = httpx.Request("GET", "http://127.0.0.1:4200/api/flows")
>>> print(foreseen(httpx.ConnectError("Connection refused", request=request)))
the Prefect server at 127.0.0.1:4200 does not answer (Connection refused); see to it and to its database, and the same \
command goes on where it stopped
"""

import httpx

from edgewright.errors import EdgewrightError
from edgewright.shortage import causes, shortage_of

__all__ = ["foreseen"]


def foreseen(error: Exception) -> EdgewrightError | None:
    """What to tell the user; None where the error is a defect, and shows where it is."""
    if isinstance(error, EdgewrightError):
        return error
    # First: a full disk is behind a server's failure, too.
    message = shortage_of(error) or next(filter(None, map(_of_server, causes(error))), None)
    return EdgewrightError(message) if message else None


def _of_server(error: BaseException) -> str | None:
    """The line of one error of Prefect's client."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error:
        # Its own words are "Internal Server Error", and an address that explains the number.
        return _line(error.request, f"answers {error.response.status_code} {error.response.reason_phrase}")
    if isinstance(error, httpx.RequestError):
        request = getattr(error, "_request", None)  # `request` raises where there is none
        return _line(request, f"does not answer ({str(error) or type(error).__name__})")
    return None


def _line(request: httpx.Request | None, what: str) -> str:
    # `netloc` holds no password.
    at = f" at {request.url.netloc.decode()}" if request else ""
    return (
        f"the Prefect server{at} {what}; see to it and to its database, and the same command goes on where it stopped"
    )
