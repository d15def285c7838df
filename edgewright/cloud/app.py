"""The cloud's side of devices in the field: sync, the fallback model, a list of devices, health and metrics."""

import asyncio
import json
import logging
import math
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field, ValidationError
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from edgewright.cloud.database import Database
from edgewright.cloud.offers import Offers
from edgewright.cloud.rates import Bucket, Rates
from edgewright.cloud.refreshed import Refreshed
from edgewright.failures import one_line
from edgewright.value import Value
from edgewright.yaml_values import first_fault
from edgewright_runtime.bundle.manifest import MANIFEST_NAME
from edgewright_runtime.bundle.opening import file_digest
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.nesting import MAX_DEPTH, is_nested_deeper
from edgewright_runtime.predict.predictor import Predictor

__all__ = ["create_app"]

_log = logging.getLogger("uvicorn.error")
_MAX_BODY_BYTES = 2 << 20
# An outbox sends up to 512 kB of records, or one of a megabyte; each comma takes two bytes more on the way.
_MAX_UNPACKED_BYTES = 4 << 20
_MAX_STATUS_BYTES = 64 << 10  # an operator's list holds those of all devices
_MAX_RECORDS = 2000
_MAX_VALUES = 600_000  # of JSON: small ones take many times their bytes in memory
_MOST_HANDLED_AT_ONCE = 8  # bodies, one of which is parsed: what waits is packed
_MAX_SAID = 500  # characters of a refusal
_METRICS_EVERY_S = 5.0  # the database is counted
_RETRY_AFTER_S = 2  # while a database restarts
_OUR_FAULT = (DataError, IntegrityError, NotSupportedError, ProgrammingError)  # no other try will mend it
_EACH, _TOGETHER = Bucket(50, 500), Bucket(1000, 5000)  # requests of a device, and of everybody


class _Record(Value):
    key: str = Field(min_length=1, max_length=64)
    body: dict[str, Any]


class _Sync(Value):
    status: dict[str, Any]
    records: tuple[_Record, ...] = Field(max_length=_MAX_RECORDS)


class _Question(Value):
    model: str
    row: Any


_Asked = TypeVar("_Asked", _Sync, _Question)


class _Served:
    """The models that answer for devices that are unsure, by their manifest's name."""

    def __init__(self, bundles: list[Path]) -> None:
        self._models = {p.manifest.name: p for p in (Predictor(folder) for folder in bundles)}
        self._versions = {name: file_digest(p.folder / MANIFEST_NAME)[:12] for name, p in self._models.items()}
        self._lock = Lock()

    def answer(self, question: _Question) -> dict[str, Any]:
        predictor = self._models.get(question.model)
        if predictor is None:
            raise HTTPException(
                404, _said(f"no model '{question.model[:64]}' here; there are: {', '.join(self._models) or 'none'}")
            )
        try:
            with self._lock:
                scores = predictor.predict(question.row).scores
        except InputRejectedError as e:
            raise HTTPException(422, _said(e)) from e
        if len(scores) != 1:
            raise HTTPException(422, f"one row at a time, {len(scores)} were given")
        version = self._versions[question.model]
        return {"scores": scores.reshape(-1).tolist(), "model": question.model, "version": version}


