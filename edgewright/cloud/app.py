"""The cloud's side of devices in the field: sync, the fallback model, a list of devices, health and metrics."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
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

from edgewright.cloud.bodies import Bodies, refusal_text
from edgewright.cloud.database import Database, DeviceRecord, hashed
from edgewright.cloud.offers import Offers
from edgewright.cloud.rates import Bucket, Rates
from edgewright.cloud.refreshed import Refreshed
from edgewright.errors import InputError
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import MANIFEST_NAME
from edgewright_runtime.bundle.opening import file_digest
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.predict.protocol import (
    PREDICT_PATH,
    SYNC_PATH,
    CloudAnswer,
    Question,
    SyncReply,
    SyncRequest,
    message,
)

__all__ = ["create_app"]

_log = logging.getLogger("uvicorn.error")
_METRICS_EVERY_S = 5.0  # the database is counted
_TOKENS_EVERY_S = 10.0  # read anew
_RETRY_AFTER_S = 2  # while a database restarts
_OUR_FAULT = (DataError, IntegrityError, NotSupportedError, ProgrammingError)  # no other try will mend it
_EACH, _TOGETHER = Bucket(50, 500), Bucket(1000, 5000)  # requests of a device, and of everybody


class _Served:
    """The models that answer for devices that are unsure, by their manifest's name."""

    def __init__(self, bundles: list[Path]) -> None:
        self._models: dict[str, Predictor] = {}
        for predictor in map(Predictor, bundles):
            known = self._models.setdefault(predictor.manifest.name, predictor)
            # Devices ask by name: a second one would answer in the place of the first.
            if known is not predictor:
                raise InputError(
                    f"two models are called '{predictor.manifest.name}': {known.folder} and {predictor.folder}; "
                    "serve one of them, or give one a name of its own (--name)"
                )
        self._versions = {name: file_digest(p.folder / MANIFEST_NAME)[:12] for name, p in self._models.items()}
        self._lock = Lock()

    def answer(self, question: Question) -> CloudAnswer:
        predictor = self._models.get(question.model)
        if predictor is None:
            raise HTTPException(
                404,
                refusal_text(f"no model '{question.model[:64]}' here; there are: {', '.join(self._models) or 'none'}"),
            )
        try:
            with self._lock:
                scores = predictor.predict(question.row).scores
        except InputRejectedError as e:
            raise HTTPException(422, refusal_text(e)) from e
        if len(scores) != 1:
            raise HTTPException(422, f"one row at a time, {len(scores)} were given")
        return CloudAnswer(tuple(scores.reshape(-1).tolist()), question.model, self._versions[question.model])


class _Callers:
    """Who asks, by the token of the Authorization header."""

    def __init__(self, database: Database, counted: dict[str, int], rates: Rates) -> None:
        self._database, self._counted, self._rates = database, counted, rates
        self._tokens = Refreshed(database.token_hashes)

    async def device(self, authorization: Annotated[str, Header()] = "") -> str:
        """The device that asks; everybody else is refused."""
        token = _token(authorization)
        await self._admit(token)
        device_id = await run_in_threadpool(self._database.device_of, token) if token else None
        if device_id is None:
            self._counted["refused"] += 1
            raise HTTPException(401, "an Authorization header with this device's token is needed")
        self._refuse_haste(self._rates.wait_of(device_id))
        return device_id

    async def _admit(self, token: str) -> None:
        """Refuse who comes too soon. Strangers, who make the database look too, have a bucket of their own: however
        many they are, they lock nobody out who was registered `_TOKENS_EVERY_S` ago.
        """
        known = bool(token) and hashed(token) in await run_in_threadpool(self._tokens.value, _TOKENS_EVERY_S)
        self._refuse_haste(self._rates.wait_of_all() if known else self._rates.wait_of_strangers())

    def _refuse_haste(self, wait_s: float) -> None:
        if wait_s:
            self._counted["hasty"] += 1
            later = {"Retry-After": str(math.ceil(wait_s))}
            raise HTTPException(429, "too many requests; try again later", headers=later)

    async def operator(self, authorization: Annotated[str, Header()] = "") -> None:
        """Everybody but an operator is refused."""
        token = _token(authorization)
        await self._admit(token)
        if not await run_in_threadpool(self._database.is_operator, token):
            self._counted["refused"] += 1
            raise HTTPException(401, "an Authorization header with an operator's token is needed")

    async def visible(self, authorization: Annotated[str, Header()] = "") -> str | None:
        """The one device that the caller may see; None for an operator, who may see all."""
        token = _token(authorization)
        await self._admit(token)
        # Asked without a rate of the caller's own: an operator has none, a device pays in `device`.
        operator = await run_in_threadpool(self._database.is_operator, token)
        return None if operator else await self.device(authorization)


