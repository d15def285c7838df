"""Every document and file of a repository, as somebody hostile would leave it: refused in one line, by both sides.

The device keeps the release that it has, the publisher writes over nothing that it cannot read, and nothing appears
anywhere but in the repository and in the device's folder.
"""

import hashlib
import http.server
import json
import lzma
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgewright.cloud.offers import Offers
from edgewright.errors import EdgewrightError, InputError, TransientError
from edgewright.package import Bundle
from edgewright.progress import progress
from edgewright.release import current_baseline, publish, rollback
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater

LINE = "churn.edge_device.stable"
LINES, INDEX, RELEASE = "lines.json", f"channels/{LINE}.json", f"releases/{LINE}/2.json"
VALUES: dict[str, Any] = {
    "null": None,
    "list": [],
    "object": {},
    "negative": -1,
    "huge": 10**400,
    "fraction": 1.5,
    "true": True,
    "empty": "",
    "up": "../../../outside",
    "absolute": "/tmp/outside",  # noqa: S108 - never written
    "nul": "a\0b",
    "turned": "a\u202eb",
    "wide": "\uff0e\uff0e\uff0foutside",
    "capital": "CHURN",
    "long": "a" * 5000,
}
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"<html>404</html>",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "NaN": b'{"signed": NaN, "signatures": []}',
    "infinity": b'{"signed": 1e999, "signatures": []}',
    "digits": b'{"signed": ' + b"9" * 100_000 + b', "signatures": []}',
    "latin": b'{"signed": "\xe9"}',
    "surrogate": b'{"signed": "\\ud800", "signatures": []}',
    "mark": b"\xef\xbb\xbf{}",
    "long": b" " * (9 << 20),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, table_bundle: Bundle, newer_bundle: Bundle) -> Path:
    """A device that has version 1 of a repository whose version 2 is offered."""
    folder = tmp_path_factory.mktemp("prepared")
    publish(table_bundle, str(folder / "repository"), "stable")
    Updater(str(folder / "repository"), "stable", folder / "device").update()
    publish(newer_bundle, str(folder / "repository"), "stable")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "place", symlinks=True)
    return tmp_path / "place"


@contextmanager
def one_line() -> Iterator[list[str]]:
    """What was said, if anything was."""
    said: list[str] = []
    try:
        yield said
    except (EdgewrightError, EdgeRuntimeError) as e:
        said.append(str(e))
    assert all(20 < len(line) < 2000 and "\n" not in line for line in said), said


def refused_by_the_device(place: Path) -> bool:
    with one_line() as said:
        Updater(str(place / "repository"), "stable", place / "device").update()
    current = Installation(place / "device").current()
    assert current is not None
    open_bundle(current.bundle)
    assert current.release.version == (1 if said else 2)
    assert sorted(path.name for path in place.parent.iterdir()) == ["place"]
    assert sorted(path.name for path in place.iterdir()) == ["device", "repository"]
    return bool(said)


def refused_by_the_publisher(place: Path, bundle: Bundle) -> None:
    for act in (lambda url: publish(bundle, url, "stable"), lambda url: rollback(url, "stable")):
        with one_line():
            act(str(place / "repository"))
        assert sorted(path.name for path in place.parent.iterdir()) == ["place"]
        assert sorted(path.name for path in place.iterdir()) == ["device", "repository"]


