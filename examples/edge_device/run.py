"""A device, a cloud and a failing network, for real; see README.md beside this file."""

import collections
import functools
import http.server
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1])]

from network import Network  # noqa: E402 - found beside this file

from edgewright import validate  # noqa: E402
from edgewright.artifact import Precision  # noqa: E402
from edgewright.child import deferred, run_in_child  # noqa: E402
from edgewright.cloud.database import Database  # noqa: E402
from edgewright.data import DataSpec  # noqa: E402
from edgewright.export import export  # noqa: E402
from edgewright.intake import take_in  # noqa: E402
from edgewright.monitor import MonitoringPlan  # noqa: E402
from edgewright.package import Bundle, build_bundle  # noqa: E402
from edgewright.profile import load_device  # noqa: E402
from edgewright.release import publish  # noqa: E402
from edgewright.store import Store  # noqa: E402

_PLAN = MonitoringPlan(window_s=2, max_latency_p95_ms=3.0, max_memory_mb=500)
_LINE = "digits.edge_device.stable"
_PATIENCE_S = 90


def main() -> None:
    """The five acts of the README."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        say("training four models and building their bundles with the library ...")
        path = {"PYTHONPATH": _python_path()}
        run_in_child(partial(deferred("models:make"), folder), what="training", environment=path, writes=[home])
        bundles = {name: bundle(home, name) for name in ("small", "tuned", "large", "slow")}
        rows = np.load(home / "digits.npz")["x_test"].tolist()
        repository = home / "repository"
        publish(bundles["small"], str(repository), "stable", monitoring=_PLAN)
        with Stage(home, repository, bundles["large"]) as stage:
            stage.play(rows, bundles)


class Stage:
    """The cloud, the repository's web server, the networks to both, and the device between them."""

    def __init__(self, home: Path, repository: Path, large: Bundle) -> None:
        url = f"sqlite:///{home / 'cloud.db'}"
        self.repository, self.database = repository, Database(url)
        (home / "token").write_text(self.database.add_device("board-1"))
        self._web = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(repository))
        )
        threading.Thread(target=self._web.serve_forever, daemon=True).start()
        port = _free_port()
        cloud = ["-m", "edgewright", "cloud", "serve", "--database", url, "--port", str(port)]
        self._cloud = subprocess.Popen([sys.executable, *cloud, "--bundle", str(large.artifact.path)])
        until(lambda: _answers(port), "the cloud answers")
        self.networks = [Network(port), Network(self._web.server_port)]
        addresses = [f"http://127.0.0.1:{network.port}" for network in self.networks]
        agent = ["-m", "edgewright_runtime", "run", "--root", str(home / "device"), "--interval", "1"]
        options = ["--cloud", addresses[0], "--token-file", str(home / "token"), "--repository", addresses[1]]
        self._device = subprocess.Popen(
            [sys.executable, *agent, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ticks: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.asked = 0

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._device, self._cloud):
            process.terminate()
            process.wait()
        self._web.shutdown()
        self.database.close()

    def play(self, rows: list[Any], bundles: dict[str, Bundle]) -> None:
        """Everything in order."""
        say(f"1. first model on the device: {self.ask(rows[:150])}")
        for network in self.networks:
            network.cut()
        say(f"2. network cut: {self.ask(rows[150:300])}; the cloud has {self.counted()} of {self.asked} predictions")
        for network in self.networks:
            network.restore()
        until(lambda: self.counted() == self.asked, "the cloud has every prediction")
        say(f"3. network back: the cloud has {self.counted()} of {self.asked} predictions, each once")
        publish(bundles["tuned"], str(self.repository), "stable", monitoring=_PLAN)
        update = until(lambda: self.tick("installed", f"{_LINE}.2"), "the device takes the fine-tuned model")
        full = bundles["tuned"].download_bytes
        say(f"4. fine-tuned model: {update['downloaded_bytes']} bytes fetched instead of {full}, patched: "
            f"{', '.join(update['patched'])}")  # fmt: skip
        until(
            lambda: self.ask(jittered(rows[:60])) and len(self.windows()) > 6, "the trial of the fine-tuned model ends"
        )
        say(f"   now: {self.ask(rows[300:400])}")
        publish(bundles["slow"], str(self.repository), "stable", monitoring=_PLAN)
        until(lambda: self.tick("installed", f"{_LINE}.3"), "the device takes the slow model")
        say(f"5. slow model: {self.ask(rows[:40])}")
        until(lambda: self.ask(jittered(rows[:40])) and self.tick("rolled_back", f"{_LINE}.3"), "the device goes back")
        until(self.reports, "the cloud hears of it")
        say(f"   rolled back by the device: {self.reports()[0]}")
        say(f"   now: {self.ask(rows[400:450])}")
        until(lambda: self.counted() == self.asked, "the cloud has every prediction")
        refused = until(lambda: next((e for t in self.ticks[-3:] for e in t["errors"]), ""), "it is not taken again")
        say(f"   {refused}")
        say(f"In the end the cloud has {self.counted()} of {self.asked} predictions.")

    def ask(self, rows: list[Any]) -> str:
        """Let the device answer rows; says which model answered how many, from where."""
        to_device, from_device = pipe(self._device.stdin), pipe(self._device.stdout)
        counts: collections.Counter[str] = collections.Counter()
        for row in rows:
            to_device.write(json.dumps([row]) + "\n")
            to_device.flush()
            answer = json.loads(from_device.readline())
            counts[f"{answer['model']} ({answer['source']})"] += 1
        self.asked += len(rows)
        return ", ".join(f"{count} answers by {name}" for name, count in sorted(counts.items()))

    def tick(self, key: str, value: str) -> dict[str, Any] | None:
        """The round of upkeep that reported this."""
        return next((tick for tick in self.ticks if tick[key] == value), None)

    def windows(self) -> list[dict[str, Any]]:
        """The rounds of upkeep since the last installation."""
        last = max((i for i, tick in enumerate(self.ticks) if tick["installed"]), default=0)
        return self.ticks[last:]

    def counted(self) -> int:
        """Predictions that the cloud has."""
        return self.database.count("prediction")

    def reports(self) -> list[str]:
        """Why devices went back from a release, as the cloud was told."""
        return [f"{body['release']}, {body['reason']}" for body in self.database.bodies("rollback")]

    def _listen(self) -> None:
        for line in pipe(self._device.stderr):
            if line.startswith('{"upkeep"'):
                self.ticks.append(json.loads(line)["upkeep"])
            else:
                print(f"   device: {line.rstrip()}", file=sys.stderr)


def bundle(home: Path, name: str) -> Bundle:
    """Intake, export, validation and packaging, as the pipeline does them."""
    store, device = Store(home / "store"), load_device("x86_gateway_n100")
    taken = take_in(home / f"{name}.pt2", DataSpec(path=home / "digits.npz"), store, name="digits")
    exported = export(
        taken.model, taken.dataset, device.platform, Precision.FLOAT32, store, instruction_set=device.instruction_set
    )
    evaluation = validate.evaluate(taken.model, taken.dataset, exported)
    performance = validate.measure(exported, exported, taken.dataset, device)
    report = validate.judge(evaluation, evaluation, performance, device.budget, 1.0)
    made = build_bundle(taken.model, taken.dataset, exported, report, device, store, monitoring=_PLAN)
    accuracy = report.candidate.accuracy
    say(f"   {name}: accuracy {accuracy.value:.3f}, {made.download_bytes} bytes to download" if accuracy else name)
    return made


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the example prints its own story."""


def pipe(end: IO[str] | None) -> IO[str]:
    """A pipe that was asked for."""
    if end is None:
        raise ValueError("the process has no such pipe")
    return end


def jittered(rows: list[Any]) -> list[Any]:
    """Other images that look the same: the cache has not seen them."""
    noise = np.random.default_rng().normal(scale=0.02, size=np.shape(rows))
    return (np.asarray(rows) + noise).tolist()  # type: ignore[no-any-return]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, and return it."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise SystemExit(f"waited {_PATIENCE_S} s in vain: {what}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _python_path() -> str:
    return f"{_HERE}:{_HERE.parents[1]}"


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
