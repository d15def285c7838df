"""Every value that travels as JSON: written, read back, and refused where one key of it is wrong."""

import ast
import copy
import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

import edgewright_runtime
from edgewright_runtime.bench.spec import BenchModel, BenchSpec
from edgewright_runtime.bundle import release
from edgewright_runtime.bundle.line import Line
from edgewright_runtime.bundle.manifest import (
    Budget,
    Calibration,
    Column,
    Figures,
    FileEntry,
    Golden,
    Kernels,
    Lineage,
    Manifest,
    Preprocessing,
    Processor,
    RuntimeNeed,
    Scores,
    TensorSpec,
    Words,
)
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.bundle.release import Blob, ChannelIndex, FileDelta, Patch, ReleaseDocument
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.health.sketch import QuantileSketch
from edgewright_runtime.health.telemetry import TelemetryRecord
from edgewright_runtime.predict.protocol import PREDICT_PATH, SYNC_PATH, CloudAnswer, Offer, SyncReply
from edgewright_runtime.wire import read, rule

SHA = "ab" * 32
WORDS = Words("word", lowercase=True, strip_accents="ascii", pattern=r"\w+", ngrams=(1, 2), stop_words=("the",))
COLUMN = Column(
    "review", "text", vocabulary=(("bad", 1), ("good", 0)), optional=False, missing_texts=("NA",), words=WORDS
)
MONITORING = Monitoring(True, True, 60, 10.0, 50.0, 0.8, 0.1, 0.2, 0.3, 90.0, 80.0, 15.0, 0.5, ("cheaper_model",))
MANIFEST = Manifest(
    name="churn",
    platform="edge_device",
    format="onnx",
    precision="int8",
    model="churn.onnx",
    files=(FileEntry("churn.onnx", 10, SHA), FileEntry("golden.npz", 20, SHA)),
    inputs=(TensorSpec("features", (-1, 2), "int8", 0.5, -3),),
    outputs=(TensorSpec("scores", (-1, 2), "uint8", 0.25, 0),),
    preprocessing=Preprocessing((COLUMN,), 2.0, 0.5, ("", "?")),
    task="classification",
    labels=("no", "yes"),
    scores=Scores("scores", "logits"),
    runtime=RuntimeNeed(
        "onnxruntime", "1.17", "gpu", 2, Kernels(True, False, True, False), Processor("arm64", True, 9)
    ),
    golden=Golden("golden.npz", 4, {"scores": 0.01}, "onnxruntime 1.20"),
    calibration=Calibration(1.5, (0.1,) * 10, 100),
    measurements=Figures("board", "accuracy", 0.9, 0.8, 0.95, 100, 0.91, 1.0, 2.0, 3.0, 4.0, 5.0, 6, 7),
    budget=Budget(1.0, 2.0, 3.0, 4.0, 5.0),
    lineage=Lineage(SHA, SHA, SHA, SHA),
    monitoring=MONITORING,
    notes=("a note",),
)
BLOB = Blob("churn.onnx", 10, SHA, SHA, 8)
EXAMPLES: tuple[Any, ...] = (
    MANIFEST,
    ReleaseDocument(
        model="churn",
        platform="edge_device",
        channel="stable",
        version=3,
        previous_version=2,
        content_of=1,
        cohort_percent=50,
        bundle_digest=SHA,
        manifest=BLOB,
        files=(BLOB,),
        monitoring=MONITORING,
        patches=(Patch(SHA, "weight_update", (FileDelta("a", "b", SHA, "bsdiff", SHA, 3),)),),
    ),
    ChannelIndex("churn.edge_device.stable", 3, 100, SHA),
    release._Lines((Line("churn", "edge_device", "stable"),)),
    TelemetryRecord(
        device="d",
        release="churn.edge_device.stable.3",
        bundle=SHA,
        start_s=1.5,
        seconds=60.0,
        predictions=9,
        latency=QuantileSketch({5: 9}),
        memory_mb=4.5,
        confidence=(0,) * 9 + (9,),
        labelled=3,
        correct=2,
        cpu_percent=7.5,
        percentiles_ms=(1.0, 2.0, 3.0),
    ),
    BenchSpec("warm", (BenchModel("m.onnx", "onnx", ("x",), ("y",)),), "rows.npz", limit_mb=64.0, cores=2),
    CloudAnswer((0.25, 0.75), "large", "7"),
    SyncReply(("1-2",), Offer("churn.edge_device.stable", 4)),
)
FREE_NAMES = {("golden", "tolerance")}
each = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)


def written(example: Any) -> Any:
    """The example as JSON that was parsed again."""
    if isinstance(example, TelemetryRecord):
        content = json.loads(example.to_line())
        del content["schema_version"]
        return content
    return json.loads(json.dumps(asdict(example)))


def places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within parsed JSON."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*way, key)
        yield from places(content[key], (*way, key))