def create_app(
    database: Database,
    *,
    repository: str | None = None,
    bundles: list[Path] | None = None,
    offer_every_s: float = 10.0,
    rates: Rates | None = None,
) -> FastAPI:
    """The application over a database.

    Each device is offered the current release of its own line from ``repository``, which is read at most once in
    ``offer_every_s`` for each line; ``bundles`` are the folders of the models that answer ``/v1/predict``. Who asks
    more often than ``rates`` allow is told to come again later (429).

    Raises:
        EdgeRuntimeError: a bundle cannot be opened.
    """
    app = FastAPI(title="Edgewright cloud", docs_url=None, redoc_url=None, openapi_url=None)
    served = _Served(bundles or [])
    counted = {"sync": 0, "records": 0, "repeated": 0, "predict": 0, "refused": 0, "offer_failures": 0, "hasty": 0}

    callers = _Callers(database, counted, rates or Rates(_EACH, _TOGETHER))
    figures = _Figures(counted, database)
    handling, parsing = asyncio.Semaphore(_MOST_HANDLED_AT_ONCE), asyncio.Lock()
    offers = Offers(repository, counted, offer_every_s)
    known = Annotated[str, Depends(callers.device)]

    @asynccontextmanager
    async def handled(kind: type[_Asked], request: Request) -> AsyncIterator[_Asked]:
        packed = await _body(request)
        async with handling:
            async with parsing:
                asked = await run_in_threadpool(
                    _parsed, kind, packed, request.headers.get("content-encoding", "identity")
                )
            yield asked

    @app.post("/v1/sync")
    async def sync(request: Request, name: known) -> JSONResponse:
        async with handled(_Sync, request) as asked:
            rows = [(record.key, record.body) for record in asked.records]
            new = await run_in_threadpool(database.receive, name, asked.status, rows)
            offer = await run_in_threadpool(offers.current, asked.status)
        counted["sync"] += 1
        counted["records"] += new
        counted["repeated"] += len(rows) - new
        return JSONResponse({"confirmed": [key for key, _ in rows], "offer": offer})

    @app.post("/v1/predict")
    async def predict(request: Request, _: known) -> JSONResponse:
        async with handled(_Question, request) as asked:
            answer = await run_in_threadpool(served.answer, asked)
        counted["predict"] += 1
        return JSONResponse(answer)

    @app.get("/v1/devices")
    def devices(only: Annotated[str | None, Depends(callers.visible)]) -> list[dict[str, Any]]:
        return [found.model_dump() for found in database.devices() if only is None or found.id == only]

    @app.get("/healthz")
    def health() -> JSONResponse:
        try:
            database.ping()
        except SQLAlchemyError as e:
            return JSONResponse({"status": "database unavailable", "cause": type(e).__name__}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", dependencies=[Depends(callers.operator)])
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(figures.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(DatabaseError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeoutError)
    def unavailable(_: Request, error: SQLAlchemyError) -> JSONResponse:
        if isinstance(error, _OUR_FAULT):
            raise error
        _log.warning("the database does not answer: %s", one_line(getattr(error, "orig", error)))
        said = {"detail": "the database does not answer; send it again later"}
        return JSONResponse(said, 503, {"Retry-After": str(_RETRY_AFTER_S)})

    @app.exception_handler(EdgeRuntimeError)
    def failed(_: Request, error: EdgeRuntimeError) -> JSONResponse:
        return JSONResponse({"detail": _said(error)}, 500)

    return app


class _Callers:
    """Who asks, by the token of the Authorization header."""

    def __init__(self, database: Database, counted: dict[str, int], rates: Rates) -> None:
        self._database, self._counted, self._rates = database, counted, rates

    async def device(self, authorization: Annotated[str, Header()] = "") -> str:
        """The device that asks; everybody else is refused."""
        self._refuse_haste(self._rates.wait_of_all())  # who has no token makes the database look, too
        token = _token(authorization)
        found = await run_in_threadpool(self._database.device_of, token) if token else None
        if found is None:
            self._counted["refused"] += 1
            raise HTTPException(401, "an Authorization header with this device's token is needed")
        self._refuse_haste(self._rates.wait_of(found))
        return found

    def _refuse_haste(self, wait_s: float) -> None:
        if wait_s:
            self._counted["hasty"] += 1
            later = {"Retry-After": str(math.ceil(wait_s))}
            raise HTTPException(429, "too many requests; try again later", headers=later)

    async def operator(self, authorization: Annotated[str, Header()] = "") -> None:
        """Everybody but an operator is refused."""
        self._refuse_haste(self._rates.wait_of_all())
        if not await run_in_threadpool(self._database.is_operator, _token(authorization)):
            self._counted["refused"] += 1
            raise HTTPException(401, "an Authorization header with an operator's token is needed")

    async def visible(self, authorization: Annotated[str, Header()] = "") -> str | None:
        """The one device that the caller may see; None for an operator, who may see all."""
        self._refuse_haste(self._rates.wait_of_all())
        token = _token(authorization)
        operator = await run_in_threadpool(self._database.is_operator, token)
        return None if operator else await self.device(authorization)


def _token(authorization: str) -> str:
    """The bearer token of an Authorization header; empty where there is none (RFC 6750)."""
    kind, _, token = authorization.partition(" ")
    return token if kind == "Bearer" else ""


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
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
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
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MAX_VALUES:
        raise HTTPException(413, f"more than {_MAX_VALUES} values")
    try:
        value = json.loads(content, parse_constant=_refused)
        if is_nested_deeper(value, MAX_DEPTH):
            raise HTTPException(422, f"nested deeper than {MAX_DEPTH}")
        json.dumps(value, allow_nan=False)  # 1e999 is read as infinite
        asked = kind.model_validate(value)
    except ValidationError as e:
        raise HTTPException(422, _said(first_fault(e, kind))) from e
    except (ValueError, RecursionError) as e:
        raise HTTPException(400, f"not JSON: {str(e)[:100]}") from e
    if isinstance(asked, _Sync):
        _require_listable(asked.status)
    return asked


def _require_listable(status: Mapping[str, Any]) -> None:
    """A status stands in a list with those of others, which it must neither swell nor break."""
    try:
        length = len(json.dumps(status, ensure_ascii=False).encode())
    except UnicodeEncodeError as e:
        raise HTTPException(422, f"status: half a character ({e.object[e.start]!a}), which is no Unicode") from e
    if length > _MAX_STATUS_BYTES:
        raise HTTPException(413, f"a status of {length} bytes; at most {_MAX_STATUS_BYTES} are kept")


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")


def _said(error: object) -> str:
    """A refusal, which may quote what was asked: bounded, and of characters that can be sent."""
    text = str(error).encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_SAID else f"{text[: _MAX_SAID - 1]}…"


class _Figures:
    """What Prometheus reads. The database is counted at most once in `_METRICS_EVERY_S`, however many ask."""

    def __init__(self, counted: Mapping[str, int], database: Database) -> None:
        self._counted = counted
        self._gauges = Refreshed(lambda: (database.count_devices(), database.count()))

    def text(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        return _metrics(self._counted, *self._gauges.value(_METRICS_EVERY_S))


def _metrics(counted: Mapping[str, int], devices: int, records: int) -> str:
    lines = []
    for name, text in (
        ("sync", "Batches received."),
        ("records", "Records counted."),
        ("repeated", "Records that had been counted before."),
        ("predict", "Answers of the fallback model."),
        ("refused", "Requests without a valid token."),
        ("hasty", "Requests that came too soon after others."),
        ("offer_failures", "Times the release repository could not be read."),
    ):
        metric = f"edgewright_{name}_total"
        lines += [f"# HELP {metric} {text}", f"# TYPE {metric} counter", f"{metric} {counted[name]}"]
    for name, text, value in (
        ("devices", "Registered devices.", devices),
        ("stored_records", "Records in the database.", records),
    ):
        lines += [f"# HELP edgewright_{name} {text}", f"# TYPE edgewright_{name} gauge", f"edgewright_{name} {value}"]
    return "\n".join(lines) + "\n"
