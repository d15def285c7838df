"""``python -m edgewright_runtime``: install, check, predict, status and rollback on the device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewright_runtime import __version__
from edgewright_runtime.errors import EdgeRuntimeError, InputRejectedError
from edgewright_runtime.installation import Installation, Installed

__all__ = ["main"]

_DEFAULT_ROOT = "edgewright-device"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one line on stderr where it was refused."""
    options = _parser().parse_args(arguments)
    try:
        answer = options.command(options)
    except (EdgeRuntimeError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=1, ensure_ascii=False))
    return 0


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

    install = rooted(add("install", _install, "install what a channel offers"))
    install.add_argument("url", help="release repository: a folder, file:// or http(s)://")
    install.add_argument("--channel", default="stable")
    install.add_argument("--ignore-cohort", action="store_true", help="install even if not yet offered to this device")
    install.add_argument("--beside", action="store_true", help="keep it, without making it the current model")
    install.add_argument("--quota-mb", type=float, default=0, help="keep older models while all take at most this")
    check = add("check", _check, "compare a bundle's files with their digests and run its golden vectors")
    check.add_argument("folder", type=Path)
    predict = rooted(add("predict", _predict, "answer rows with the installed model"))
    predict.add_argument("rows", help="a .json file (one row, or a list), a .npy array, or - for JSON on stdin")
    predict.add_argument("--bundle", type=Path, help="a bundle's folder, instead of the installed one")
    predict.add_argument("--threads", type=int, default=1)
    rooted(add("status", _status, "what is installed"))
    rooted(add("rollback", _rollback, "return to the release before, without network"))
    return parser


def _install(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.updater import Updater

    outcome = Updater(options.url, options.channel, options.root).update(
        ignore_cohort=options.ignore_cohort, beside=options.beside, quota_bytes=int(options.quota_mb * 2**20)
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
    from edgewright_runtime.golden import check_bundle

    return {"status": "ok", "largest_difference": check_bundle(options.folder)}


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    from edgewright_runtime.predictor import Predictor

    folder = options.bundle or _current(options.root).bundle
    prediction = Predictor(folder, options.threads).predict(_rows(options.rows))
    return {"labels": list(prediction.labels), "scores": prediction.scores.tolist()}


def _rows(source: str) -> Any:
    import numpy as np

    try:
        if source.endswith(".npy"):
            return np.load(source, allow_pickle=False)
        content = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text())
        table = isinstance(content, dict) or (isinstance(content, list) and content and isinstance(content[0], dict))
        return content if table else np.asarray(content, dtype=np.float32)
    except (TypeError, ValueError) as e:
        raise InputRejectedError(f"{source}: cannot be read: {str(e)[:200]}") from e


def _status(options: argparse.Namespace) -> dict[str, Any]:
    installation = Installation(options.root)
    current = installation.current()
    return {
        "device_id": installation.device_id(),
        "current": _shown(current) if current else None,
        "releases": installation.names(),
    }


def _rollback(options: argparse.Namespace) -> dict[str, Any]:
    installation = Installation(options.root)
    with installation.exclusive():
        return {"status": "rolled back", "installed": _shown(installation.rollback())}


def _current(root: Path) -> Installed:
    current = Installation(root).current()
    if current is None:
        raise EdgeRuntimeError(f"{root}: nothing is installed; run: python -m edgewright_runtime install URL")
    return current


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