class _Figures:
    """What Prometheus reads. The database is counted at most once in `_METRICS_EVERY_S`, however many ask."""

    def __init__(self, counted: Mapping[str, int], database: Database) -> None:
        self._counted = counted
        self._gauges = Refreshed(lambda: (database.count_devices(), database.count()))

    def text(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        return _metrics(self._counted, *self._gauges.value(_METRICS_EVERY_S))


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
        InputError: two bundles have the same name.
    """
    counted = {"sync": 0, "records": 0, "repeated": 0, "predict": 0, "refused": 0, "offer_failures": 0, "hasty": 0}
    callers = _Callers(database, counted, rates or Rates(_EACH, _TOGETHER))
    bodies = Bodies()
    app = FastAPI(title="Edgewright cloud", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(_sync_routes(database, callers, bodies, Offers(repository, counted, offer_every_s), counted))
    app.include_router(_predict_routes(_Served(bundles or []), callers, bodies, counted))
    app.include_router(_operator_routes(database, callers, _Figures(counted, database)))
    _tell_failures(app)
    return app


def _sync_routes(
    database: Database, callers: _Callers, bodies: Bodies, offers: Offers, counted: dict[str, int]
) -> APIRouter:
    """Records of a device are received, and it is offered the release of its line."""
    router = APIRouter()

    @router.post(SYNC_PATH)
    async def sync(request: Request, name: Annotated[str, Depends(callers.device)]) -> Response:
        async with bodies.read(SyncRequest, request) as asked:
            rows = [(record.key, record.body) for record in asked.records]
            # Committed before the answer: a device deletes what is confirmed.
            new = await run_in_threadpool(database.receive, name, asked.status, rows)
            offer = await run_in_threadpool(offers.current, asked.status)
        counted["sync"] += 1
        counted["records"] += new
        counted["repeated"] += len(rows) - new
        return _reply(SyncReply(tuple(key for key, _ in rows), offer))

    return router


def _predict_routes(served: _Served, callers: _Callers, bodies: Bodies, counted: dict[str, int]) -> APIRouter:
    """A device that is unsure asks a larger model."""
    router = APIRouter()

    @router.post(PREDICT_PATH)
    async def predict(request: Request, _: Annotated[str, Depends(callers.device)]) -> Response:
        async with bodies.read(Question, request) as asked:
            answer = await run_in_threadpool(served.answer, asked)
        counted["predict"] += 1
        return _reply(answer)

    return router


def _reply(content: SyncReply | CloudAnswer) -> Response:
    return Response(message(content), media_type="application/json")


def _operator_routes(database: Database, callers: _Callers, figures: _Figures) -> APIRouter:
    """What those who run it look at: the devices, whether the database answers, and figures for Prometheus."""
    router = APIRouter()

    @router.get("/v1/devices")
    def devices(only: Annotated[str | None, Depends(callers.visible)]) -> list[DeviceRecord]:
        return [device for device in database.devices() if only is None or device.id == only]

    @router.get("/healthz")
    def health() -> JSONResponse:
        try:
            database.ping()
        except SQLAlchemyError as e:
            return JSONResponse({"status": "database unavailable", "cause": type(e).__name__}, 503)
        return JSONResponse({"status": "ok"})

    @router.get("/metrics", dependencies=[Depends(callers.operator)])
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(figures.text(), media_type="text/plain; version=0.0.4")

    return router


def _tell_failures(app: FastAPI) -> None:
    """A database that does not answer is 503, a fault of the device runtime's code 500, each in a line."""

    @app.exception_handler(DatabaseError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeoutError)
    def unavailable(_: Request, error: SQLAlchemyError) -> JSONResponse:
        if isinstance(error, _OUR_FAULT):
            raise error
        _log.warning("the database does not answer: %s", one_line(getattr(error, "orig", error)))
        body = {"detail": "the database does not answer; send it again later"}
        return JSONResponse(body, 503, {"Retry-After": str(_RETRY_AFTER_S)})

    @app.exception_handler(EdgeRuntimeError)
    def failed(_: Request, error: EdgeRuntimeError) -> JSONResponse:
        return JSONResponse({"detail": refusal_text(error)}, 500)


def _token(authorization: str) -> str:
    """The bearer token of an Authorization header; empty where there is none (RFC 6750)."""
    kind, _, token = authorization.partition(" ")
    return token if kind == "Bearer" else ""


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
