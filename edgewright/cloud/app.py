"""The cloud's side of devices in the field: sync, the fallback model, a list of devices, health and metrics."""

import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from edgewright.artifact import Value
from edgewright.cloud.database import Database
from edgewright.deploy import current_release
from edgewright.errors import EdgewrightError
from edgewright.yaml_values import first_fault
from edgewright_runtime.bundle import file_digest
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.manifest import MANIFEST_NAME
from edgewright_runtime.predictor import Predictor

__all__ = ["create_app"]

_MAX_BODY_BYTES = 2 << 20
_MAX_UNPACKED_BYTES = 16 << 20
_MAX_RECORDS = 2000


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
                404, f"no model '{question.model}' here; there are: {', '.join(self._models) or 'none'}"
            )
        try:
            with self._lock:
                scores = predictor.predict(question.row).scores
        except InputRejectedError as e:
            raise HTTPException(422, str(e)) from e
        if len(scores) != 1:
            raise HTTPException(422, f"one row at a time, {len(scores)} were given")
        version = self._versions[question.model]
        return {"scores": scores.reshape(-1).tolist(), "model": question.model, "version": version}


def create_app(
    database: Database,
    *,
    repository: str | None = None,
    channel: str = "stable",
    bundles: list[Path] | None = None,
    offer_every_s: float = 10.0,
) -> FastAPI:
    """The application over a database.

    ``repository`` and ``channel`` are what devices are offered, read at most once in ``offer_every_s``; ``bundles`` are
    the folders of the models that answer ``/v1/predict``.

    Raises:
        EdgeRuntimeError: a bundle cannot be opened.
    """
    app = FastAPI(title="Edgewright cloud", docs_url=None, redoc_url=None, openapi_url=None)
    served = _Served(bundles or [])
    counted = {"sync": 0, "records": 0, "repeated": 0, "predict": 0, "refused": 0, "offer_failures": 0}

    callers = _Callers(database, counted)
    offers = _Offers(repository, channel, counted, offer_every_s)
    known = Annotated[str, Depends(callers.device)]

    @app.post("/v1/sync")
    async def sync(request: Request, name: known) -> dict[str, Any]:
        asked = _parsed(_Sync, await _body(request))
        rows = [(record.key, record.body) for record in asked.records]
        new = await run_in_threadpool(database.receive, name, asked.status, rows)
        counted["sync"] += 1
        counted["records"] += new
        counted["repeated"] += len(rows) - new
        return {"confirmed": [key for key, _ in rows], "offer": await run_in_threadpool(offers.current)}

    @app.post("/v1/predict")
    async def predict(request: Request, _: known) -> dict[str, Any]:
        answer = await run_in_threadpool(served.answer, _parsed(_Question, await _body(request)))
        counted["predict"] += 1
        return answer

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

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(_metrics(counted, database), media_type="text/plain; version=0.0.4")

    @app.exception_handler(EdgeRuntimeError)
    def failed(_: Request, error: EdgeRuntimeError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)

    return app


class _Offers:
    """What devices are told is current: thousands that sync must not each read a repository in an object store."""

    def __init__(self, repository: str | None, channel: str, counted: dict[str, int], every_s: float) -> None:
        self._repository, self._channel, self._counted, self._every_s = repository, channel, counted, every_s
        self._offer: dict[str, Any] | None = None
        self._read_s = float("-inf")
        self._lock = Lock()

    def current(self) -> dict[str, Any] | None:
        """The channel and its version; None where there is none, or the repository fails."""
        with self._lock:
            if self._repository is not None and time.monotonic() >= self._read_s + self._every_s:
                self._offer = self._read(self._repository)
                self._read_s = time.monotonic()
            return self._offer

    def _read(self, repository: str) -> dict[str, Any] | None:
        try:
            found = current_release(repository, self._channel)
        except EdgewrightError:
            # A repository that fails must not keep devices from delivering their records.
            self._counted["offer_failures"] += 1
            return None
        return {"channel": self._channel, "version": found[0].version} if found else None


class _Callers:
    """Who asks, by the token of the Authorization header."""

    def __init__(self, database: Database, counted: dict[str, int]) -> None:
        self._database, self._counted = database, counted

    async def device(self, authorization: Annotated[str, Header()] = "") -> str:
        """The device that asks; everybody else is refused."""
        token = _token(authorization)
        found = await run_in_threadpool(self._database.device_of, token) if token else None
        if found is None:
            self._counted["refused"] += 1
            raise HTTPException(401, "an Authorization header with this device's token is needed")
        return found

    async def visible(self, authorization: Annotated[str, Header()] = "") -> str | None:
        """The one device that the caller may see; None for an operator, who may see all."""
        token = _token(authorization)
        operator = await run_in_threadpool(self._database.is_operator, token)
        return None if operator else await self.device(authorization)


def _token(authorization: str) -> str:
    """The bearer token of an Authorization header; empty where there is none (RFC 6750)."""
    kind, _, token = authorization.partition(" ")
    return token if kind == "Bearer" else ""


async def _body(request: Request) -> bytes:
    """The request's JSON, within its limits both packed and unpacked."""
    packed = b""
    try:
        async for block in request.stream():
            packed += block
            if len(packed) > _MAX_BODY_BYTES:
                raise HTTPException(413, f"more than {_MAX_BODY_BYTES} bytes")
    except ClientDisconnect as e:
        raise HTTPException(400, "the request broke off") from e
    if request.headers.get("content-encoding", "identity") == "identity":
        return packed
    if request.headers["content-encoding"] != "gzip":
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


def _parsed(kind: type[_Asked], content: bytes) -> _Asked:
    try:
        value = json.loads(content, parse_constant=_refused)
        return kind.model_validate(value)
    except ValidationError as e:
        raise HTTPException(422, first_fault(e, kind)) from e
    except (ValueError, RecursionError) as e:
        raise HTTPException(400, f"not JSON: {str(e)[:100]}") from e


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")


def _metrics(counted: Mapping[str, int], database: Database) -> str:
    """Prometheus' text format, version 0.0.4."""
    lines = []
    for name, text in (
        ("sync", "Batches received."),
        ("records", "Records counted."),
        ("repeated", "Records that had been counted before."),
        ("predict", "Answers of the fallback model."),
        ("refused", "Requests without a valid token."),
        ("offer_failures", "Times the release repository could not be read."),
    ):
        metric = f"edgewright_{name}_total"
        lines += [f"# HELP {metric} {text}", f"# TYPE {metric} counter", f"{metric} {counted[name]}"]
    for name, text, value in (
        ("devices", "Registered devices.", len(database.devices())),
        ("stored_records", "Records in the database.", database.count()),
    ):
        lines += [f"# HELP edgewright_{name} {text}", f"# TYPE edgewright_{name} gauge", f"edgewright_{name} {value}"]
    return "\n".join(lines) + "\n"
