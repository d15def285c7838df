"""The bodies of requests as values: read within their limits, a few at once."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from edgewright.yaml_values import first_fault
from edgewright_runtime.nesting import MAX_DEPTH, is_nested_deeper
from edgewright_runtime.predict.protocol import Question, SyncRequest

__all__ = ["Bodies", "refusal_text"]

_MAX_BODY_BYTES = 2 << 20
# An outbox sends up to 512 kB of records, or one of a megabyte; each comma takes two bytes more on the way.
_MAX_UNPACKED_BYTES = 4 << 20
_MAX_STATUS_BYTES = 64 << 10  # an operator's list holds those of all devices
_MAX_VALUES = 600_000  # of JSON: small ones take many times their bytes in memory
_MAX_HANDLED_AT_ONCE = 8  # bodies, one of which is parsed: what waits is packed
_MAX_KEYS = 16  # of an object whose keys are ours, of which it has three at most
_MAX_SAID = 500  # characters of a refusal


_Asked = TypeVar("_Asked", SyncRequest, Question)
_FORM = ConfigDict(extra="forbid")
# The device's own dataclasses, validated by pydantic.
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(dataclass(kind, config=_FORM, frozen=True)) for kind in (SyncRequest, Question)
}


class Bodies:
    """A reader of bodies: a few are handled at once, of which one is parsed."""

    def __init__(self) -> None:
        self._handling, self._parsing = asyncio.Semaphore(_MAX_HANDLED_AT_ONCE), asyncio.Lock()

    @asynccontextmanager
    async def read(self, kind: type[_Asked], request: Request) -> AsyncIterator[_Asked]:
        """The body as a value; within, it counts as handled.

        Raises:
            HTTPException: it is beyond a limit, cut off, or not what it should be.
        """
        # Outside the semaphore: clients that are slow to send would hold all its places.
        packed = await _body(request)
        async with self._handling:
            # One at a time: JSON takes many times its length in memory while it is parsed.
            async with self._parsing:
                encoding = request.headers.get("content-encoding", "identity")
                asked = await run_in_threadpool(_parsed, kind, packed, encoding)
            yield asked


def refusal_text(error: object) -> str:
    """A refusal, which may quote what was asked: bounded, and of characters that can be sent."""
    text = str(error).encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_SAID else f"{text[: _MAX_SAID - 1]}…"


async def _body(request: Request) -> bytes:
    """The request's body as it was sent, within its limit."""
    packed = bytearray()
    try:
        async for block in request.stream():
            packed += block
            if len(packed) > _MAX_BODY_BYTES:
                raise HTTPException(413, f"more than {_MAX_BODY_BYTES} bytes")
    except ClientDisconnect as e:
        raise HTTPException(400, "the request broke off") from e
    return bytes(packed)


def _unpacked(packed: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return packed
    if encoding != "gzip":
        raise HTTPException(415, "content-encoding: gzip and identity are allowed")
    # 16: a gzip header is expected (zlib.h, inflateInit2).
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        # Bounded while it unpacks, not after: 2 MB of gzip may hold 2 GB.
        content = unpacker.decompress(packed, _MAX_UNPACKED_BYTES + 1)
    except zlib.error as e:
        raise HTTPException(400, f"not gzip: {e}") from e
    if len(content) > _MAX_UNPACKED_BYTES:
        raise HTTPException(413, f"unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
    if not unpacker.eof:
        raise HTTPException(400, "the gzip stream is cut off")
    return content


def _parsed(kind: type[_Asked], packed: bytes, encoding: str) -> _Asked:
    """The body as a value, within its limits of bytes, values and depth; takes a while, so it has a thread."""
    content = _unpacked(packed, encoding)
    # Counted in the bytes, before any object is made of them; commas in texts count too, on the safe side.
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MAX_VALUES:
        raise HTTPException(413, f"more than {_MAX_VALUES} values")
    try:
        # Python's parser admits NaN and Infinity, which are not JSON (RFC 8259).
        value = json.loads(content, parse_constant=_refused)
        if is_nested_deeper(value, MAX_DEPTH):
            raise HTTPException(422, f"nested deeper than {MAX_DEPTH}")
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinite
        _require_few_keys(value)
        asked: _Asked = _ADAPTERS[kind].validate_python(value)
    except ValidationError as e:
        raise HTTPException(422, refusal_text(first_fault(e, kind))) from e
    except (ValueError, RecursionError) as e:
        raise HTTPException(400, f"not JSON: {str(e)[:100]}") from e
    if isinstance(asked, SyncRequest):
        _require_listable(asked.status)
    return asked


def _require_few_keys(value: Any) -> None:
    """Each unknown key becomes an error of its own, with its text, before any is told."""
    records = value.get("records") if isinstance(value, dict) else None
    for part in (value, *(records if isinstance(records, list) else ())):
        if isinstance(part, dict) and len(part) > _MAX_KEYS:
            raise HTTPException(422, f"{len(part)} keys in one object; at most {_MAX_KEYS} are looked at")


def _require_listable(status: Mapping[str, Any]) -> None:
    """A status stands in a list with those of others, which it must neither swell nor break."""
    try:
        # As the list of devices will send it: JSON admits half a surrogate pair by escape, UTF-8 does not.
        length = len(json.dumps(status, ensure_ascii=False).encode())
    except UnicodeEncodeError as e:
        raise HTTPException(422, f"status: half a character ({e.object[e.start]!a}), which is not Unicode") from e
    if length > _MAX_STATUS_BYTES:
        raise HTTPException(413, f"a status of {length} bytes; at most {_MAX_STATUS_BYTES} are kept")


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")
