import gzip
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgewright.cloud import app
from edgewright.cloud.database import Database, read_telemetry
from edgewright.cloud.offers import Offers
from edgewright.cloud.rates import Bucket, Rates
from edgewright.errors import InputError
from edgewright.monitor import MonitoringPlan, check_health
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright.release.release import current_document
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.errors import RefusedError
from edgewright_runtime.health.monitor import Monitor, TelemetryFile
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.hybrid import Hybrid, Policy
from edgewright_runtime.predict.offline import OfflineModel, sync
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.strict_json import Fields
from tests.bundles import report

pytestmark = pytest.mark.filterwarnings("ignore:websockets.*:DeprecationWarning")

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
Serving = Callable[..., str]


def client(url: str, token: str, **options: Any) -> CloudClient:
    return CloudClient(url, token, pause=lambda _: None, **options)


def get(url: str, token: str = "none") -> tuple[int, str]:  # noqa: S107 - what a stranger sends
    reply = httpx.get(url, headers={"Authorization": f"Bearer {token}"})
    return reply.status_code, reply.text


def post(url: str, token: str, body: bytes, **headers: str) -> tuple[int, str]:
    reply = httpx.post(url, content=body, headers={"Authorization": f"Bearer {token}", **headers})
    return reply.status_code, reply.text


def test_what_a_device_logged_is_counted_once_whatever_is_repeated(
    serving: Serving, database: Database, tmp_path: Path
) -> None:
    token = database.add_device("board-1")
    url = serving()
    outbox = Outbox(tmp_path / "o.db")
    outbox.add_many([{"kind": "prediction", "n": n} for n in range(700)])
    first_batch = [{"key": r.key, "body": json.loads(r.body)} for r in outbox.batch()]
    # The server commits, the confirmation is lost, the device sends all of it again.
    client(url, token).post("/v1/sync", {"status": {}, "records": first_batch}, Fields.rest)

    done = sync(outbox, client(url, token), {"release": "stable.1"})

    assert done.records == 700
    assert database.count() == 700
    (device,) = database.devices()
    assert (device.id, device.records, device.status) == ("board-1", 700, {"release": "stable.1"})
    assert "edgewright_repeated_total 500" in get(f"{url}/metrics", database.add_operator("prometheus"))[1]


def test_devices_at_the_same_time_are_all_counted(serving: Serving, database: Database, tmp_path: Path) -> None:
    url = serving()
    tokens = [database.add_device(f"board-{i}") for i in range(4)]

    def work(i: int) -> None:
        outbox = Outbox(tmp_path / f"{i}.db")
        outbox.add_many([{"kind": "prediction", "n": n} for n in range(300)])
        sync(outbox, client(url, tokens[i]), {})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [device.records for device in database.devices()] == [300] * 4


