import datetime
import http.server
import json
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.package import Bundle
from edgewright_runtime.__main__ import main
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError, IntegrityError, RefusedError, TransportError
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict import encoding
from edgewright_runtime.predict.cache import AnswerCache, feeds_key
from edgewright_runtime.predict.cloud import Breaker, CloudClient
from edgewright_runtime.predict.hybrid import Answer, Hybrid, Policy
from edgewright_runtime.predict.offline import OfflineModel, Privacy, _hash_key, sync
from edgewright_runtime.predict.predictor import Prediction, Predictor
from edgewright_runtime.strict_json import Fields
from tests.bundles import LABELS
from tests.runtime.loopback import Cloud, Reply, answering, serving, slowly

ROW = {"tenure": 0.1, "charges": 0.1, "contract": "One year"}
CLOUD_SAYS = answering(scores=[0.05, 0.05, 0.9], model="churn-large", version="7")
ALWAYS_UNSURE = Policy(threshold=1.1, latency_budget_ms=5000)


@pytest.fixture(scope="module")
def predictor(table_bundle: Bundle) -> Predictor:
    return Predictor(table_bundle.artifact.path)


def client(cloud: Cloud, **options: Any) -> CloudClient:
    return CloudClient(cloud.url, "token", **{"timeout_s": 5, "pause": lambda _: None, **options})


def test_sure_answers_never_leave_the_device(predictor: Predictor) -> None:
    with serving(CLOUD_SAYS) as cloud:
        answer = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=Policy(threshold=0.0)).answer(ROW)

    assert (answer.source, answer.model, cloud.requests) == ("edge", "stable.1", [])
    assert answer.label in LABELS
    assert sum(answer.scores) == pytest.approx(1)
    assert answer.latency_ms > 0


def test_unsure_answers_are_the_clouds(predictor: Predictor) -> None:
    with serving(CLOUD_SAYS) as cloud:
        answer = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=ALWAYS_UNSURE).answer(ROW)

    assert (answer.source, answer.label, answer.model) == ("cloud", LABELS[2], "churn-large.7")
    assert answer.confidence == pytest.approx(0.85)
    assert cloud.requests == [{"model": "churn", "row": ROW}]
    alone = Hybrid(predictor, "stable.1").answer(ROW)
    assert (answer.model_label, answer.model_probability) == (alone.label, max(alone.scores))
    assert 0 < answer.model_ms < answer.latency_ms


@pytest.mark.parametrize(
    "reply",
    [
        lambda _p, _c: (500, b"broken"),
        lambda _p, _c: (403, b"no"),
        lambda _p, _c: (200, b"<html>captive portal</html>"),
        lambda _p, _c: None,
        answering(scores=[0.5, 0.5], model="m", version="1"),
        answering(scores=[3, -1, -1], model="m", version="1"),
        answering(scores=["high"], model="m", version="1"),
        answering(scores=[], model="m", version="1"),
        answering(scores=[1, 0, 0], model="m", version="1", extra=1),
        lambda _p, _c: (200, b'{"scores": [' + b"0," * 600_000 + b"0]}"),
    ],
    ids=["500", "403", "html", "cut", "classes", "negative", "text", "empty", "unknown key", "too long"],
)
def test_whatever_the_cloud_does_the_edge_answers(predictor: Predictor, reply: Reply) -> None:
    with serving(reply) as cloud:
        answer = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=ALWAYS_UNSURE).answer(ROW)

    assert answer.source == "edge_fallback"
    assert answer.model == "stable.1"


def test_answer_after_the_budget_is_the_edges(predictor: Predictor) -> None:
    policy = Policy(threshold=1.1, latency_budget_ms=50)
    with serving(slowly(1.0, CLOUD_SAYS)) as cloud:
        answer = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=policy).answer(ROW)

    assert answer.source == "edge_fallback"