def _leaves(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value, the first of a list for all of it."""
    if way:
        yield way
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*way, key))
    elif isinstance(value, list) and value:
        yield from _leaves(value[0], (*way, 0))


def _put(value: Any, way: tuple[str | int, ...], other: Any) -> None:
    for part in way[:-1]:
        value = value[part]
    value[way[-1]] = other


@pytest.mark.parametrize("document", [LINES, INDEX, RELEASE])
@pytest.mark.parametrize("text", TEXTS)
def test_document_that_is_something_else_is_refused(
    place: Path, table_bundle: Bundle, document: str, text: str
) -> None:
    (place / "repository" / document).write_bytes(TEXTS[text])
    refused_by_the_device(place)
    refused_by_the_publisher(place, table_bundle)


@pytest.mark.slow
@pytest.mark.parametrize("document", [LINES, INDEX, RELEASE])
@pytest.mark.parametrize("value", VALUES)
def test_document_with_another_value_anywhere_is_refused(
    prepared: Path, place: Path, table_bundle: Bundle, document: str, value: str
) -> None:
    original = (prepared / "repository" / document).read_bytes()
    for way in _leaves(json.loads(original)):
        changed = json.loads(original)
        _put(changed, way, VALUES[value])
        (place / "repository" / document).write_text(json.dumps(changed))
        if document == RELEASE:
            _announce(place / "repository")
        if document == LINES:  # a device that has its line does not read it
            a_new_device_takes_nothing_else(place)
        elif not refused_by_the_device(place):  # what says the same, such as a list that is empty already
            shutil.rmtree(place / "device")
            shutil.copytree(prepared / "device", place / "device", symlinks=True)
    refused_by_the_publisher(place, table_bundle)


def _announce(repository: Path) -> None:
    """The index names the release as it stands there."""
    content, index = (repository / RELEASE).read_bytes(), json.loads((repository / INDEX).read_bytes())
    signed = index["signed"]
    signed["release_sha256"], signed["release_bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    (repository / INDEX).write_text(json.dumps(index))


def a_new_device_takes_nothing_else(place: Path) -> None:
    root = place / "device" / "new"
    with one_line() as said:
        Updater(str(place / "repository"), "stable", root).update()
    current = Installation(root).current()
    assert (current is None) if said else (current is not None and current.release.line == LINE)
    shutil.rmtree(root, ignore_errors=True)


def _as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("/etc/passwd")


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _new_blob(repository: Path) -> Path:
    """One that version 2 has and version 1 has not: the device fetches it."""
    before, after = ((repository / f"releases/{LINE}/{version}.json").read_text() for version in (1, 2))
    blobs = sorted((repository / "blobs").rglob("*"))
    return next(path for path in blobs if path.is_file() and path.name in after and path.name not in before)


@pytest.mark.parametrize("name", [LINES, INDEX, RELEASE, "blob"])
@pytest.mark.parametrize("change", [_as_link, _as_pipe, _as_loop, _as_folder])
def test_what_stands_in_a_file_s_place_is_refused(
    place: Path, table_bundle: Bundle, name: str, change: Callable[[Path], None]
) -> None:
    repository = place / "repository"
    path = _new_blob(repository) if name == "blob" else repository / name
    change(path)
    refused_by_the_device(place)
    refused_by_the_publisher(place, table_bundle)


class _Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def failing() -> Iterator[str]:
    """A repository whose server has a fault of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Failing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_server_that_fails_is_tried_again_and_keeps_no_device_from_syncing(failing: str) -> None:
    with pytest.raises(TransientError, match=r"release repository http://.*: cannot be read: 500"):
        ReleaseRepository(failing).read("channels/churn.json")
    counted = {"offer_failures": 0}
    assert Offers(failing, counted, 60).current({"release": "churn.edge_device.stable.1"}) is None
    assert counted["offer_failures"] == 1


def test_server_that_takes_no_files_is_one_line(failing: str, table_bundle: Bundle) -> None:
    with pytest.raises(TransientError, match=r"release repository http://.*: cannot be claimed: 501"):
        publish(table_bundle, failing, "stable")


def _replaced(place: Path, path: str, content: bytes) -> None:
    """Another content of a file in the current release, with all the digests that belong to it."""
    release = json.loads((place / "repository" / RELEASE).read_bytes())
    entries = [release["signed"]["manifest"], *release["signed"]["files"]]
    entry = next(e for e in entries if e["path"] == path)
    digest = hashlib.sha256(content).hexdigest()
    entry |= {"blob": digest, "blob_bytes": len(content)}
    blob = place / "repository" / "blobs" / "sha256" / digest[:2] / digest
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    written = json.dumps(release).encode()
    (place / "repository" / RELEASE).write_bytes(written)
    index = json.loads((place / "repository" / INDEX).read_bytes())
    index["signed"] |= {"release_bytes": len(written), "release_sha256": hashlib.sha256(written).hexdigest()}
    (place / "repository" / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("content", [b"no xz", lzma.compress(b"{}"), lzma.compress(b"[1, 2"), b""])
def test_report_that_cannot_be_read_is_one_line(place: Path, content: bytes) -> None:
    _replaced(place, "report.json", content)
    with pytest.raises(InputError, match=r"report\.json of version 2 cannot be read: .*publish that model again"):
        current_baseline(str(place / "repository"), "stable")


@pytest.mark.parametrize("content", [b"no xz", lzma.compress(b"{}")])
def test_manifest_that_cannot_be_read_keeps_no_release_from_following(
    place: Path, table_bundle: Bundle, content: bytes
) -> None:
    _replaced(place, "manifest.json", content)
    said: list[str] = []
    with progress.listening(lambda event: said.append(event.title)):
        assert publish(table_bundle, str(place / "repository"), "stable").version == 3
    assert any("cannot be read" in line and "not compared" in line for line in said)