def at(content: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        content = content[key]
    return content


def refused(example: Any, content: Any, way: tuple[Any, ...], change: Callable[[Any, Any], Any]) -> str:
    """Why it is not read after ``change(what holds the value, its key there)``; the content is as before then."""
    held = at(content, way[:-1])
    before = copy.copy(held)
    change(held, way[-1])
    with pytest.raises(IntegrityError) as caught:
        read(type(example), content, "it")
    held.clear()
    held.update(before) if isinstance(held, dict) else held.extend(before)
    return str(caught.value)


def kinds(value: Any) -> Iterator[type[Any]]:
    """The dataclasses that an example is made of."""
    if is_dataclass(value):
        yield type(value)
        for f in fields(value):
            yield from kinds(getattr(value, f.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from kinds(item)


def equal(one: Any, other: Any) -> bool:
    """`QuantileSketch` has no equality."""
    if isinstance(one, TelemetryRecord):
        empty = {"latency": QuantileSketch.__new__(QuantileSketch)}
        same = dataclasses.replace(one, **empty) == dataclasses.replace(other, **empty)
        return same and one.latency.counts == other.latency.counts
    return bool(one == other)


@each
def test_what_is_written_is_read_back_equal(example: Any) -> None:
    assert equal(read(type(example), written(example), "it"), example)


@each
def test_missing_key_is_named(example: Any) -> None:
    content = written(example)
    for way in list(places(content)):
        if isinstance(way[-1], str) and way[:-1] not in FREE_NAMES:
            assert f"key '{way[-1]}' is missing" in refused(example, content, way, dict.pop)


@each
def test_unknown_key_is_refused_wherever_it_stands(example: Any) -> None:
    content = written(example)
    for way in ((), *list(places(content))):
        if isinstance(at(content, way), dict) and way not in FREE_NAMES:
            why = refused(example, content, (*way, "surprise"), lambda held, key: held.update({key: 1}))
            assert "unknown keys ['surprise']" in why


def wrong_for(value: Any) -> list[Any]:
    """What must not stand in a value's place."""
    if isinstance(value, bool):
        return [1, "true"]
    if isinstance(value, int | float):
        return [True, "1", float("nan"), float("inf"), 10**400]
    return [1, True, "nul\0", "x" * 10_001] if isinstance(value, str) else [1, "text"]


@each
def test_wrong_type_is_refused_wherever_it_stands(example: Any) -> None:
    content = written(example)
    for way in list(places(content)):
        for wrong in ({"wrong": []}, [{}], *wrong_for(at(content, way))):
            assert refused(example, content, way, partial(_put, wrong))


def _put(value: Any, held: Any, key: Any) -> None:
    held[key] = value


def test_every_value_with_rules_has_an_example() -> None:
    modules = [m.name for m in pkgutil.iter_modules(edgewright_runtime.__path__) if m.name != "__main__"]
    named = {
        value
        for name in modules
        for value in vars(importlib.import_module(f"edgewright_runtime.{name}")).values()
        if isinstance(value, type) and is_dataclass(value) and any(f.metadata for f in fields(value))
    }
    walked = {kind for example in EXAMPLES for kind in kinds(example)}
    assert {kind for kind in named if not any(issubclass(other, kind) for other in walked)} == set()


def test_hints_can_be_evaluated_by_the_oldest_python() -> None:
    """Python 3.9 cannot evaluate ``X | None``."""
    hints = {(kind.__name__, f.name): f.type for e in EXAMPLES for kind in kinds(e) for f in fields(kind)}
    assert {place: hint for place, hint in hints.items() if "|" in hint} == {}


@dataclass(frozen=True)
class Rules:
    """One field of each rule that messages tell."""

    above: float = field(metadata=rule(gt=0, le=5))
    share: Optional[float] = field(metadata=rule(ge=0, le=1))  # noqa: UP045 - as on the device
    count: int = field(metadata=rule(gt=0, le=9))
    kind: Literal["a", "b"]
    pair: tuple[str, int] = field(metadata=rule(items=(rule(), rule(ge=-1)), holds="a word and a code"))
    three: tuple[float, ...] = field(metadata=rule(min_length=3, max_length=3, items=rule(ge=0)))
    few: tuple[tuple[str, ...], ...] = field(metadata=rule(min_length=1, max_length=2))


GOOD = {"above": 1, "share": None, "count": 1, "kind": "a", "pair": ["x", -1], "three": [1, 2, 3], "few": [["x"]]}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("above", 0, "it: 'above' must be a number above 0, found int 0"),
        ("above", 5.5, "it: 'above' must be a number in 0..5, found float 5.5"),
        ("share", -0.5, "it: 'share' must be a number in 0..1, found float -0.5"),
        ("count", 0, "it: 'count' must be an integer in 1..9, found int 0"),
        ("kind", "c", "it: 'kind' must be one of a, b, found str 'c'"),
        ("pair", ["x"], "it: 'pair' must be a list of a word and a code, found list ['x']"),
        ("pair", ["x", -2], "it: 'pair' must be an integer in -1..9007199254740992, found int -2"),
        ("three", [1, 2], "it: 'three' must be a list of 3, found list [1, 2]"),
        ("three", [1, 2, "3"], "it: 'three[2]' must be a number in 0..inf, found str '3'"),
        ("few", [], "it: 'few' must be a list of 1 to 2, found list []"),
        ("few", [["x"], ["x", 1]], "it: 'few[1][1]' must be a text, found int 1"),
    ],
)
def test_message_names_the_place_and_what_is_allowed(key: str, value: Any, message: str) -> None:
    assert read(Rules, GOOD, "it").three == (1.0, 2.0, 3.0)
    with pytest.raises(IntegrityError) as caught:
        read(Rules, {**GOOD, key: value}, "it")
    assert str(caught.value) == message


def test_old_releases_are_read_and_are_of_their_channel() -> None:
    content = written(EXAMPLES[1])
    del content["model"], content["platform"]
    document = {"signed": {"type": "release", "schema_version": 1, **content}, "signatures": []}
    found = release.parse_release(json.dumps(document).encode())
    assert (found.model, found.platform, found.line) == ("", "", "stable")
    document["signed"]["model"] = "churn"
    with pytest.raises(IntegrityError, match=r"unknown keys \['model'\]"):
        release.parse_release(json.dumps(document).encode())


def test_what_a_device_and_its_cloud_call_their_routes_stands_once() -> None:
    root = Path(__file__).parents[2]
    places = {
        path.name
        for folder in ("edgewright", "edgewright_runtime")
        for path in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in {PREDICT_PATH, SYNC_PATH}
    }
    assert places == {"protocol.py"}