@contextmanager
def trickling(whole: bytes) -> Iterator[str]:
    """A server whose first bytes come at once, and then one at a time, each well within the socket's time-out."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle() -> None:
        near, _ = listener.accept()
        with near, suppress(OSError):
            near.recv(1 << 16)
            near.sendall(whole)
            while not ended.wait(0.05):
                near.sendall(b" ")

    thread = threading.Thread(target=trickle)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    ended.set()
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Endless: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n",
    ],
    ids=["body", "headers", "chunk", "refusal"],
)
def test_server_of_a_byte_now_and_then_is_given_up(whole: bytes) -> None:
    with trickling(whole) as url, pytest.raises(TransportError, match="too slow"):
        CloudClient(url, "t", timeout_s=0.4, attempts=1).post("/v1/predict", {}, Fields.rest)


def test_refusal_that_breaks_off_is_an_answer_too() -> None:
    cut = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        near, _ = listener.accept()
        with near:
            near.recv(1 << 16)
            near.sendall(cut)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(TransportError, match="answered 503"):
        CloudClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "t", attempts=1).post("/v1/sync", {}, Fields.rest)
    thread.join()
    listener.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_token_is_never_sent_where_a_redirection_leads(status: int) -> None:
    """A captive portal answers for every address; urllib would take the Authorization header there."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", "/portal")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(RefusedError, match=f"answered {status}"):
                CloudClient(f"http://127.0.0.1:{server.server_port}", "t").post("/v1/sync", {}, Fields.rest)
        finally:  # however it fails
            server.shutdown()
    assert seen == []


def test_cloud_without_this_model_still_takes_the_records(outbox: Outbox) -> None:
    """Unsure answers take every turn that an open breaker gives: records need one of their own."""
    now = [0.0]
    breaker, ledger = Breaker(failures=2, pause_s=10, clock=lambda: now[0]), Ledger()
    with serving(lambda path, content: (404, b"") if path == "/v1/predict" else ledger(path, content)) as cloud:
        asking = client(cloud, breaker=breaker)
        for second in range(0, 60, 5):
            now[0] = float(second)
            with pytest.raises(TransportError):
                asking.ask(ROW, "churn")
            outbox.add({"n": second})
            assert sync(outbox, asking, {}).records == 1
    assert breaker.is_open()


def test_open_breaker_asks_no_more_and_tries_again_after_the_pause(predictor: Predictor) -> None:
    now = [0.0]
    breaker = Breaker(failures=2, pause_s=10, clock=lambda: now[0])
    with serving(lambda _p, _c: (500, b"")) as cloud:
        hybrid = Hybrid(predictor, "s", cloud=client(cloud, attempts=1, breaker=breaker), policy=ALWAYS_UNSURE)
        for _ in range(6):
            hybrid.answer(ROW)
        asked_while_open = len(cloud.requests)
        cloud.reply = CLOUD_SAYS
        now[0] = 11.0
        first = hybrid.answer(ROW)
        second = hybrid.answer(ROW)

    assert asked_while_open == 2
    assert (first.source, second.source) == ("cloud", "cloud")


@pytest.mark.parametrize(
    "useless",
    [
        answering(scores=[], model="m", version="1"),
        answering(scores=[0.5, 0.5], model="m", version="1"),
        answering(scores=["high"], model="m", version="1"),
        lambda _p, _c: (200, b"<html>captive portal</html>"),
    ],
    ids=["empty", "classes", "text", "html"],
)
def test_useless_answers_open_the_breaker_as_none_do(predictor: Predictor, useless: Reply) -> None:
    breaker = Breaker(failures=2, pause_s=10, clock=lambda: 0.0)
    with serving(useless) as cloud:
        hybrid = Hybrid(predictor, "s", cloud=client(cloud, breaker=breaker), policy=ALWAYS_UNSURE)
        sources = {hybrid.answer(ROW).source for _ in range(10)}

    assert sources == {"edge_fallback"}
    assert len(cloud.requests) == 2


def test_confirmations_that_do_not_fit_open_the_breaker_of_the_records(outbox: Outbox) -> None:
    outbox.add({"n": 1})
    with serving(answering(confirmed=[], offer=None)) as cloud:
        asking = client(cloud, breaker=Breaker(failures=2, pause_s=10, clock=lambda: 0.0))
        for _ in range(2):
            with pytest.raises(IntegrityError, match="nothing is removed"):
                sync(outbox, asking, {})
        with pytest.raises(TransportError, match="not asked"):
            sync(outbox, asking, {})


