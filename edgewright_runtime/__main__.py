"""``python -m edgewright_runtime``: install, check, predict, bench, status, rollback, sync and run on the device."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright_runtime import __version__
from edgewright_runtime.bundle.line import PLATFORMS
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.update.installation import Installation, Installed

if TYPE_CHECKING:
    from edgewright_runtime.device import Device
    from edgewright_runtime.update.registry import Model

__all__ = ["main"]

_DEFAULT_ROOT = "edgewright-device"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one line on stderr where it was refused.

    ``check`` ends with 3 where the bundle itself is at fault.
    """
    options = _parser().parse_args(arguments)
    try:
        answer = options.command(options)
    except (EdgeRuntimeError, OSError, MemoryError) as e:
        print(f"error: {str(e) or 'out of memory'}", file=sys.stderr)
        return _exit_code(options, e)
    print(json.dumps(answer, indent=1, ensure_ascii=False))
    return 0


def _exit_code(options: argparse.Namespace, error: BaseException) -> int:
    # A plain EdgeRuntimeError is of the root, where nothing is installed: no bundle can be at fault.
    if options.command is not _check or type(error) is EdgeRuntimeError:  # nothing is there to be at fault
        return 1
    from edgewright_runtime.shortage import is_fault
    from edgewright_runtime.update.golden import FAULTY

    return FAULTY if is_fault(error) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgewright_runtime", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    def rooted(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--root", type=Path, default=Path(_DEFAULT_ROOT), help="where this device keeps its models")
        return added

    def clouded(added: argparse.ArgumentParser, required: bool = False) -> argparse.ArgumentParser:
        added.add_argument("--cloud", required=required, help="http(s):// address of the cloud")
        added.add_argument("--token-file", type=Path, required=required, help="file with this device's token")
        return added

    def followed(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--model", help="its name there; the installed one's, or the only one, if left out")
        added.add_argument("--platform", choices=PLATFORMS, help="the installed model's, or edge_device, if left out")
        added.add_argument("--channel", default="stable")
        also = "a host beside its own that the repository may redirect to; may be given several times"
        added.add_argument("--redirect-host", action="append", default=[], metavar="HOST", help=also)
        return added

    install = followed(rooted(add("install", _install, "install a model's current release")))
    install.add_argument("url", help="release repository: a folder, file:// or http(s)://")
    install.add_argument("--ignore-cohort", action="store_true", help="install even if not yet offered to this device")
    install.add_argument("--beside", action="store_true", help="keep it, without making it the current model")
    install.add_argument("--quota-mb", type=_amount, default=0, help="keep older models while all take at most this")
    check = rooted(add("check", _check, "compare a bundle's files with their digests and run its golden vectors"))
    check.add_argument("folder", type=Path, nargs="?", help="a bundle's folder; the installed one if left out")
    predict = rooted(add("predict", _predict, "answer rows with the installed model"))
    predict.add_argument("rows", help="a .json file (one row, or a list), a .npy array, or - for JSON on stdin")
    predict.add_argument("--bundle", type=Path, help="a bundle's folder, instead of the installed one")
    predict.add_argument("--threads", type=_count, help="as the manifest says if left out")
    rooted(add("status", _status, "what is installed"))
    rollback = rooted(add("rollback", _rollback, "return to an earlier release, without network"))
    rollback.add_argument("--to", help="a kept release, as `status` names it; the one before the current if left out")
    bench = rooted(add("bench", _bench, "time the installed model on its golden rows"))
    bench.add_argument("--runs", type=_count, default=200)
    bench.add_argument("--threads", type=_count, help="as the manifest says if left out")
    clouded(rooted(add("sync", _sync, "send what waits in the outbox")), required=True)
    run = add("run", _run, "answer rows from stdin, one JSON a line, and keep the device up to date")
    followed(clouded(rooted(run))).add_argument("--repository", help="release repository to take updates from")
    run.add_argument("--interval", type=_amount, default=60.0, help="seconds between two rounds of upkeep")
    run.add_argument("--upkeep-only", action="store_true", help="read no rows: another process answers")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 to a million is needed")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e9:  # NaN compares false
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1e9 is needed")
    return value


def _install(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.update.updater import Updater

    updater = Updater(
        options.url,
        options.channel,
        options.root,
        model=options.model,
        platform=options.platform,
        redirect_hosts=options.redirect_host,
    )
    outcome = updater.update(
        ignore_cohort=options.ignore_cohort,
        beside=options.beside,
        repair=True,  # who asks for a model by hand gets a whole one
        quota_bytes=int(options.quota_mb * 2**20),
        at_once=True,
    )
    installed = _shown(outcome.installed) if outcome.installed else None
    return {
        "status": outcome.status,
        "downloaded_bytes": outcome.downloaded_bytes,
        "patched": list(outcome.patched),
        "patch_failures": list(outcome.patch_failures),
        "installed": installed,
    }


def _check(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.bundle.opening import open_bundle
    from edgewright_runtime.bundle.processor import misfit
    from edgewright_runtime.update.golden import LOADING, check_bundle

    with _held(options.root) if options.folder is None else nullcontext(options.folder) as folder:
        largest = check_bundle(folder, loading=lambda: print(LOADING, file=sys.stderr, flush=True))
        return {"status": "ok", "largest_difference": largest, "warning": misfit(open_bundle(folder).runtime.processor)}


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.predict.predictor import Predictor, as_lists, check_finite

    # Leased while files are read: an update must not delete the bundle in between.
    with _held(options.root) if options.bundle is None else nullcontext(options.bundle) as folder:
        predictor = Predictor(folder, options.threads)
        prediction = predictor.predict(_rows(options.rows))
    if predictor.manifest.task == "none":
        return {"outputs": {name: as_lists(array) for name, array in prediction.outputs.items()}}
    check_finite([prediction.scores])
    return {"labels": list(prediction.labels), "scores": prediction.scores.tolist()}


def _rows(source: str) -> Any:
    from edgewright_runtime.npy import read_npy

    try:
        if source.endswith(".npy"):
            return read_npy(Path(source))
        # As it is: token ids would lose their type, and a float64 its digits, where a model's inputs are not known.
        return json.loads(sys.stdin.read() if source == "-" else Path(source).read_text())
    except Exception as e:  # of JSON, or of whatever the header of a damaged array raises
        raise InputRejectedError(f"{source}: cannot be read: {str(e)[:200]}") from e


def _status(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.update.registry import Registry

    installation = Installation(options.root)
    current = installation.current()
    return {
        "device_id": installation.device_id(),
        "current": _shown(current) if current else None,
        "releases": installation.names(),
        "models": [_described(model) for model in Registry(installation).models()],
        "on_trial": installation.trial_starts() is not None,
        "refused": installation.refusals(),
        "outbox": _waiting(options.root / "outbox.db"),
    }


def _described(model: Model) -> dict[str, Any]:
    from edgewright_runtime.bundle.processor import misfit

    need = model.manifest.runtime
    return {
        "release": model.release,
        "name": model.manifest.name,
        "precision": model.manifest.precision,
        "size_bytes": model.size_bytes,
        "accuracy": model.accuracy,
        "latency_p95_ms": model.latency_p95_ms,
        "memory_mb": model.memory_mb,
        "warning": misfit(need.processor),
        "runtime": f"{need.name} {need.minimum_version}",
        "accelerator": need.accelerator,
    }


def _waiting(path: Path) -> dict[str, int] | None:
    """The outbox's counters; None where nothing was ever logged."""
    from edgewright_runtime.health.outbox import Outbox

    if not path.exists():
        return None
    with closing(Outbox(path)) as outbox:
        return outbox.counters()


def _rollback(options: argparse.Namespace) -> dict[str, Any]:
    installation = Installation(options.root)
    with installation.exclusive():
        return {"status": "rolled back", "installed": _shown(installation.rollback(options.to))}


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.predict.predictor import Predictor
    from edgewright_runtime.update.golden import load_golden

    with _held(options.root) as folder:
        predictor = Predictor(folder, options.threads)
        inputs, _ = load_golden(predictor.folder / predictor.manifest.golden.path)
    rows = predictor.manifest.golden.rows
    times = []
    for i in range(options.runs):
        row = {name: array[i % rows : i % rows + 1] for name, array in inputs.items()}
        began = time.perf_counter()
        predictor.predict_encoded(row)
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    at = {f"p{q}_ms": round(times[min(len(times) * q // 100, len(times) - 1)], 4) for q in (50, 95, 99)}
    backend = predictor.backend
    return {"runtime": f"{backend.name} {backend.version}", "runs": options.runs, "threads": predictor.threads, **at}


def _client(options: argparse.Namespace) -> Any:
    from edgewright_runtime.predict.cloud import CloudClient

    if not options.cloud:
        return None
    if options.token_file is None:
        raise EdgeRuntimeError("--cloud needs --token-file with this device's token")
    # A line break would end the HTTP header that the token goes into.
    token = options.token_file.read_bytes().decode(errors="replace").strip()
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise EdgeRuntimeError(f"{options.token_file}: holds no token: one line of plain characters is needed")
    return CloudClient(options.cloud, token)


def _sync(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.health.outbox import Outbox
    from edgewright_runtime.predict.offline import sync

    with closing(Outbox(options.root / "outbox.db")) as outbox:
        done = sync(outbox, _client(options), {"release": _current(options.root).name, **outbox.counters()})
    offer = f"{done.offer.line}.{done.offer.version}" if done.offer else None
    return {"sent": done.records, "batches": done.batches, "offer": offer}


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Answers go to stdout and upkeep to stderr, one JSON a line, until stdin ends or SIGTERM comes."""
    from edgewright_runtime.device import Device, Settings

    settings = Settings(
        options.root,
        options.repository,
        options.channel,
        _client(options),
        answers=not options.upkeep_only,
        model=options.model,
        platform=options.platform,
        redirect_hosts=tuple(options.redirect_host),
    )
    device = Device(settings)
    ended = threading.Event()

    def upkeep() -> None:
        while not ended.wait(options.interval):
            print(json.dumps(_ticked(device)), file=sys.stderr, flush=True)

    thread = threading.Thread(target=upkeep)
    thread.start()
    answered = 0
    # Python takes signal handlers in the main thread alone.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _ended)  # how a service manager stops it: the last window is not lost
    try:
        if options.upkeep_only:
            ended.wait()
        for line in sys.stdin.buffer:  # bytes: one line that is no UTF-8 must not end the agent
            began = time.monotonic()
            print(json.dumps(_answered(device, line)), flush=True)
            answered += 1
            if device.interval_s:  # under heat or with a low battery: see `Level`
                time.sleep(max(began + device.interval_s - time.monotonic(), 0))
    finally:
        # In this order: no round runs beside the last one, which needs the last window and the outbox.
        ended.set()
        thread.join()
        device.flush()
        last = _ticked(device)
        device.close()
    return {"answered": answered, **last}


def _ended(*_: object) -> None:
    sys.exit(0)


def _ticked(device: Device) -> dict[str, Any]:
    """One round of upkeep; one that fails, as on a damaged disk, must not end the rounds after it, nor the answers."""
    try:
        return {"upkeep": asdict(device.tick())}
    except (EdgeRuntimeError, OSError) as e:
        return {"upkeep_failed": str(e)}
    except Exception as e:  # unforeseen, as from a sensor's driver: told, and tried again
        return {"upkeep_failed": f"{type(e).__name__}: {e}"}


def _answered(device: Device, line: bytes) -> dict[str, Any]:
    try:
        return asdict(device.predict(json.loads(line)))
    except (EdgeRuntimeError, ValueError, RecursionError) as e:
        return {"error": str(e)}


def _current(root: Path) -> Installed:
    current = Installation(root).current()
    if current is None:
        raise EdgeRuntimeError(f"{root}: nothing is installed; run: python -m edgewright_runtime install URL")
    return current


@contextmanager
def _held(root: Path) -> Iterator[Path]:
    """The current bundle, which another process does not delete meanwhile."""
    from edgewright_runtime.update.registry import Registry

    with Registry(Installation(root)).in_use(_current(root).bundle) as folder:
        yield folder


def _shown(installed: Installed) -> dict[str, Any]:
    release = installed.release
    return {
        "release": installed.name,
        "version": release.version,
        "bundle_digest": release.bundle_digest,
        "bundle": str(installed.bundle),
        "previous": installed.previous,
    }


if __name__ == "__main__":
    sys.exit(main())