def test_fallback_answers_with_the_model_it_serves(
    serving: Serving, database: Database, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    token = database.add_device("board")
    url = serving(bundles=[newer_bundle.artifact.path])
    edge = Predictor(table_bundle.artifact.path)
    policy = Policy(threshold=1.1, latency_budget_ms=5000)

    answer = Hybrid(edge, "stable.1", cloud=client(url, token), policy=policy).answer(ROW)

    expected = Predictor(newer_bundle.artifact.path).predict(ROW)
    assert answer.source == "cloud"
    assert answer.model == f"churn.{newer_bundle.manifest_digest[:12]}"
    assert answer.scores == pytest.approx(tuple(expected.scores[0]), abs=1e-6)


def test_sync_offers_the_current_release(
    serving: Serving, database: Database, tmp_path: Path, table_bundle: Bundle
) -> None:
    token = database.add_device("board")
    publish(table_bundle, str(tmp_path / "repository"), "stable")
    url = serving(repository=str(tmp_path / "repository"), offer_every_s=0)

    status = {"release": "churn.edge_device.stable.1"}

    done = sync(Outbox(tmp_path / "o.db"), client(url, token), status)

    assert (done.offer.line, done.offer.version) == ("churn.edge_device.stable", 1)
    (tmp_path / "repository/channels/churn.edge_device.stable.json").write_bytes(b"damaged")
    assert sync(Outbox(tmp_path / "o.db"), client(url, token), status).offer is None
    assert "edgewright_offer_failures_total 1" in get(f"{url}/metrics", database.add_operator("prometheus"))[1]


def test_device_is_offered_its_own_model_only(
    serving: Serving, database: Database, tmp_path: Path, table_bundle: Bundle, image_bundle: Bundle
) -> None:
    publish(table_bundle, str(tmp_path / "r"), "stable")
    for percent in (50, 60):
        publish(image_bundle, str(tmp_path / "r"), "stable", cohort_percent=percent)
    token = database.add_device("board")
    url = serving(repository=str(tmp_path / "r"))

    def offered(release: object) -> Any:
        return sync(Outbox(tmp_path / "o.db"), client(url, token), {"release": release}).offer

    assert offered("churn.edge_device.stable.7").version == 1
    assert offered("digits-cnn.android.stable.1").version == 2
    for strange in ("churn.edge_device.beta.1", "../../etc.1", "", None, 5, "stable"):
        assert offered(strange) is None


def test_repository_is_not_read_for_every_device(
    serving: Serving, database: Database, tmp_path: Path, table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(table_bundle, str(tmp_path / "repository"), "stable")
    reads: list[str] = []

    def counted(repository: ReleaseRepository, line: str) -> Any:
        reads.append(line)
        return current_document(repository, line)

    monkeypatch.setattr("edgewright.cloud.offers.current_document", counted)
    url = serving(repository=str(tmp_path / "repository"), offer_every_s=3600)
    status = {"release": "churn.edge_device.stable.1"}
    for i in range(5):
        done = sync(Outbox(tmp_path / f"{i}.db"), client(url, database.add_device(f"board-{i}")), status)
        assert done.offer.version == 1

    assert reads == ["churn.edge_device.stable"]


def test_telemetry_that_was_synced_is_read_for_monitoring(serving: Serving, database: Database, tmp_path: Path) -> None:
    token = database.add_device("board")
    watched = Monitor(TelemetryFile(tmp_path, "stable.1"), Monitoring(), device="board", release="stable.1", bundle="b")
    for _ in range(30):
        watched.record(2.0, confidence=0.9, correct=True)
    watched.flush()
    outbox = Outbox(tmp_path / "o.db")
    line = json.loads((tmp_path / "stable.1.jsonl").read_text())
    outbox.add_many([{"kind": "telemetry", **line}, {"kind": "telemetry", "release": 1}, {"kind": "prediction"}])
    sync(outbox, client(serving(), token), {})

    telemetry = database.telemetry()

    assert [record.predictions for record in telemetry.records] == [30]
    assert telemetry.malformed == 1
    assert telemetry.first_fault.startswith("device board: ")


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels else []


HOSTILE = [
    None, True, -1, 0, 2**53, 2**63, 10**400, 1e308, -1e308, 5e-324, "", "x" * 20_000, "a\0b", "\ud800", "NaN",
    [], {}, [[1, 2]] * 5001, [[1000, 2**53]], [[-1000, 1]] * 3, [None], nested(25), {"a": {"b": 1}}, "telemetry",
]  # fmt: skip


def hostile_report(whole: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A window of telemetry, some of whose values are replaced, missing or added."""
    report = dict(whole)
    for _ in range(chance.randint(1, 4)):
        key = chance.choice([*whole, "kind", "time_s", "device", "more"])
        if chance.random() < 0.2:
            report.pop(key, None)
        else:
            report[key] = chance.choice(HOSTILE)
    return report


def test_hostile_reports_are_refused_or_counted_and_never_stop_monitoring(
    serving: Serving, database: Database, table_bundle: Bundle
) -> None:
    chance, windows = random.Random(7), []
    watched = Monitor(windows.append, Monitoring(), device="board", release="stable.1", bundle="b")
    for _ in range(100):
        watched.record(2.0, confidence=0.9, correct=True)
    watched.flush()
    whole = {"kind": "telemetry", **json.loads(windows[0].to_line())}
    url, token, good = serving(), database.add_device("hostile"), database.add_device("good")
    statuses = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as connection:
        for number in range(100):
            records = [{"key": f"{number}-{n}", "body": hostile_report(whole, chance)} for n in range(3)]
            body = json.dumps({"status": chance.choice([{}, {"release": chance.choice(HOSTILE)}]), "records": records})
            reply = connection.post(f"{url}/v1/sync", content=body)
            statuses.append(reply.status_code)
            assert reply.status_code in {200, 400, 413, 422, 429}, reply.text
            assert len(reply.text) < 1000
    client(url, good).post("/v1/sync", {"status": {}, "records": [{"key": "g", "body": whole}]}, Fields.rest)

    telemetry = database.telemetry()
    health = check_health(telemetry, MonitoringPlan(), report(table_bundle.artifact))

    assert statuses.count(200) > 60
    assert telemetry.malformed > 100
    assert windows[0].to_line() in {record.to_line() for record in telemetry.records}
    assert sum(window.predictions for window in health.windows if window.release == "stable.1") >= 100
    assert "hostile" in get(f"{url}/v1/devices", database.add_operator("o"))[1]


def test_device_cannot_speak_for_another(serving: Serving, database: Database) -> None:
    token = database.add_device("a")
    content = {"status": {}, "records": [{"key": "k", "body": {"kind": "rollback", "device": "b"}}]}
    client(serving(), token).post("/v1/sync", content, Fields.rest)
    assert [body["device"] for body in database.bodies("rollback")] == ["a"]


def test_monitoring_reads_the_database_by_its_url(serving: Serving, database: Database, tmp_path: Path) -> None:
    token = database.add_device("board")
    outbox = Outbox(tmp_path / "o.db")
    watched = Monitor(
        lambda window: outbox.add({"kind": "telemetry", "time_s": 1.0, **json.loads(window.to_line())}),
        Monitoring(),
        device="board",
        release="stable.1",
        bundle="b",
    )
    watched.record(2.0)
    watched.flush()
    sync(outbox, client(serving(), token), {})

    telemetry = read_telemetry(f"sqlite:///{tmp_path / 'cloud.db'}")

    assert [record.release for record in telemetry.records] == ["stable.1"]
    assert telemetry.malformed == 0


def test_without_its_token_a_device_is_refused(serving: Serving, database: Database) -> None:
    database.add_device("board")
    url = serving()

    with pytest.raises(RefusedError, match="401"):
        client(url, "guessed").post("/v1/sync", {"status": {}, "records": []}, Fields.rest)
    assert get(f"{url}/v1/devices")[0] == 401
    assert database.count() == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "not JSON"),
        (b"[" * 100_000, {}, 400, "not JSON"),
        (b'{"status": {}, "records": [], "extra": 1}', {}, 422, "unknown key 'extra'"),
        (b'{"status": {}}', {}, 422, "'records' is missing"),
        (b'{"status": {}, "records": [{"key": "", "body": {}}]}', {}, 422, "records.0.key"),
        (b'{"status": {}, "records": [{"key": "k", "body": {"x": NaN}}]}', {}, 400, "NaN"),
        (b"x" * (3 << 20), {}, 413, "more than"),
        (gzip.compress(b" " * (20 << 20)), {"Content-Encoding": "gzip"}, 413, "unpacks"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "cut off"),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400, "gzip"),
        (b"{}", {"Content-Encoding": "br"}, 415, "allowed"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    serving: Serving, database: Database, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    token = database.add_device("board")

    found, text = post(f"{serving()}/v1/sync", token, body, **headers)

    assert found == status
    assert message in json.loads(text)["detail"]
    assert database.count() == 0


@pytest.mark.parametrize(
    ("question", "status", "message"),
    [
        ({"model": "other", "row": ROW}, 404, "there are: churn"),
        ({"model": "churn", "row": {}}, 422, "'tenure' is missing"),
        ({"model": "churn", "row": [ROW, ROW]}, 422, "one row"),
        ({"model": "churn"}, 422, "'row' is missing"),
        ({"model": "churn", "row": 5}, 422, "takes table rows"),
    ],
)
def test_bad_question_says_what_is_wrong(
    serving: Serving, database: Database, table_bundle: Bundle, question: dict[str, Any], status: int, message: str
) -> None:
    token = database.add_device("board")
    url = serving(bundles=[table_bundle.artifact.path])

    found, text = post(f"{url}/v1/predict", token, json.dumps(question).encode())

    assert found == status
    assert message in json.loads(text)["detail"]


def test_health_devices_and_metrics(serving: Serving, database: Database) -> None:
    token = database.add_device("board")
    url = serving()

    assert get(f"{url}/healthz") == (200, '{"status":"ok"}')
    assert [device["id"] for device in json.loads(get(f"{url}/v1/devices", token)[1])] == ["board"]
    assert [get(f"{url}/metrics", stranger)[0] for stranger in ("none", token)] == [401, 401]
    operator = database.add_operator("prometheus")
    assert "# TYPE edgewright_devices gauge\nedgewright_devices 1\n" in get(f"{url}/metrics", operator)[1]


def test_figures_are_counted_once_however_many_ask(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = app._Figures(
        dict.fromkeys(("sync", "records", "repeated", "predict", "refused", "offer_failures", "hasty"), 0), database
    )
    assert "edgewright_devices 0\n" in figures.text()
    database.add_device("board")
    assert "edgewright_devices 0\n" in figures.text()
    monkeypatch.setattr(app, "_METRICS_EVERY_S", 0.0)
    assert "edgewright_devices 1\n" in figures.text()


@pytest.mark.parametrize("path", ["/v1/sync", "/v1/predict"])
def test_small_body_of_millions_of_values_is_refused_before_it_is_read(
    serving: Serving, database: Database, path: str
) -> None:
    token, url = database.add_device("board"), serving()
    body = gzip.compress(b'{"status":{"a":[' + b",".join([b"[]"] * 1_300_000) + b"]}}")
    assert len(body) < 32 << 10
    code, text = post(f"{url}{path}", token, body, **{"content-encoding": "gzip"})
    assert (code, json.loads(text)["detail"]) == (413, "more than 600000 values")


def test_deep_status_is_refused_and_an_old_one_hides_no_device(serving: Serving, database: Database) -> None:
    token, url = database.add_device("deep"), serving()
    database.add_device("fine")
    operator = database.add_operator("anna")
    status: dict[str, Any] = {}
    for _ in range(256):
        status = {"a": status}
    sent = json.dumps({"status": status, "records": []}).encode()
    assert post(f"{url}/v1/sync", token, sent) == (422, '{"detail":"nested deeper than 32"}')

    database.receive("deep", status, [])  # as a version before this one took it
    code, text = get(f"{url}/v1/devices", operator)
    assert code == 200
    assert [list(device["status"]) for device in json.loads(text)] == [["unreadable"], []]


def test_refusal_does_not_echo_what_was_asked(serving: Serving, database: Database, table_bundle: Bundle) -> None:
    token, url = database.add_device("board"), serving(bundles=[table_bundle.artifact.path])
    for body in ({"model": "churn", "row": {"x" * 1_000_000: 1}}, {"model": "churn", "row": ["y" * 1_000_000]}):
        code, text = post(f"{url}/v1/predict", token, json.dumps(body).encode())
        assert code == 422
        assert len(text) < 3000


def test_device_sees_itself_and_an_operator_all(serving: Serving, database: Database) -> None:
    tokens = [database.add_device(name) for name in ("board-1", "board-2")]
    operator = database.add_operator("anna")
    url = serving()

    def seen(token: str) -> list[str]:
        return [device["id"] for device in json.loads(get(f"{url}/v1/devices", token)[1])]

    assert [seen(token) for token in tokens] == [["board-1"], ["board-2"]]
    assert seen(operator) == ["board-1", "board-2"]
    assert get(f"{url}/v1/devices", "guessed")[0] == 401
    with pytest.raises(RefusedError, match="401"):  # an operator is not a device: nothing is counted for it
        client(url, operator).post("/v1/sync", {"status": {}, "records": []}, Fields.rest)
    with pytest.raises(InputError, match="operator 'anna' is registered already"):
        database.add_operator("anna")


@pytest.mark.parametrize("jump_s", [3.2e7, -3.2e7])
def test_jump_of_its_clock_neither_shuts_a_device_out_nor_loses_or_repeats_a_record(
    serving: Serving,
    database: Database,
    table_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jump_s: float,
) -> None:
    publish(table_bundle, str(tmp_path / "r"), "stable")
    reads, steady, clock = [0], [0.0], time.time
    real_read = Offers._read

    def counted(*args: Any) -> Any:
        reads[0] += 1
        return real_read(*args)

    monkeypatch.setattr(Offers, "_read", counted)
    rates = Rates(Bucket(1, 2), Bucket(1000, 1000), lambda: steady[0])
    url, token = serving(repository=str(tmp_path / "r"), offer_every_s=3600.0, rates=rates), database.add_device("b")
    content = {"status": {"release": "churn.edge_device.stable.1"}, "records": [{"key": "k", "body": {"kind": "n"}}]}
    client(url, token).post("/v1/sync", content, Fields.rest)
    before = database.devices()[0].last_seen_s

    monkeypatch.setattr(time, "time", lambda: clock() + jump_s)
    offered = client(url, token).post("/v1/sync", content, Fields.rest)["offer"]["version"]
    hasty, _ = post(f"{url}/v1/sync", token, json.dumps(content).encode())
    steady[0] += 1.0
    patient, _ = post(f"{url}/v1/sync", token, json.dumps(content).encode())
    after = database.devices()[0].last_seen_s

    assert (offered, reads[0]) == (1, 1), "what is current is not read again before it is due"
    assert (hasty, patient) == (429, 200)
    assert (database.count(), len(database.bodies("n"))) == (1, 1)
    assert after - before == pytest.approx(jump_s, abs=1e4), "a device was seen last when it was, by the clock of then"


def test_registering_twice_or_badly_is_one_clear_line(database: Database, tmp_path: Path) -> None:
    database.add_device("board")

    with pytest.raises(InputError, match="registered already"):
        database.add_device("board")
    with pytest.raises(InputError, match="1 to 64"):
        database.add_device("")
    with pytest.raises(InputError, match="for example sqlite"):
        Database("no database at all")
    with pytest.raises(InputError, match="database"):
        Database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")


def test_logged_predictions_arrive_as_they_were_made(
    serving: Serving, database: Database, tmp_path: Path, table_bundle: Bundle
) -> None:
    token = database.add_device("board")
    predictor = Predictor(table_bundle.artifact.path)
    outbox = Outbox(tmp_path / "o.db")
    model = OfflineModel(Hybrid(predictor, "stable.1"), predictor.manifest, "stable.1", outbox)
    for _ in range(3):
        model.answer(ROW, user="anna")

    sync(outbox, client(serving(), token), {"not_logged": model.not_logged})

    assert database.count() == 3
    assert outbox.counters()["waiting"] == 0


def test_command_registers_a_device_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgewright", "cloud", "add-device", "board", "--database"]
    url = f"sqlite:///{tmp_path / 'c.db'}"
    operator = [sys.executable, "-m", "edgewright", "cloud", "add-operator", "anna", "--database", url]
    token = subprocess.run(operator, capture_output=True, text=True, check=True).stdout.strip()

    first = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    second = subprocess.run([*command, url], capture_output=True, text=True, check=False)

    opened = Database(url)
    assert opened.device_of(first.stdout.strip()) == "board"
    assert opened.is_operator(token)
    opened.close()
    assert (second.returncode, second.stderr) == (1, "error device 'board' is registered already\n")


def test_who_asks_too_often_comes_again_later(serving: Serving, database: Database) -> None:
    hasty, other = database.add_device("hasty"), database.add_device("other")
    url = serving(rates=Rates(Bucket(0.5, 3), Bucket(100.0, 100)))
    body = json.dumps({"status": {}, "records": []}).encode()
    assert [post(f"{url}/v1/sync", hasty, body)[0] for _ in range(4)] == [200, 200, 200, 429]
    reply = httpx.post(f"{url}/v1/sync", content=body, headers={"Authorization": f"Bearer {hasty}"})
    assert int(reply.headers["Retry-After"]) in {1, 2}
    assert post(f"{url}/v1/sync", other, body)[0] == 200
    crowded = serving(rates=Rates(Bucket(100.0, 100), Bucket(0.1, 2)))
    assert [get(f"{crowded}/v1/devices")[0] for _ in range(3)] == [401, 429, 429]
    assert get(f"{crowded}/healthz")[0] == 200


def test_strangers_lock_no_device_out(serving: Serving, database: Database) -> None:
    token, operator = database.add_device("board"), database.add_operator("anna")
    url = serving(rates=Rates(Bucket(100.0, 100), Bucket(0.01, 4)))
    body = json.dumps({"status": {}, "records": []}).encode()

    strangers = [post(f"{url}/v1/sync", asked, body)[0] for asked in ["-", "guessed"] * 10]

    assert strangers == [401] * 4 + [429] * 16
    assert post(f"{url}/v1/sync", token, body)[0] == 200
    assert get(f"{url}/metrics", operator)[0] == 200


def test_two_bundles_of_one_name_are_refused(database: Database, table_bundle: Bundle, newer_bundle: Bundle) -> None:
    folders = [table_bundle.artifact.path, newer_bundle.artifact.path]
    with pytest.raises(InputError, match=r"two models are called 'churn': .* and .*--name") as caught:
        app.create_app(database, bundles=folders)
    assert all(str(folder) in str(caught.value) for folder in folders)