def test_half_open_breaker_admits_one_caller() -> None:
    now = [0.0]
    breaker = Breaker(failures=1, pause_s=10, clock=lambda: now[0])
    breaker.failed()
    now[0] = 10.5

    assert [breaker.admits() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(("status", "asked"), [(503, 3), (429, 3), (400, 1), (401, 1)])
def test_only_what_may_pass_is_tried_again(status: int, asked: int) -> None:
    pauses: list[float] = []
    with serving(lambda _p, _c: (status, b"")) as cloud:
        with pytest.raises(TransportError) as caught:
            client(cloud, pause=pauses.append).post("/v1/sync", {}, Fields.rest)
        assert len(cloud.requests) == asked
    assert len(pauses) == asked - 1
    assert isinstance(caught.value, RefusedError) == (asked == 1)


def test_failing_model_is_stood_in_for_and_says_so(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Answer("edge", LABELS[0], (1.0, 0.0, 0.0), 0.0, 0.0, "default")
    fresh, known = Hybrid(predictor, "s", default=default), Hybrid(predictor, "s")
    good = known.answer(ROW)

    def broken(_: object) -> None:
        raise RuntimeError("the interpreter failed")

    monkeypatch.setattr(predictor.backend, "run", broken)

    assert fresh.answer(ROW).source == "default"
    again = known.answer(ROW)
    assert (again.source, again.scores) == ("last_good", good.scores)
    with pytest.raises(EdgeRuntimeError, match="the interpreter failed"):
        Hybrid(predictor, "s").answer(ROW)


def test_bad_input_is_the_callers_and_is_never_stood_in_for(predictor: Predictor) -> None:
    hybrid = Hybrid(predictor, "s")
    hybrid.answer(ROW)

    with pytest.raises(InputRejectedError, match="needs a number"):
        hybrid.answer({**ROW, "tenure": "NaN?"})


def test_eight_threads_get_the_answers_of_one(predictor: Predictor) -> None:
    hybrid = Hybrid(predictor, "s")
    rows = [{**ROW, "tenure": float(i)} for i in range(40)]
    expected = [hybrid.answer(row).scores for row in rows]
    found: dict[int, list[tuple[float, ...]]] = {}

    def work(worker: int) -> None:
        found[worker] = [hybrid.answer(row).scores for row in rows]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(found[worker] == expected for worker in range(8))


def test_cache_forgets_the_least_recently_used_and_other_models() -> None:
    cache: AnswerCache[int] = AnswerCache(2, "v1")
    cache.put(b"a", "v1", 1)
    cache.put(b"b", "v1", 2)
    cache.get(b"a", "v1")
    cache.put(b"c", "v1", 3)

    assert [cache.get(k, "v1") for k in (b"a", b"b", b"c")] == [1, None, 3]
    cache.put(b"old", "v0", 9)
    cache.use("v2")
    assert (len(cache), cache.get(b"a", "v1"), cache.get(b"a", "v2")) == (0, None, None)


def test_cache_key_is_of_the_exact_input() -> None:
    x = np.zeros((1, 4), np.float32)
    keys = {
        feeds_key({"x": x}),
        feeds_key({"y": x}),
        feeds_key({"x": x.reshape(4, 1)}),
        feeds_key({"x": x.view(np.int32)}),
        feeds_key({"x": -x}),
    }

    assert len(keys) == 5
    assert feeds_key({"x": np.asfortranarray(np.ones((3, 2)))}) == feeds_key({"x": np.ones((3, 2))})


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db")


def offline(predictor: Predictor, outbox: Outbox, **options: Any) -> OfflineModel:
    return OfflineModel(Hybrid(predictor, "stable.1"), predictor.manifest, "stable.1", outbox, **options)


def logged(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(record.body) for record in outbox.batch()]


def test_a_row_is_encoded_once(predictor: Predictor, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    model, real, encoded = offline(predictor, outbox), encoding.encode, []

    def counted(*given: Any) -> Any:
        encoded.append(1)
        return real(*given)

    monkeypatch.setattr("edgewright_runtime.predict.offline.encode", counted)
    monkeypatch.setattr("edgewright_runtime.predict.predictor.encode", counted)
    assert model.answer(ROW).source == "edge"
    assert len(encoded) == 1


def test_every_prediction_is_logged_cached_or_not(predictor: Predictor, outbox: Outbox) -> None:
    model = offline(predictor, outbox)
    first, second = model.answer(ROW), model.answer(dict(ROW))

    assert (first.scores, first.model) == (second.scores, second.model)
    assert (first.source, second.source) == ("edge", "cache")
    assert [entry["source"] for entry in logged(outbox)] == ["edge", "cache"]
    assert model.cache.hits == 1


@pytest.mark.parametrize(
    ("privacy", "user", "has_input"),
    [(Privacy("keep", "keep"), "anna", True), (Privacy("omit", "omit"), None, False), (Privacy(), "hashed", False)],
)
def test_privacy_decides_what_is_logged(
    predictor: Predictor, outbox: Outbox, tmp_path: Path, privacy: Privacy, user: str | None, has_input: bool
) -> None:
    for _ in range(2):  # the key file makes the second process hash as the first did
        offline(predictor, outbox, privacy=privacy, key_file=tmp_path / "key").answer(ROW, user="anna")

    first, second = logged(outbox)
    assert first.get("user") == second.get("user")
    if user == "hashed":
        assert len(first["user"]) == 64
        assert "anna" not in json.dumps(first)
    else:
        assert first.get("user") == user
    assert (first.get("input") == ROW) == has_input


def test_secret_of_the_hashes_is_one_and_the_owners_alone(tmp_path: Path) -> None:
    """Two processes that start at once must hash a user alike."""
    keys: list[bytes] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        keys.append(_hash_key(tmp_path / "device/hash_key"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert (tmp_path / "device/hash_key").stat().st_mode & 0o777 == 0o600


def test_user_that_is_no_text_in_utf_8_is_hashed_too(predictor: Predictor, outbox: Outbox) -> None:
    offline(predictor, outbox).answer(ROW, user="\ud800")

    assert len(logged(outbox)[0]["user"]) == 64


def test_missing_number_is_logged_and_asked_as_missing(
    predictor: Predictor, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, row = predictor.backend.run, {**ROW, "charges": math.nan}
    # This model takes NaN for a number; one that was trained with gaps fills them itself.
    monkeypatch.setattr(predictor.backend, "run", lambda feeds: run({"x": np.nan_to_num(feeds["x"])}))
    with serving(CLOUD_SAYS) as cloud:
        asked = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=ALWAYS_UNSURE)
        model = OfflineModel(asked, predictor.manifest, "stable.1", outbox, privacy=Privacy(inputs="keep"))
        answer = model.answer(row)

    assert answer.source == "cloud"
    assert cloud.requests[0]["row"] == logged(outbox)[0]["input"] == {**ROW, "charges": None}
    assert predictor.predict(row).scores.tolist() == predictor.predict({**ROW, "charges": None}).scores.tolist()


def test_model_that_answers_nan_has_failed(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = Hybrid(predictor, "s")
    good = hybrid.answer(ROW)
    monkeypatch.setattr(predictor.backend, "run", lambda _: {"scores": np.full((1, 3), np.nan, np.float32)})

    assert (hybrid.answer(ROW).source, hybrid.answer(ROW).scores) == ("last_good", good.scores)
    with pytest.raises(EdgeRuntimeError, match="answers NaN to 1 of 1 rows"):
        Hybrid(predictor, "s").answer(ROW)


def test_record_that_cannot_be_sent_is_not_kept_and_the_answer_stands(predictor: Predictor, outbox: Outbox) -> None:
    model = offline(predictor, outbox, privacy=Privacy(inputs="keep"))

    assert model.answer({**ROW, "contract": "x" * (2 << 20)}).source == "edge"
    assert (model.not_logged, outbox.counters()["waiting"]) == (1, 0)


def test_category_of_any_type_is_logged_and_asked_as_its_text(predictor: Predictor, outbox: Outbox) -> None:
    day = datetime.date(2026, 11, 23)
    with serving(CLOUD_SAYS) as cloud:
        asked = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=ALWAYS_UNSURE)
        model = OfflineModel(asked, predictor.manifest, "stable.1", outbox, privacy=Privacy(inputs="keep"))
        answer = model.answer({**ROW, "contract": day})

    assert answer.source == "cloud"
    assert cloud.requests[0]["row"] == logged(outbox)[0]["input"] == {**ROW, "contract": "2026-11-23"}


def test_column_that_the_model_does_not_use_leaves_no_trace(predictor: Predictor, outbox: Outbox) -> None:
    """A row as it lies in a shop's database names its customer."""
    with serving(CLOUD_SAYS) as cloud:
        asked = Hybrid(predictor, "stable.1", cloud=client(cloud), policy=ALWAYS_UNSURE)
        model = OfflineModel(asked, predictor.manifest, "stable.1", outbox, privacy=Privacy("omit", "keep"))
        answer = model.answer({**ROW, "customerID": "7590-VHVEG"}, user="anna")

    assert answer.source == "cloud"
    assert cloud.requests[0]["row"] == logged(outbox)[0]["input"] == ROW
    assert "user" not in logged(outbox)[0]


def test_broken_outbox_does_not_stop_the_answers(predictor: Predictor, outbox: Outbox) -> None:
    model = offline(predictor, outbox)
    outbox.close()

    assert model.answer(ROW).source == "edge"
    assert model.not_logged == 1


class Ledger:
    """The cloud's side of sync: counts each key once, and can lose its answer after it has counted."""

    def __init__(self) -> None:
        self.counted: dict[str, Any] = {}
        self.lose = 0

    def __call__(self, _path: str, content: dict[str, Any]) -> tuple[int, bytes] | None:
        for record in content["records"]:
            self.counted.setdefault(record["key"], record["body"])
        if self.lose:
            self.lose -= 1
            return None
        confirmed = [record["key"] for record in content["records"]]
        return 200, json.dumps(
            {"confirmed": confirmed, "offer": {"line": "churn.edge_device.stable", "version": 3}}
        ).encode()


def test_lost_confirmations_are_counted_once(predictor: Predictor, outbox: Outbox) -> None:
    outbox.add_many([{"n": n} for n in range(1200)])
    ledger = Ledger()
    ledger.lose = 2
    with serving(ledger) as cloud:
        done = sync(outbox, client(cloud), {"release": "stable.1"})

    assert (done.records, done.batches, done.offer.version) == (1200, 3, 3)
    assert sorted(body["n"] for body in ledger.counted.values()) == list(range(1200))
    assert len(cloud.requests) == 3 + 2
    assert outbox.counters()["waiting"] == 0


def test_sync_while_offline_keeps_everything(outbox: Outbox) -> None:
    outbox.add({"n": 1})
    cloud = CloudClient("http://127.0.0.1:9", "t", attempts=1)

    with pytest.raises(TransportError):
        sync(outbox, cloud, {})
    assert outbox.counters()["waiting"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        answering(confirmed=[], offer=None),
        answering(confirmed=["another"], offer=None),
        answering(confirmed="all", offer=None),
        answering(ok=True),
    ],
)
def test_confirmation_that_does_not_fit_removes_nothing(outbox: Outbox, reply: Reply) -> None:
    outbox.add({"n": 1})
    with serving(reply) as cloud, pytest.raises(IntegrityError):
        sync(outbox, client(cloud), {})

    assert outbox.counters()["waiting"] == 1


def test_offer_comes_even_with_nothing_to_send(outbox: Outbox) -> None:
    with serving(Ledger()) as cloud:
        done = sync(outbox, client(cloud), {"release": "stable.1"})

    assert (done.records, done.offer.version) == (0, 3)


def test_infinity_in_an_output_of_no_task_is_none(
    table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Untasked(Predictor):
        def __init__(self, folder: Path, threads: int | None = None) -> None:
            super().__init__(folder, threads)
            self.manifest = replace(self.manifest, task="none")

        def predict_encoded(self, feeds: Any) -> Prediction:
            outputs = {"a": np.ones((1, 2)), "b": np.array([[1.0, -np.inf]])}
            return Prediction(outputs, outputs["a"], np.empty(0, np.int64), ())

    folder = table_bundle.artifact.path
    assert Hybrid(Untasked(folder), "s").answer(ROW).outputs == {"a": [1.0, 1.0], "b": [1.0, None]}
    monkeypatch.setattr("edgewright_runtime.predict.predictor.Predictor", Untasked)
    assert main(["predict", str(folder / "example.json"), "--bundle", str(folder)]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["outputs"]["b"] == [[1.0, None]]


def test_sync_closes_the_outbox_that_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, real = [], Outbox.close
    monkeypatch.setattr(Outbox, "close", lambda outbox: (closed.append(1), real(outbox)))
    (tmp_path / "token").write_text("token")

    arguments = ["--cloud", "http://127.0.0.1:9", "--token-file", str(tmp_path / "token"), "--root", str(tmp_path)]
    assert main(["sync", *arguments]) == 1
    assert "nothing is installed" in capsys.readouterr().err
    assert closed == [1]
