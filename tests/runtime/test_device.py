import functools
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle
from edgewright.profile import Budget, StepDownPolicy
from edgewright.release import publish
from edgewright_runtime.__main__ import _ticked
from edgewright_runtime.backends.onnx import OnnxBackend
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import (
    BackendUnavailableError,
    EdgeRuntimeError,
    InputRejectedError,
    IntegrityError,
    RollbackError,
    UnsuitableError,
)
from edgewright_runtime.health.confidence import calibrated
from edgewright_runtime.health.sensors import Reading
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.hybrid import Answer, Policy
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.strain import Level, levels_of
from edgewright_runtime.update.golden import check_bundle
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.registry import Registry
from edgewright_runtime.update.updater import Updater
from tests.bundles import report, table_parts, table_rows
from tests.runtime.ledger import Ledger
from tests.runtime.loopback import answering, serving, slowly

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
CLOUD_SAYS = answering(scores=[0.05, 0.05, 0.9], model="churn-large", version="7")
EASY = MonitoringPlan(max_latency_p95_ms=10_000, max_memory_mb=10_000)


class Still:
    """Sensors of a board that is told how it feels."""

    reading = Reading()

    def read(self) -> Reading:
        return self.reading


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle) -> str:
    publish(table_bundle, str(tmp_path / "repository"), "stable", monitoring=EASY)
    return str(tmp_path / "repository")


def device(tmp_path: Path, repository: str | None, **options: Any) -> Device:
    return Device(Settings(tmp_path / "device", repository, **options), sensors=Still())


_fresh = itertools.count()


def work(on: Device, rows: int = 60) -> None:
    for _ in range(rows):  # the cache has seen none of them
        on.predict({**ROW, "tenure": 1e-3 * next(_fresh)})
    on.flush()


def logged(on: Device, kind: str) -> list[dict[str, Any]]:
    bodies = [json.loads(record.body) for record in on.outbox.batch(most=10_000, most_bytes=1 << 30)]
    return [body for body in bodies if body["kind"] == kind]


def test_first_start_fetches_a_model_and_answers_without_network_afterwards(tmp_path: Path, repository: str) -> None:
    first = device(tmp_path, repository)
    first.close()
    shutil.rmtree(repository)

    again = device(tmp_path, repository)
    answer = again.predict(ROW)
    tick = again.tick()

    assert (answer.source, answer.model) == ("edge", "churn.edge_device.stable.1")
    assert "cannot be read" in tick.errors[0]
    with pytest.raises(InputRejectedError):
        again.predict({})


