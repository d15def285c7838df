"""The device against repositories that are fine, slow, broken and hostile."""

import functools
import hashlib
import http.server
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.package import Bundle, read_bundle
from edgewright.release import publish, rollback
from edgewright_runtime.__main__ import main
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.bundle.release import LINES_PATH, MAX_INDEX_BYTES, in_cohort, parse_release
from edgewright_runtime.device import Device, Settings
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, RollbackError, TransportError
from edgewright_runtime.update.golden import LOADING
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.transport import Repository, decompressed
from edgewright_runtime.update.updater import Updater
from edgewright_runtime.web import _KnownRedirects


@pytest.fixture
def repository(tmp_path: Path, table_bundle: Bundle) -> Path:
    publish(table_bundle, str(tmp_path / "repository"), "stable")
    return tmp_path / "repository"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "device"


def _update(repository: Path | str, root: Path, **options: bool) -> str:
    return Updater(str(repository), "stable", root).update(**options).status


def _version(root: Path) -> int | None:
    current = Installation(root).current()
    if current is None:
        return None
    open_bundle(current.bundle)
    return current.release.version


def test_first_installation_then_nothing_new_then_an_update(
    repository: Path, root: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    assert _update(repository, root) == "installed"
    assert (root / "current" / "bundle" / "churn.onnx").is_file()
    assert _update(repository, root) == "current"
    publish(newer_bundle, str(repository), "stable")

    assert _update(repository, root) == "installed"
    current = Installation(root).current()
    assert (current.name, current.previous) == ("churn.edge_device.stable.2", "churn.edge_device.stable.1")
    assert (
        open_bundle(root / "current" / "bundle").lineage.model != open_bundle(table_bundle.artifact.path).lineage.model
    )


def test_files_that_are_here_already_are_not_fetched_again(repository: Path, root: Path, table_bundle: Bundle) -> None:
    first = Updater(str(repository), "stable", root).update()
    shutil.rmtree(root / "bundles")
    shutil.copytree(table_bundle.artifact.path, root / "bundles" / table_bundle.manifest_digest)
    publish(table_bundle, str(repository), "stable", cohort_percent=99)

    again = Updater(str(repository), "stable", root).update(ignore_cohort=True)

    assert first.downloaded_bytes == table_bundle.download_bytes
    assert (again.status, again.downloaded_bytes) == ("installed", 0)


def test_local_rollback_needs_no_network_and_does_not_come_back(
    repository: Path, root: Path, newer_bundle: Bundle
) -> None:
    _update(repository, root)
    publish(newer_bundle, str(repository), "stable")
    _update(repository, root)

    assert main(["rollback", "--root", str(root)]) == 0

    assert _version(root) == 1
    assert Installation(root).refusals() == {"churn.edge_device.stable.2": "rolled back on this device"}
    with pytest.raises(RollbackError, match=r"rolled back on this device.*waiting for a newer one"):
        _update(repository, root)
    rollback(str(repository), "stable", 1)
    assert _update(repository, root) == "installed"
    assert _version(root) == 3


def test_any_kept_version_can_be_gone_back_to_without_network(
    repository: Path, root: Path, table_bundle: Bundle, newer_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    for bundle, percent in ((table_bundle, 100), (newer_bundle, 100), (table_bundle, 99)):
        publish(bundle, str(repository), "stable", cohort_percent=percent)
        Updater(str(repository), "stable", root).update(ignore_cohort=True, quota_bytes=1 << 30)
    shutil.rmtree(repository)
    assert Installation(root).names() == [
        "churn.edge_device.stable.1",
        "churn.edge_device.stable.2",
        "churn.edge_device.stable.3",
    ]

    assert main(["rollback", "--root", str(root), "--to", "churn.edge_device.stable.1"]) == 0

    assert _version(root) == 1
    capsys.readouterr()
    assert main(["rollback", "--root", str(root), "--to", "churn.edge_device.stable.9"]) == 1
    assert "there are: churn.edge_device.stable.2, churn.edge_device.stable.3" in capsys.readouterr().err


def test_damaged_earlier_release_is_not_gone_back_to(repository: Path, root: Path, newer_bundle: Bundle) -> None:
    _update(repository, root)
    first = Installation(root).current()
    publish(newer_bundle, str(repository), "stable")
    _update(repository, root)
    (first.bundle / "churn.onnx").write_bytes(b"rotten")

    with pytest.raises(RollbackError, match=r"cannot be used: churn\.onnx"):
        Installation(root).rollback()
    assert _version(root) == 2


@pytest.mark.parametrize(
    "state", ["highest/churn.edge_device.stable", "trial", "releases/stray", "refused/churn.edge_device.stable.9"]
)
def test_damaged_state_is_no_crash_loop(repository: Path, root: Path, newer_bundle: Bundle, state: str) -> None:
    _update(repository, root)
    (root / state).write_bytes(b"\xff\0 rotten")

    assert Installation(root).names() == ["churn.edge_device.stable.1"]
    Device(Settings(root, str(repository))).close()
    publish(newer_bundle, str(repository), "stable")
    assert _update(repository, root) == "installed"


def test_rollback_with_nothing_before_is_refused(repository: Path, root: Path) -> None:
    with pytest.raises(RollbackError, match="no earlier release"):
        Installation(root).rollback()
    _update(repository, root)
    with pytest.raises(RollbackError, match="no earlier release"):
        Installation(root).rollback()


def test_only_the_current_and_the_previous_release_are_kept(
    repository: Path, root: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    _update(repository, root)
    for bundle, percent in ((newer_bundle, 100), (table_bundle, 99), (newer_bundle, 99)):
        publish(bundle, str(repository), "stable", cohort_percent=percent)
        _update(repository, root, ignore_cohort=True)

    assert Installation(root).names() == ["churn.edge_device.stable.3", "churn.edge_device.stable.4"]
    assert len(list((root / "bundles").iterdir())) == 2
    assert not list((root / "staging").iterdir())


def test_release_for_other_devices_is_left_alone(tmp_path: Path, root: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path / "r"), "stable", cohort_percent=0)

    assert _update(tmp_path / "r", root) == "not_offered"
    assert _version(root) is None
    assert _update(tmp_path / "r", root, ignore_cohort=True) == "installed"


def test_cohort_is_the_stated_share_and_differs_by_release(repository: Path) -> None:
    release = replace(
        parse_release((repository / "releases/churn.edge_device.stable/1.json").read_bytes()), cohort_percent=30
    )
    devices = [f"device-{i}" for i in range(2000)]

    chosen = {d for d in devices if in_cohort(d, release)}
    other = {d for d in devices if in_cohort(d, replace(release, version=2))}

    assert 0.25 < len(chosen) / len(devices) < 0.35
    assert 0.15 < len(chosen & other) / len(chosen) < 0.45


# Hostile repositories: each test changes one thing, and the device keeps what it has.


def _blobs(repository: Path) -> list[Path]:
    return sorted(p for p in (repository / "blobs").rglob("*") if p.is_file())


def _signed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_bytes())
    change(document["signed"])
    path.write_text(json.dumps(document))


def _forge_release(repository: Path, change: Callable[[dict[str, Any]], None], version: int = 2) -> None:
    """A release as a repository's owner could make it: index and digests fit together."""
    document = json.loads((repository / "releases/churn.edge_device.stable/1.json").read_bytes())
    document["signed"]["version"] = version
    change(document["signed"])
    content = json.dumps(document).encode()
    (repository / f"releases/churn.edge_device.stable/{version}.json").write_bytes(content)

    def point(index: dict[str, Any]) -> None:
        index["version"] = version
        index["release_bytes"] = len(content)
        index["release_sha256"] = hashlib.sha256(content).hexdigest()

    _signed(repository / "channels/churn.edge_device.stable.json", point)


def _store_blob(repository: Path, packed: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(packed).hexdigest()
    path = repository / f"blobs/sha256/{digest[:2]}/{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return {"blob": digest, "blob_bytes": len(packed)}


def test_changed_blobs_are_refused(repository: Path, root: Path) -> None:
    for blob in _blobs(repository):
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 0xFF
        blob.write_bytes(content)

    with pytest.raises(IntegrityError):
        _update(repository, root)
    assert _version(root) is None
    assert not list((root / "bundles").iterdir())


def test_valid_xz_of_another_content_is_refused(repository: Path, root: Path) -> None:
    other = _store_blob(repository, lzma.compress(b"something else"))
    _forge_release(repository, lambda r: r["manifest"].update(other))

    with pytest.raises(IntegrityError, match="announced"):
        _update(repository, root)
    assert _version(root) is None


def test_longer_blob_is_cut_off_while_it_arrives(repository: Path, root: Path) -> None:
    for blob in _blobs(repository):
        blob.write_bytes(blob.read_bytes() + b"\0" * 100_000)

    with pytest.raises(IntegrityError, match="longer than"):
        _update(repository, root)


def test_shorter_blob_is_refused(repository: Path, root: Path) -> None:
    for blob in _blobs(repository):
        blob.write_bytes(blob.read_bytes()[:-20])

    with pytest.raises(IntegrityError, match="xz"):
        _update(repository, root)


def test_bomb_is_stopped_at_the_announced_length(repository: Path, root: Path) -> None:
    bomb = lzma.compress(b"\0" * (200 << 20))
    _forge_release(repository, lambda r: r["manifest"].update(_store_blob(repository, bomb)))

    with pytest.raises(IntegrityError, match="unpacks to more"):
        _update(repository, root)


def test_unpacking_never_holds_more_than_a_block() -> None:
    bomb = lzma.compress(b"\0" * (64 << 20))

    pieces = decompressed(iter([bomb]), "bomb", 64 << 20)

    assert max(len(piece) for piece in pieces) <= 1 << 16


def test_older_version_is_refused(repository: Path, root: Path, newer_bundle: Bundle) -> None:
    index = (repository / "channels/churn.edge_device.stable.json").read_bytes()
    publish(newer_bundle, str(repository), "stable")
    _update(repository, root)
    (repository / "channels/churn.edge_device.stable.json").write_bytes(index)

    with pytest.raises(RollbackError, match="offers version 1, this device has had 2"):
        _update(repository, root)
    assert _version(root) == 2


def test_versions_are_numbers_not_texts(repository: Path, root: Path) -> None:
    _forge_release(repository, lambda _: None, version=9)
    _update(repository, root)
    _forge_release(repository, lambda _: None, version=10)

    _update(repository, root)

    assert _version(root) == 10


@pytest.mark.parametrize("path", ["../../outside", "/outside", "a/../../outside", "..\\outside"])
def test_path_that_leads_out_is_refused(repository: Path, root: Path, path: str) -> None:
    _forge_release(repository, lambda r: r["files"][0].update(path=path))

    with pytest.raises(IntegrityError, match="plain relative path"):
        _update(repository, root)
    assert not list(repository.parent.rglob("outside"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(surprise=1), "unknown keys"),
        (lambda r: r.update(channel="beta"), "stands where"),
        (lambda r: r["files"].pop(), "not those of its manifest"),
        (lambda r: r["manifest"].update(bytes=1 << 30), "at most 8388608"),
        (lambda r: r["files"][0].update(bytes=1 << 40), "integer"),
        (lambda r: r.update(version="2"), "integer"),
        (lambda r: r.update(cohort_percent=101), "integer"),
    ],
)
def test_release_that_does_not_fit_is_refused(
    repository: Path, root: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _update(repository, root)
    _forge_release(repository, change)

    with pytest.raises(IntegrityError, match=message):
        _update(repository, root)
    assert _version(root) == 1


def test_release_document_that_was_changed_is_refused(repository: Path, root: Path) -> None:
    _signed(repository / "releases/churn.edge_device.stable/1.json", lambda r: r.update(cohort_percent=50))

    with pytest.raises(IntegrityError, match="index announced"):
        _update(repository, root)


def test_model_that_answers_otherwise_than_its_golden_vectors_is_not_activated(
    repository: Path, root: Path, tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    _update(repository, root)
    broken = tmp_path / "broken"
    shutil.copytree(newer_bundle.artifact.path, broken)
    shutil.copy(table_bundle.artifact.path / "golden.npz", broken / "golden.npz")
    manifest = json.loads((broken / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        content = (broken / entry["path"]).read_bytes()
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (broken / "manifest.json").write_text(json.dumps(manifest))
    publish(read_bundle(broken).bundle, str(repository), "stable")

    with pytest.raises(IntegrityError, match="golden vectors: output 'scores' differs"):
        _update(repository, root)
    assert _version(root) == 1


def test_repository_that_is_not_there_is_a_transport_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot be read"):
        _update(tmp_path / "nowhere", root)
    with pytest.raises(TransportError, match="none of them"):
        _update("ftp://example.invalid", root)


def test_second_process_is_refused_while_one_installs(repository: Path, root: Path) -> None:
    with Installation(root).exclusive(), pytest.raises(EdgeRuntimeError, match="another process"):
        _update(repository, root)


# Over HTTP.


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Trickle(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        pass


def _serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web(repository: Path) -> Iterator[str]:
    yield from _serving(functools.partial(_Quiet, directory=str(repository)))


@pytest.fixture
def trickle() -> Iterator[str]:
    yield from _serving(_Trickle)


def test_plain_web_server_is_a_repository(web: str, root: Path) -> None:
    assert _update(web, root) == "installed"
    with pytest.raises(TransportError, match="404"):
        Updater(web, "beta", root).update()


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends every question on, to what its first part names."""

    def do_GET(self) -> None:
        address, _, rest = self.path[1:].partition("/")
        self.send_response(302)
        self.send_header("Location", f"{urllib.parse.unquote(address)}/{rest}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    yield from _serving(_Elsewhere)


def _by_way_of(elsewhere: str, target: str, *hosts: str) -> bytes:
    address = f"{elsewhere}/{urllib.parse.quote(target, safe='')}"
    return Repository(address, redirect_hosts=hosts).read(LINES_PATH, MAX_INDEX_BYTES)


def test_redirection_leads_to_named_hosts_only(elsewhere: str, web: str, repository: Path) -> None:
    listed = (repository / LINES_PATH).read_bytes()
    assert _by_way_of(elsewhere, web, "127.0.0.1") == listed
    with pytest.raises(TransportError, match=r"redirects to 127\.0\.0\.1:\d+; followed are .* 127\.0\.0\.1:\d+ itself"):
        _by_way_of(elsewhere, web)
    assert _by_way_of(elsewhere, f"{elsewhere}/{urllib.parse.quote(web, safe='')}", "127.0.0.1") == listed


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:9", "file:///etc", "gopher://127.0.0.1", "//"])
def test_redirection_leads_to_the_web_only(elsewhere: str, target: str) -> None:
    with pytest.raises(TransportError, match=r"302|redirects"):
        _by_way_of(elsewhere, target, "127.0.0.1")


@pytest.mark.parametrize(
    ("address", "target", "followed"),
    [
        ("https://a.example/x", "https://a.example/y", True),
        ("https://a.example/x", "https://b.example/y", False),
        ("https://a.example/x", "https://cdn.example/y", True),
        ("https://a.example/x", "http://a.example/y", False),
        ("https://a.example/x", "http://cdn.example/y", False),
        ("http://a.example/x", "https://a.example/y", True),
        ("http://a.example:80/x", "http://a.example/y", True),
        ("http://a.example:8080/x", "https://a.example/y", True),
        ("http://a.example/x", "http://a.example:8080/y", False),
        ("http://a.example:8080/x", "http://a.example/y", False),
        ("https://a.example:8443/x", "https://a.example/y", False),
        ("http://a.example/x", "ftp://a.example/y", False),
    ],
)
def test_redirection_keeps_its_origin_and_never_leaves_tls(address: str, target: str, followed: bool) -> None:
    handler = _KnownRedirects({"CDN.example"})
    request = urllib.request.Request(address)  # noqa: S310 - is not opened
    if followed:
        assert handler.redirect_request(request, None, 302, "Found", {}, target).full_url == target  # type: ignore[union-attr]
    else:
        with pytest.raises(urllib.error.URLError, match="it redirects"):
            handler.redirect_request(request, None, 302, "Found", {}, target)


def test_byte_now_and_then_is_too_slow(trickle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright_runtime.update.transport._GRACE_S", 0.3)

    with pytest.raises(TransportError, match="too slow"):
        Repository(trickle).read("channels/churn.edge_device.stable.json", 1000)


@pytest.mark.parametrize(("name", "refused"), [("TERM", False), ("INT", False), ("SEGV", True)])
def test_trial_that_a_shutdown_ends_says_nothing_of_the_model(
    repository: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: bool
) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\necho '{LOADING}' >&2\nkill -{name} $$\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))

    with pytest.raises(EdgeRuntimeError, match="ended by signal"):
        _update(repository, root)
    monkeypatch.undo()

    assert Installation(root).is_refused("churn.edge_device.stable.1") == refused
    if not refused:
        assert _update(repository, root) == "installed"


# kill -9 at any instant.


def test_kill_at_any_instant_leaves_the_old_model_or_the_new(
    repository: Path, root: Path, newer_bundle: Bundle, table_bundle: Bundle
) -> None:
    command = [sys.executable, "-m", "edgewright_runtime", "install", str(repository), "--root", str(root)]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - began
    command.append("--ignore-cohort")
    outcomes = set()
    published = installed = 1
    for i in range(10):
        if installed == published:
            bundle = newer_bundle if published % 2 else table_bundle
            published = publish(bundle, str(repository), "stable", cohort_percent=99 - i).version
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(whole_s * (i + 1) / 8)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = _version(root)
        assert found in {installed, published}
        outcomes.add("new" if found == published else "old")
        installed = found
    assert outcomes == {"old", "new"}, "the kills did not fall before and after the flip"
    _update(repository, root, ignore_cohort=True)
    assert _version(root) == published


def test_everything_is_on_the_disk_before_the_pointer_flips(
    repository: Path, root: Path, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves what was synced: each file, each folder that names it, then the pointer, then its folder."""
    _update(repository, root)
    publish(newer_bundle, str(repository), "stable")
    synced: list[Path] = []
    fsync, replace_path, flip = os.fsync, Path.replace, len(synced)

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        nonlocal flip, synced
        done = replace_path(self, target)
        synced = [Path(str(path).replace(str(self), str(target))) for path in synced]
        if Path(target) == root / "current":
            flip = len(synced)
        return done

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "replace", renamed)
    _update(repository, root)

    now = Installation(root).current()
    before, after = set(synced[:flip]), synced[flip:]
    release = root / "releases" / now.name
    needed = {p for p in now.bundle.rglob("*") if p.is_file()} | {release / "release.json", release / "previous"}
    assert needed <= before
    assert {now.bundle, now.bundle.parent, release, release.parent, root / "trial"} <= before
    assert after[0] == root


def test_kill_between_the_flip_and_what_follows_opens_no_way_back(
    repository: Path, root: Path, newer_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _update(repository, root)
    stale = repository.with_name("stale")
    shutil.copytree(repository, stale)
    publish(newer_bundle, str(repository), "stable")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Installation, "_raise_highest", killed)
    with pytest.raises(KeyboardInterrupt):
        _update(repository, root)
    monkeypatch.undo()

    assert _version(root) == 2
    with pytest.raises(RollbackError, match="this device has had 2"):
        _update(stale, root)


@pytest.mark.parametrize("name", ["release.json", "previous"])
def test_damaged_current_release_is_installed_anew(repository: Path, root: Path, name: str) -> None:
    _update(repository, root)
    (root / "current" / name).write_bytes(b"\xff\xfe")

    assert _update(repository, root) == "installed"
    assert _version(root) == 1


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("harm", ["bundle/churn.onnx", "release.json"])
def test_rotten_byte_of_an_installed_release_is_mended_by_installing_it_again(
    repository: Path, root: Path, table_bundle: Bundle, newer_bundle: Bundle, beside: bool, harm: str
) -> None:
    updater = Updater(str(repository), "stable", root)
    updater.update()
    if beside:
        publish(newer_bundle, str(repository), "stable")
        updater.update(beside=True, quota_bytes=1 << 30)
    version = 2 if beside else 1
    damaged = root / f"releases/churn.edge_device.stable.{version}" / harm
    content = bytearray(damaged.read_bytes())
    content[0] ^= 0xFF
    damaged.write_bytes(content)

    status = updater.update(beside=beside, repair=True, quota_bytes=1 << 30).status

    assert status == ("installed" if harm == "release.json" else "repaired")
    wanted = newer_bundle if beside else table_bundle
    kept = Installation(root).installed(f"churn.edge_device.stable.{version}").bundle
    assert (kept / "churn.onnx").read_bytes() == (wanted.artifact.path / "churn.onnx").read_bytes()
    assert _version(root) == 1
    assert updater.update(beside=beside, repair=True).status == "current"


def test_check_takes_a_root_as_its_siblings_do(
    repository: Path, root: Path, table_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--root", str(root)]) == 1
    assert "nothing is installed" in capsys.readouterr().err
    _update(repository, root)

    for where in (["--root", str(root)], [str(table_bundle.artifact.path)]):
        assert main(["check", *where]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == "ok"
    (root / "current/bundle/churn.onnx").write_bytes(b"rotten")
    assert main(["check", "--root", str(root)]) == 1
    assert "churn.onnx: 6 bytes" in capsys.readouterr().err


def test_install_compares_what_is_there_with_its_digests(
    repository: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _update(repository, root)
    (root / "current/bundle/churn.onnx").write_bytes(b"rotten")

    assert main(["install", str(repository), "--root", str(root)]) == 0

    assert json.loads(capsys.readouterr().out)["status"] == "repaired"
    assert _version(root) == 1


def test_commands_show_what_is_installed(
    repository: Path, root: Path, table_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", str(repository), "--root", str(root)]) == 0
    assert json.loads(capsys.readouterr().out)["installed"]["version"] == 1
    example = str(table_bundle.artifact.path / "example.json")
    assert main(["predict", example, "--root", str(root)]) == 0
    assert len(json.loads(capsys.readouterr().out)["labels"]) == 1
    assert main(["status", "--root", str(root)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["current"]["bundle_digest"] == table_bundle.artifact.digest
    (model,) = status["models"]
    assert (model["release"], model["accuracy"], model["latency_p95_ms"]) == ("churn.edge_device.stable.1", 0.9, 2.0)
    assert (model["runtime"], model["accelerator"]) == ("onnxruntime 1.15.0", None)
    assert (status["on_trial"], status["refused"], status["outbox"]) == (False, {}, None)
    assert main(["install", str(repository / "nowhere"), "--root", str(root)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--runs", "0"], "a whole number from 1"),
        (["bench", "--threads", "-2"], "a whole number from 1"),
        (["install", "x", "--quota-mb", "nan"], "a number from 0"),
        (["install", "http://["], "Invalid IPv6 URL"),
        (["install", "x", "--channel", "../stable"], "1 to 64 of a-z"),
        (["run", "--interval", "inf"], "a number from 0"),
        (["predict", "empty.npy", "--bundle", "BUNDLE"], "cannot be read"),
        (["predict", "deep.json", "--bundle", "BUNDLE"], "cannot be read"),
        (["predict", "number.json", "--bundle", "BUNDLE"], "takes table rows"),
        (["sync", "--cloud", "http://127.0.0.1:9", "--token-file", "binary"], "holds no token"),
        (["sync", "--cloud", "http://127.0.0.1:9", "--token-file", "empty.npy"], "holds no token"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_wrong_command_is_one_clear_line(
    tmp_path: Path,
    table_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.npy").write_bytes(b"")
    Path("deep.json").write_text("[" * 100_000)
    Path("number.json").write_text("5")
    Path("binary").write_bytes(b"\xff\xfe\n")
    try:
        done = main([str(table_bundle.artifact.path) if a == "BUNDLE" else a for a in arguments])
    except SystemExit as e:  # argparse: a usage line before it
        done = e.code

    assert done in {1, 2}
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last
    assert message in last
