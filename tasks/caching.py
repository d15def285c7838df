"""How every task is wrapped: a cache key from content, retries for transient errors only, and a word of progress."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.serializers import JSONSerializer
from pydantic import BaseModel

from edgewright.artifact import Artifact, digest_of
from edgewright.code_version import code_version
from edgewright.errors import TransientError
from edgewright.progress import progress
from edgewright.sealed_json import SEALED_JSON
from edgewright.store import Store

__all__ = ["artifacts_in", "content_key", "run", "step"]

P = ParamSpec("P")
R = TypeVar("R")

_RETRY_DELAYS_S = [1.0, 4.0]


def step(title: str, *code: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task whose result is kept under (task, parameters by content, version of the code).

    ``code`` names the modules that do the work; what they reach is in the key with them, see `code_version`, and so is
    the module of the task. Without ``code`` the task is never cached: it acts on the world.
    """

    def wrap(function: Callable[P, R]) -> Task[P, R]:
        def key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
            # `code` reaches the library only; what this module passes to it decides the result as well.
            own = hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()
            return content_key(context.task.name, f"{code_version(*code)} {own}", parameters)

        return task(
            name=function.__name__,
            description=title,
            # Without `code` nothing is kept: a release that was published once must be published again.
            persist_result=bool(code),
            result_serializer=JSONSerializer(jsonlib=SEALED_JSON),
            cache_key_fn=key if code else None,
            retries=len(_RETRY_DELAYS_S),
            retry_delay_seconds=_RETRY_DELAYS_S,
            retry_condition_fn=is_transient,
        )(function)

    return wrap


def run(step: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a task; when its kept result names a file that is gone or changed, compute it anew."""
    # The files are looked at within the step: the progress ends when the result can be used.
    with progress.during(step.description or step.name):
        value = step(*args, **kwargs)
        store = Store()
        # Prefect kept the result, the store the files: cleaning the store or a rotten disk takes only those.
        if changed := [artifact.path for artifact in artifacts_in(value) if not store.holds(artifact)]:
            if changed[0].exists():
                progress.note(f"{changed[0]}: not what '{step.description}' made; computed anew")
            value = step.with_options(refresh_cache=True)(*args, **kwargs)
        return value


def is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Only a `TransientError` is worth another try."""
    # With raise_on_failure a failed attempt would raise here, in Prefect's own question.
    return isinstance(state.result(raise_on_failure=False), TransientError)


def content_key(name: str, version: str, parameters: Mapping[str, Any]) -> str:
    """The cache key: artifacts and paths count by their content, values by their fields."""
    # Sorted, so that the order of keyword arguments is no other call.
    identity = json.dumps([name, version, _identity(dict(parameters))], sort_keys=True)
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()}"


def artifacts_in(value: object) -> Iterator[Artifact]:
    """Every artifact inside a value, however deep."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from artifacts_in(getattr(value, field))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from artifacts_in(item)


def _identity(value: Any) -> Any:
    # First: an artifact is a model of pydantic, too, but its path must not count.
    if isinstance(value, Artifact):
        return [value.format.value, value.digest]
    if isinstance(value, BaseModel):
        return {field: _identity(getattr(value, field)) for field in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return _identity(asdict(value))
    if isinstance(value, Path):
        return digest_of(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _identity(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a task parameter of type {type(value).__name__} has no content to key by")