def test_device_with_no_model_and_no_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgeRuntimeError, match="cannot be read"):
        device(tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(EdgeRuntimeError, match="no model is installed"):
        device(tmp_path, None)


def test_update_is_taken_between_two_answers_and_clears_the_cache(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    running = device(tmp_path, repository)
    before = running.predict(ROW)
    publish(newer_bundle, repository, "stable", monitoring=EASY)

    tick = running.tick()
    after = running.predict(ROW)

    assert tick.installed == tick.release == "churn.edge_device.stable.2"
    assert (before.model, after.model) == ("churn.edge_device.stable.1", "churn.edge_device.stable.2")
    assert before.scores != after.scores
    assert running.tick().installed is None


def test_new_model_that_does_badly_is_given_up_reported_and_not_tried_again(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    running = device(tmp_path, repository)
    publish(newer_bundle, repository, "stable", monitoring=MonitoringPlan(max_latency_p95_ms=1e-4, max_memory_mb=1e4))
    running.tick()
    ticks = []
    for _ in range(3):
        work(running)
        ticks.append(running.tick())

    assert [tick.rolled_back for tick in ticks] == [None, "churn.edge_device.stable.2", None]
    assert running.predict(ROW).model == "churn.edge_device.stable.1"
    assert "is not taken again" in ticks[2].errors[0]
    (report,) = logged(running, "rollback")
    assert report["release"] == "churn.edge_device.stable.2"
    assert report["reason"].startswith("high_latency")
    assert logged(running, "issue")


def test_new_model_that_misses_its_limit_by_a_little_is_given_up_too(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    running = on_trial(tmp_path, repository, newer_bundle, replace(EASY, max_latency_p95_ms=2.0))
    for _ in range(2):
        for _ in range(60):
            running._active.monitor.record(2.5, 0.9)
        running.flush()
        tick = running.tick()

    assert [issue.severity for issue in tick.issues if issue.kind == "high_latency"] == ["warning"]
    assert tick.rolled_back == "churn.edge_device.stable.2"


def test_new_model_that_does_well_ends_its_trial(tmp_path: Path, repository: str, newer_bundle: Bundle) -> None:
    running = device(tmp_path, repository)
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    running.tick()
    assert running.installation.trial_starts() == 0
    for _ in range(2):
        work(running)
        running.tick()

    assert running.installation.trial_starts() is None
    assert running.predict(ROW).model == "churn.edge_device.stable.2"


def usual_rows(count: int = 60) -> list[dict[str, Any]]:
    """Rows such as those that the model was validated with."""
    contracts = ("Month-to-month", "One year", "Two years")
    return [
        {"tenure": float(a), "charges": float(b), "contract": contracts[max(int(c), 0)]}
        for a, b, c in table_rows(seed=next(_fresh))[:count]
    ]


def on_trial(tmp_path: Path, repository: str, newer_bundle: Bundle, plan: MonitoringPlan, **options: Any) -> Device:
    """A device whose first model is proven and whose second was just taken."""
    running = device(tmp_path, repository, **options)
    for _ in range(2):
        for row in usual_rows():
            running.predict(row)
        running.flush()
        running.tick()
    publish(newer_bundle, repository, "stable", monitoring=plan)
    assert running.tick().installed == "churn.edge_device.stable.2"
    return running


def ticks_of(running: Device, rows: list[dict[str, Any]], windows: int = 2, **options: Any) -> list[Any]:
    ticks = []
    for _ in range(windows):
        for row in rows:
            running.predict({**row, "tenure": row["tenure"] + 1e-6 * next(_fresh)}, **options)
        running.flush()
        ticks.append(running.tick())
    return ticks


def test_new_model_that_is_wrong_too_often_is_given_up(tmp_path: Path, repository: str, newer_bundle: Bundle) -> None:
    plan = replace(EASY, min_accuracy=0.8)
    running = on_trial(tmp_path, repository, newer_bundle, plan)

    ticks = ticks_of(running, usual_rows(20), truth="none of them")

    assert ticks[-1].rolled_back == "churn.edge_device.stable.2"
    assert logged(running, "rollback")[0]["reason"].startswith("low_accuracy")


def bodies_of(request: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """What a device sent of one kind, if the request is a sync."""
    return [record["body"] for record in request.get("records", []) if record["body"]["kind"] == kind]


def test_truth_that_comes_later_judges_the_model_that_answered(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    policy = Policy(threshold=1.1, latency_budget_ms=5000)
    ledger = Ledger("churn.edge_device.stable")
    ledger.version = 2

    def reply(path: str, content: dict[str, Any]) -> tuple[int, bytes] | None:
        return (ledger if "records" in content else CLOUD_SAYS)(path, content)

    with serving(reply) as cloud:
        options = {"cloud": CloudClient(cloud.url, "t", timeout_s=5, attempts=1), "policy": policy}
        plan = replace(EASY, min_accuracy=0.8)
        running = on_trial(tmp_path, repository, newer_bundle, plan, **options)
        answers = [running.predict(row) for row in usual_rows(30)]
        running.flush()
        running.tick()
        ticks = []
        for half in (answers[:15], answers[15:]):  # no prediction since: the truths alone make a window
            assert all(running.label(answer, "none of them") for answer in half)
            running.flush()
            ticks.append(running.tick())

    assert {answer.source for answer in answers} == {"cloud"}
    assert ticks[-1].rolled_back == "churn.edge_device.stable.2"
    reasons = [body["reason"] for request in cloud.requests for body in bodies_of(request, "rollback")]
    assert reasons[0].startswith("low_accuracy")
    assert not running.label(answers[0], "none of them"), "another model is current"


def test_few_wrong_answers_condemn_nothing(tmp_path: Path, repository: str, newer_bundle: Bundle) -> None:
    plan = replace(EASY, min_accuracy=0.75)
    running = on_trial(tmp_path, repository, newer_bundle, plan)

    ticks = ticks_of(running, usual_rows(1), truth="none of them")  # 0 of 1: up to 79% would still be likely

    assert running.predict(ROW).model == "churn.edge_device.stable.2", ticks


def test_new_model_that_fails_is_given_up(
    tmp_path: Path, repository: str, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Answer("edge", "low", (1.0, 0.0, 0.0), 0.0, 0.0, "default")
    running = on_trial(tmp_path, repository, newer_bundle, EASY, default=default)
    before = running.installation.current()
    run = OnnxBackend.run

    def broken(self: OnnxBackend, feeds: Any) -> Any:
        if running.installation.current() == before:
            raise RuntimeError("the interpreter failed")
        return run(self, feeds)

    monkeypatch.setattr(OnnxBackend, "run", broken)

    assert running.predict(ROW).source == "default"
    ticks = ticks_of(running, usual_rows())

    assert ticks[-1].rolled_back == "churn.edge_device.stable.2"
    assert logged(running, "rollback")[0]["reason"].startswith("high_errors")
    assert running.predict(ROW).model == "churn.edge_device.stable.1"


@pytest.mark.parametrize("strange_before", [False, True])
def test_drift_condemns_a_new_model_only_where_the_one_before_had_none(
    tmp_path: Path, repository: str, newer_bundle: Bundle, strange_before: bool
) -> None:
    strange = [{**row, "tenure": 1000.0} for row in usual_rows()]
    running = device(tmp_path, repository)
    ticks_of(running, strange if strange_before else usual_rows(400))
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    assert running.tick().installed == "churn.edge_device.stable.2"

    ticks = ticks_of(running, strange)

    assert [issue.kind for issue in ticks[-1].issues] == ["confidence_drift"]
    assert ticks[-1].rolled_back == (None if strange_before else "churn.edge_device.stable.2")


def test_time_of_the_cloud_and_a_network_that_is_down_are_not_the_models_fault(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    plan = replace(EASY, max_latency_p95_ms=100.0)
    policy = Policy(threshold=1.1, latency_budget_ms=5000)
    with serving(CLOUD_SAYS) as cloud:
        client = CloudClient(cloud.url, "t", timeout_s=5, attempts=1)
        running = on_trial(tmp_path, repository, newer_bundle, plan, cloud=client, policy=policy)
        cloud.reply = slowly(0.2, CLOUD_SAYS)
        for _ in range(2):
            for row in usual_rows(5):
                assert running.predict(row).latency_ms > 200
            running.flush()
            slow = running.tick()
    down = ticks_of(running, usual_rows(), windows=3)

    assert slow.issues == ()
    assert [issue.kind for issue in down[-1].issues] == ["rising_fallbacks"]
    assert running.predict(ROW).model == "churn.edge_device.stable.2"
    assert (slow.rolled_back, running.installation.trial_starts()) == (None, None), "it has proved itself"


def test_a_release_can_change_nothing_but_thresholds(tmp_path: Path, repository: str, table_bundle: Bundle) -> None:
    with serving(CLOUD_SAYS) as cloud:
        client = CloudClient(cloud.url, "t", timeout_s=5, attempts=1)
        running = device(tmp_path, repository, cloud=client, policy=Policy(threshold=0.0, latency_budget_ms=5000))
        before = running.predict(ROW)
        asking = replace(EASY, min_confidence=1.0, max_latency_p95_ms=7.0)
        publish(table_bundle, repository, "stable", monitoring=asking)
        tick = running.tick()
        after = running.predict(ROW)

    assert (before.source, after.source) == ("edge", "cloud")
    assert (tick.installed, tick.downloaded_bytes) == ("churn.edge_device.stable.2", 0)
    assert running._active.watch.plan.max_latency_p95_ms == 7.0


def test_sync_answers_carry_an_update_and_spare_the_repository(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    now, offered = [1e6], [1]

    def reply(_path: str, content: dict[str, Any]) -> tuple[int, bytes]:
        keys = [record["key"] for record in content["records"]]
        offer = {"line": "churn.edge_device.stable", "version": offered[0]}
        return 200, json.dumps({"confirmed": keys, "offer": offer}).encode()

    with serving(reply) as cloud:
        client = CloudClient(cloud.url, "t", timeout_s=5, attempts=1)
        settings = Settings(tmp_path / "device", repository, cloud=client, poll_s=100)
        running = Device(settings, sensors=Still(), clock=lambda: 0.0, steady=lambda: now[0])
        running.tick()
        publish(newer_bundle, repository, "stable", monitoring=EASY)

        not_yet = running.tick()
        offered[0] = 2
        at_once = running.tick()
        publish(newer_bundle, repository, "stable", monitoring=replace(EASY, window_s=60))
        too_soon = running.tick()
        now[0] += 101
        after_a_while = running.tick()

    found = [tick.installed for tick in (not_yet, at_once, too_soon, after_a_while)]
    assert found == [None, "churn.edge_device.stable.2", None, "churn.edge_device.stable.3"]


def test_corrupted_outbox_is_set_aside_and_never_a_crash_loop(tmp_path: Path, repository: str) -> None:
    for start in range(4):
        running = device(tmp_path, repository)
        running.predict(ROW)
        assert len(logged(running, "prediction")) == 1
        assert (running.outbox.set_aside is not None) == (start > 0)
        running.close()
        for name in ("outbox.db-wal", "outbox.db-shm"):
            (tmp_path / "device" / name).unlink(missing_ok=True)
        (tmp_path / "device/outbox.db").write_bytes(b"no database at all" * 500)

    assert len(list((tmp_path / "device").glob("outbox.db*damaged*"))) <= 1, "or damaged files would fill the disk"


def test_issue_is_told_when_it_begins_and_when_it_ends(tmp_path: Path, repository: str) -> None:
    running = device(tmp_path, repository, monitoring=Monitoring(max_temperature_c=80))
    for celsius in [85] * 5 + [60] * 4:
        running._sensors.reading = Reading(temperature_c=celsius)
        running.tick()

    told = [(issue["issue"], issue["severity"]) for issue in logged(running, "issue")]
    assert told == [("high_temperature", "warning"), ("high_temperature", "cleared")]


def test_new_model_that_cannot_be_opened_after_all_is_given_up(
    tmp_path: Path, repository: str, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = device(tmp_path, repository)
    publish(newer_bundle, repository, "stable", monitoring=EASY)

    def broken(*_: object) -> None:
        raise BackendUnavailableError("no memory is left for it")

    monkeypatch.setattr("edgewright_runtime.active.Predictor", broken)
    tick = running.tick()
    monkeypatch.undo()

    assert (tick.release, tick.rolled_back) == ("churn.edge_device.stable.1", "churn.edge_device.stable.2")
    assert "no memory is left" in logged(running, "rollback")[0]["reason"]
    assert running.installation.current().name == running.predict(ROW).model == "churn.edge_device.stable.1"
    assert "no memory is left for it); tried again later" in running.tick().errors[0]
    running.clock = lambda: time.time() + 3600
    assert running.tick().installed == "churn.edge_device.stable.2"


def test_new_model_is_not_blamed_for_the_slowness_of_a_hot_device(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    plan = replace(EASY, max_latency_p95_ms=1e-4)
    levels = (Level("normal"), Level("slow", threads=1))
    watched = Monitoring(max_latency_p95_ms=1e-4, max_temperature_c=80)
    running = device(tmp_path, repository, levels=levels, monitoring=watched)
    running._sensors.reading = Reading(temperature_c=95)
    publish(newer_bundle, repository, "stable", monitoring=plan)
    assert running.tick().installed == "churn.edge_device.stable.2"
    assert running.tick().level == "slow"

    hot = ticks_of(running, usual_rows(20), windows=3)
    running._sensors.reading = Reading(temperature_c=40)
    cool = ticks_of(running, usual_rows(20), windows=8)

    assert {issue.kind for issue in hot[-1].issues} == {"high_latency", "high_temperature"}
    assert [tick.rolled_back for tick in hot] == [None] * 3
    assert "churn.edge_device.stable.2" in [tick.rolled_back for tick in cool]


def test_release_that_another_process_installs_or_leaves_is_followed(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    running = device(tmp_path, repository)
    other = device(tmp_path, None)  # an application beside the agent: it takes no updates itself
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    assert running.tick().installed == "churn.edge_device.stable.2"

    assert other.predict(ROW).model == "churn.edge_device.stable.1"
    assert other.tick().release == "churn.edge_device.stable.2"
    assert other.predict(ROW).model == "churn.edge_device.stable.2"

    with Installation(tmp_path / "device").exclusive():
        Installation(tmp_path / "device").rollback()
    assert [running.tick().release, other.tick().release] == [
        "churn.edge_device.stable.1",
        "churn.edge_device.stable.1",
    ]


def test_trial_is_not_judged_by_what_another_model_did(
    tmp_path: Path, repository: str, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Monitoring(max_latency_p95_ms=1e-4)
    device(tmp_path, repository).close()
    other = device(tmp_path, None, monitoring=strict)
    for _ in range(2):
        work(other)
        other.tick()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    Updater(repository, "stable", tmp_path / "device").update()
    work(other)
    monkeypatch.setattr(other, "_replace", _fails)  # it cannot follow yet

    tick = other.tick()

    assert "cannot follow" in tick.errors[0]
    assert "high_latency" in {issue.kind for issue in tick.issues}
    assert tick.rolled_back is None
    assert Installation(tmp_path / "device").current_name() == "churn.edge_device.stable.2"
    monkeypatch.undo()
    assert other.tick().release == "churn.edge_device.stable.2"


def _fails() -> None:
    raise EdgeRuntimeError("cannot follow")


def test_model_that_was_given_up_is_chosen_neither_under_heat_nor_after_damage(two_models: Path) -> None:
    """It is still on the disk, and is the better one by its figures."""
    root = two_models / "device"
    Installation(root).refuse("churn.edge_device.small.1", "rolled back on this device")

    hot = heated(device(two_models, None), [90] * 3, busy=False)
    (root / "current/release.json").write_bytes(b"rotten")

    assert {model for _, model, *_ in hot} == {"churn.edge_device.stable.1"}
    with pytest.raises(EdgeRuntimeError, match="no model is installed"):
        device(two_models, None)


def test_model_that_ends_its_process_each_time_is_given_up(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    device(tmp_path, repository).close()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    Updater(repository, "stable", tmp_path / "device").update()

    for _ in range(5):  # an agent that answers nothing proves nothing by its starts
        device(tmp_path, None, answers=False).close()
    models = []
    for _ in range(5):  # a start that is never followed by a judged window is what a crash looks like
        running = device(tmp_path, None)
        models.append(running.predict(ROW).model)
        running.outbox.close()

    assert models == ["churn.edge_device.stable.2"] * 3 + ["churn.edge_device.stable.1"] * 2


def test_damaged_current_model_makes_room_for_the_one_before(
    tmp_path: Path, repository: str, newer_bundle: Bundle
) -> None:
    device(tmp_path, repository).close()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    Updater(repository, "stable", tmp_path / "device").update()
    (tmp_path / "device/current/bundle/churn.onnx").write_bytes(b"rotten")

    running = device(tmp_path, repository)

    assert running.predict(ROW).model == "churn.edge_device.stable.1"
    assert "churn.onnx" in logged(running, "rollback")[0]["reason"]
    assert running.tick().installed == "churn.edge_device.stable.2", "damage is not the release's fault"
    assert running.predict(ROW).model == "churn.edge_device.stable.2"


@pytest.mark.parametrize("kept", [True, False])
def test_damaged_release_document_is_no_crash_loop(
    tmp_path: Path, repository: str, newer_bundle: Bundle, kept: bool
) -> None:
    device(tmp_path, repository).close()
    if kept:
        publish(newer_bundle, repository, "stable", monitoring=EASY)
        Updater(repository, "stable", tmp_path / "device").update()
    (tmp_path / "device/current/release.json").write_bytes(b"rotten")

    running = device(tmp_path, repository)

    assert running.predict(ROW).model == "churn.edge_device.stable.1"
    (report,) = logged(running, "rollback")
    assert report["release"] == ("churn.edge_device.stable.2" if kept else "churn.edge_device.stable.1")
    assert "not valid JSON" in report["reason"]
    assert running.tick().installed == ("churn.edge_device.stable.2" if kept else None)
    running.close()
    if not kept:
        (tmp_path / "device/current/release.json").write_bytes(b"rotten")
        with pytest.raises(EdgeRuntimeError, match="no model is installed"):
            device(tmp_path, None)


@pytest.mark.parametrize("kept", [True, False])
def test_runtime_that_is_gone_makes_room_for_a_model_that_runs(
    tmp_path: Path, repository: str, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    device(tmp_path, repository).close()
    if kept:
        publish(newer_bundle, repository, "stable", monitoring=EASY)
        Updater(repository, "stable", tmp_path / "device").update()
    gone = Installation(tmp_path / "device").current().bundle

    def opened(folder: Path, threads: int | None = None) -> Predictor:
        if folder == gone:
            raise BackendUnavailableError("onnxruntime 1.0 is installed, this model needs at least 2.0")
        return Predictor(folder, threads)

    monkeypatch.setattr("edgewright_runtime.active.Predictor", opened)
    if kept:
        assert device(tmp_path, None).predict(ROW).model == "churn.edge_device.stable.1"
    else:
        with pytest.raises(BackendUnavailableError, match=r"at least 2\.0"):
            device(tmp_path, repository)


def test_damaged_only_model_is_fetched_again(tmp_path: Path, repository: str) -> None:
    device(tmp_path, repository).close()
    (tmp_path / "device/current/bundle/churn.onnx").write_bytes(b"rotten")

    with pytest.raises(IntegrityError, match=r"churn\.onnx"):
        device(tmp_path, None)
    assert device(tmp_path, repository).predict(ROW).model == "churn.edge_device.stable.1"


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """A device with an accurate current model and a small one beside it, both of two threads."""
    repository = str(tmp_path / "repository")
    for seed, (channel, memory_mb, accuracy, p95_ms) in enumerate([("stable", 40.0, 0.95, 9), ("small", 2.0, 0.8, 2)]):
        parts = table_parts(tmp_path / channel, seed=seed + 20)
        made = report(parts.exported.artifact, p95_ms=p95_ms, accuracy=accuracy)
        figures = made.candidate.model_copy(update={"added_memory_mb": memory_mb})
        steps = ("cheaper_model", "fewer_threads", "longer_interval")
        board = parts.device.model_copy(
            update={"threads": 2, "policy": StepDownPolicy(max_temperature_c=80, steps=steps)}
        )
        made = replace(parts, report=made.model_copy(update={"candidate": figures}), device=board)
        publish(made.build(EASY), repository, channel)
    Updater(repository, "stable", tmp_path / "device").update()
    Updater(repository, "small", tmp_path / "device").update(beside=True, quota_bytes=1 << 30)
    return tmp_path


def heated(running: Device, celsius: list[int], *, busy: bool) -> list[tuple[str, str, int, float]]:
    seen = []
    for degrees in celsius:
        running._sensors.reading = Reading(temperature_c=degrees)
        if busy:
            work(running)
        running.tick()
        active = running._active
        threads = active.answers._model._predictor.threads
        seen.append((running._levels[running._level].name, active.model.release, threads, running.interval_s))
    return seen


@pytest.mark.parametrize("busy", [True, False])
def test_heat_steps_down_as_the_profile_says_and_cool_air_back_up(two_models: Path, busy: bool) -> None:
    running = device(two_models, None)

    seen = heated(running, [50, *[90] * 6, *[60] * 6], busy=busy)

    normal, cheaper = (
        ("normal", "churn.edge_device.stable.1", 2, 0.0),
        ("cheaper_model", "churn.edge_device.small.1", 2, 0.0),
    )
    fewer, slower = (
        ("fewer_threads", "churn.edge_device.small.1", 1, 0.0),
        ("longer_interval", "churn.edge_device.small.1", 1, 1.0),
    )
    # Two hot looks raise the issue, three cool ones clear it; in between the lowest level is kept.
    down, up = [normal, normal, cheaper, fewer, slower], [fewer, cheaper, normal, normal]
    assert seen == [*down, *[slower] * 4, *up]


def test_step_that_would_change_nothing_is_left_out(two_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(Installation(two_models / "device"))
    small, current = registry.models()
    steps = ("longer_interval", "fewer_threads", "cheaper_model")

    assert [
        (v.name, v.interval_s, v.threads, v.max_latency_ms) for v in levels_of(steps, current, [small, current])
    ] == [
        ("normal", 0.0, 2, None),
        ("longer_interval", 1.0, 2, None),
        ("fewer_threads", 1.0, 1, None),
        ("cheaper_model", 1.0, 1, pytest.approx(7.2)),
    ]
    assert [v.name for v in levels_of(steps, small, [small, current])] == ["normal", "longer_interval", "fewer_threads"]
    assert [v.name for v in levels_of((), current, [small])] == ["normal"]

    monkeypatch.setattr("edgewright_runtime.device.installed_runtimes", lambda: frozenset({"litert"}))
    seen = heated(device(two_models, None), [90] * 3, busy=False)
    assert [level for level, *_ in seen] == ["normal", "fewer_threads", "longer_interval"], "nothing runs the small one"


def test_level_without_a_model_is_passed_over(tmp_path: Path, repository: str) -> None:
    levels = (Level("normal"), Level("cheaper", max_latency_ms=0.001), Level("slow", interval_s=2))
    running = device(tmp_path, repository, levels=levels, monitoring=Monitoring(max_temperature_c=80))

    seen = [level for level, *_ in heated(running, [90, 90, 90, 60, 60, 60, 60], busy=False)]

    assert seen == ["normal", "slow", "slow", "slow", "slow", "normal", "normal"]


def test_model_over_its_budget_is_not_activated_and_not_tried_again(tmp_path: Path, repository: str) -> None:
    parts = table_parts(tmp_path / "over", seed=30)
    tight = parts.report.model_copy(update={"budget": Budget(max_latency_ms=1e-6)})
    bundle = replace(parts, report=tight).build()
    with pytest.raises(UnsuitableError, match="its budget is 1e-06 ms"):
        check_bundle(bundle.artifact.path)
    running = device(tmp_path, repository)
    publish(bundle, repository, "stable")

    first, second = running.tick(), running.tick()

    assert "its budget is" in first.errors[0]
    assert "is not taken again" in second.errors[0]
    assert running.predict(ROW).model == "churn.edge_device.stable.1"
    with pytest.raises(RollbackError):
        Updater(repository, "stable", tmp_path / "device").update()
    assert Installation(tmp_path / "device").current().name == "churn.edge_device.stable.1"


@pytest.mark.parametrize("wait_for_log", [True, False])
def test_eight_threads_answer_and_log_while_the_model_is_replaced(
    tmp_path: Path, repository: str, newer_bundle: Bundle, wait_for_log: bool
) -> None:
    running = device(tmp_path, repository, wait_for_log=wait_for_log)
    by_model: dict[str, dict[float, tuple[float, ...]]] = {
        "churn.edge_device.stable.1": {},
        "churn.edge_device.stable.2": {},
    }
    failures: list[Exception] = []

    def ask(worker: int) -> None:
        try:
            for n in range(30):
                tenure = worker + n / 100
                answer = running.predict({**ROW, "tenure": tenure})
                by_model[answer.model][tenure] = answer.scores
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    running.tick()
    for thread in threads:
        thread.join()
    ask(8)
    running.flush()
    running.tick()
    running.outbox.flush()

    assert not failures
    assert sum(len(answers) for answers in by_model.values()) == 270
    assert len(by_model["churn.edge_device.stable.2"]) >= 30
    assert len(logged(running, "prediction")) == 270
    assert sum(window["predictions"] for window in logged(running, "telemetry")) == 270
    for model, answers in by_model.items():
        alone = Predictor(tmp_path / "device/releases" / model / "bundle")
        for tenure, scores in answers.items():
            expected = alone.predict({**ROW, "tenure": tenure}).scores
            np.testing.assert_allclose(scores, calibrated(expected, alone.manifest.calibration)[0], atol=1e-6)


def test_no_prediction_fails_or_mixes_models_through_updates_and_a_rollback(
    tmp_path: Path, repository: str, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    running = device(tmp_path, repository, wait_for_log=False)
    answers: list[tuple[float, Answer]] = []
    failures: list[Exception] = []
    ended = threading.Event()

    def ask(worker: int) -> None:
        try:
            for n in itertools.count():
                if ended.is_set():
                    return
                tenure = worker + (n % 20) / 100  # each input comes again under every release
                answers.append((tenure, running.predict({**ROW, "tenure": tenure})))
                time.sleep(0.01)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    taken = []
    for bundle in (newer_bundle, None, table_bundle):
        if bundle is None:
            Installation(tmp_path / "device").rollback()
        else:
            publish(bundle, repository, "stable", monitoring=EASY)
        taken.append(running.tick().release)
        more = len(answers) + 100
        while len(answers) < more and not failures:
            time.sleep(0.001)
    ended.set()
    for thread in threads:
        thread.join()
    running.tick()
    running.flush()
    running.tick()
    running.outbox.flush()

    assert not failures
    assert not running._active.answers.not_logged + running.outbox.lost
    assert [name.rpartition(".")[2] for name in taken] == ["2", "1", "3"]
    counts = Counter(answer.release for _, answer in answers)
    assert set(counts) == {"churn.edge_device.stable.1", *taken}
    assert Counter(entry["release"] for entry in logged(running, "prediction")) == counts
    windows: Counter[str] = Counter()
    for window in logged(running, "telemetry"):
        windows[window["release"]] += window["predictions"]
    assert windows == counts
    expected = {name: scores_alone(newer_bundle if name == taken[0] else table_bundle) for name in counts}
    for tenure, answer in answers:
        assert answer.model == answer.release
        np.testing.assert_allclose(answer.scores, expected[answer.release](tenure), atol=1e-6)


def scores_alone(bundle: Bundle) -> Callable[[float], np.ndarray]:
    alone = Predictor(bundle.artifact.path)
    return functools.cache(
        lambda tenure: calibrated(alone.predict({**ROW, "tenure": tenure}).scores, alone.manifest.calibration)[0]
    )


def test_answer_that_outlasts_two_rounds_of_upkeep_is_counted_with_the_model_that_gave_it(
    tmp_path: Path, repository: str, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = device(tmp_path, repository)
    begun, held, infer = threading.Event(), threading.Event(), OnnxBackend.infer

    def slow(backend: OnnxBackend, feeds: Any) -> Any:
        begun.set()
        held.wait(60)
        return infer(backend, feeds)

    answers: list[Answer] = []
    with monkeypatch.context() as patch:
        patch.setattr(OnnxBackend, "infer", slow)
        thread = threading.Thread(target=lambda: answers.append(running.predict(ROW)))
        thread.start()
        assert begun.wait(60)
    publish(newer_bundle, repository, "stable", monitoring=EASY)
    assert running.tick().installed == "churn.edge_device.stable.2"
    running.tick()
    held.set()
    thread.join()
    running.tick()

    assert [answer.release for answer in answers] == ["churn.edge_device.stable.1"]
    assert [(window["release"], window["predictions"]) for window in logged(running, "telemetry")] == [
        ("churn.edge_device.stable.1", 1)
    ]


def test_agent_answers_lines_and_keeps_what_it_logged(tmp_path: Path, repository: str) -> None:
    refused = ["5", "true", "[[1], 2]", "[" * 100_000, '"\\ud800"']  # none of them may end the agent
    rows = [json.dumps(ROW), "not json", json.dumps({"tenure": 1}), *refused]
    command = [sys.executable, "-m", "edgewright_runtime", "run", "--root", str(tmp_path / "device")]
    done = subprocess.run(
        [*command, "--repository", repository, "--interval", "0.1"],
        input="\n".join(rows).encode() + b"\n\xff\xfe\n" + json.dumps(ROW).encode(),
        capture_output=True,
        check=True,
    )

    lines = done.stdout.decode().splitlines()
    answers = [json.loads(line) for line in lines[:10]]
    assert answers[0]["model"] == "churn.edge_device.stable.1"
    assert "error" in answers[1]
    assert "'contract' is missing" in answers[2]["error"]
    assert ["error" in answer for answer in answers] == [False, *[True] * 8, False]
    assert json.loads("".join(lines[10:]))["answered"] == 10
    status = subprocess.run(
        [sys.executable, "-m", "edgewright_runtime", "bench", "--runs", "20", "--root", str(tmp_path / "device")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(status.stdout)["p95_ms"] > 0


@pytest.mark.parametrize("upkeep_only", [False, True])
def test_agent_that_is_terminated_keeps_its_last_window(tmp_path: Path, repository: str, upkeep_only: bool) -> None:
    device(tmp_path, repository).close()
    command = [sys.executable, "-m", "edgewright_runtime", "run", "--root", str(tmp_path / "device")]
    options = ["--interval", "0.1", *(["--upkeep-only"] if upkeep_only else [])]
    with subprocess.Popen(
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        assert agent.stderr is not None
        if not upkeep_only:
            agent.stdin.write(json.dumps(ROW) + "\n")
            agent.stdin.flush()
            assert json.loads(agent.stdout.readline())["source"] == "edge"
        assert "upkeep" in agent.stderr.readline()
        agent.terminate()
        assert agent.wait(30) == 0

    again = device(tmp_path, None)
    assert [window["predictions"] for window in logged(again, "telemetry")] == ([] if upkeep_only else [1])
    again.close()


def test_agent_goes_on_where_a_part_of_upkeep_fails(tmp_path: Path, repository: str) -> None:
    device(tmp_path, repository).close()
    command = [sys.executable, "-m", "edgewright_runtime", "run", "--root", str(tmp_path / "device")]
    with subprocess.Popen(
        [*command, "--interval", "0.1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stderr is not None
        assert json.loads(agent.stderr.readline())["upkeep"]["release"] == "churn.edge_device.stable.1"
        (tmp_path / "device/releases/churn.edge_device.stable.1/release.json").write_bytes(b"rotten")
        failed, again = (next(line for line in agent.stderr if '"errors": ["' in line) for _ in range(2))
        answers, _ = agent.communicate(json.dumps(ROW) + "\n")

    assert "not valid JSON" in failed
    assert again == failed
    assert json.loads(answers.splitlines()[0])["source"] == "edge"


def test_round_of_upkeep_that_fails_in_an_unforeseen_way_is_told_and_tried_again(
    tmp_path: Path, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = device(tmp_path, repository)

    def broken() -> Reading:
        raise ZeroDivisionError("a battery of no capacity")

    monkeypatch.setattr(running._sensors, "read", broken)

    assert _ticked(running) == {"upkeep_failed": "ZeroDivisionError: a battery of no capacity"}
    monkeypatch.undo()
    assert _ticked(running)["upkeep"]["release"] == "churn.edge_device.stable.1"


def test_refusal_that_lasts_is_told_once(tmp_path: Path, repository: str) -> None:
    running = device(tmp_path, repository)
    index = Path(repository, "channels/churn.edge_device.stable.json")
    whole = index.read_bytes()
    for content in (b"damaged", b"damaged", whole, b"damaged"):
        index.write_bytes(content)
        running.tick()

    assert len(logged(running, "refused")) == 2
