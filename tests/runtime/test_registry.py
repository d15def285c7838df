import errno
import fcntl
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.errors import EdgeRuntimeError
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.registry import Constraints, Registry
from edgewright_runtime.update.updater import Updater
from tests.bundles import report, table_parts
from tests.runtime.small_releases import BUNDLE_BYTES, LINE, keep, release_of

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: accurate and slow, accurate and fast, rough and small."""
    root = tmp_path_factory.mktemp("device")
    for seed, (channel, accuracy, p95_ms, memory_mb) in enumerate(
        [("slow", 0.95, 9.0, 40.0), ("fast", 0.95, 3.0, 30.0), ("rough", 0.80, 1.0, 2.0)]
    ):
        parts = table_parts(tmp_path_factory.mktemp(channel), seed=seed + 10)
        made = report(parts.exported.artifact, p95_ms=p95_ms, accuracy=accuracy)
        candidate = made.candidate.model_copy(update={"added_memory_mb": memory_mb})
        object.__setattr__(parts, "report", made.model_copy(update={"candidate": candidate}))
        publish(parts.build(), str(root / "repository"), channel)
        Updater(str(root / "repository"), channel, root / "models").update(beside=channel != "slow", quota_bytes=PLENTY)
    return root


@pytest.fixture
def registry(device: Path) -> Registry:
    return Registry(Installation(device / "models"))


@pytest.mark.parametrize(
    ("limits", "release"),
    [
        (Constraints(), "churn.edge_device.fast.1"),
        (Constraints(max_latency_ms=2), "churn.edge_device.rough.1"),
        (Constraints(max_latency_ms=3), "churn.edge_device.fast.1"),  # what it takes, and no more
        (Constraints(max_memory_mb=35), "churn.edge_device.fast.1"),
        (Constraints(max_memory_mb=5), "churn.edge_device.rough.1"),
        (Constraints(runtimes=frozenset({"onnxruntime"})), "churn.edge_device.fast.1"),
    ],
)
def test_the_most_accurate_that_fits_is_best_and_the_faster_of_equals(
    registry: Registry, limits: Constraints, release: str
) -> None:
    assert registry.best_model(limits).release == release


@pytest.mark.parametrize(
    "limits",
    [Constraints(max_memory_mb=1), Constraints(max_size_bytes=10), Constraints(runtimes=frozenset({"litert"}))],
)
def test_where_none_fits_the_message_says_what_there_is(registry: Registry, limits: Constraints) -> None:
    with pytest.raises(EdgeRuntimeError, match=r"installed: churn\.edge_device\.fast\.1 \("):
        registry.best_model(limits)


def test_figure_that_was_never_measured_keeps_no_limit(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    unmeasured = parts.report.candidate.model_copy(update={"latency": None})
    object.__setattr__(parts, "report", parts.report.model_copy(update={"candidate": unmeasured}))
    publish(parts.build(), str(tmp_path / "repository"), "stable")
    Updater(str(tmp_path / "repository"), "stable", tmp_path / "models").update()
    registry = Registry(Installation(tmp_path / "models"))

    assert registry.best_model(Constraints()).release == "churn.edge_device.stable.1"
    with pytest.raises(EdgeRuntimeError):
        registry.best_model(Constraints(max_latency_ms=1000))


def test_installing_beside_leaves_the_current_model(device: Path, registry: Registry) -> None:
    assert Installation(device / "models").current().name == "churn.edge_device.slow.1"
    assert {model.release for model in registry.models()} == {
        "churn.edge_device.slow.1",
        "churn.edge_device.fast.1",
        "churn.edge_device.rough.1",
    }


def _hold(root: Path, folder: Path, ready: object, done: object) -> None:
    with Registry(Installation(root)).in_use(folder):
        ready.set()
        done.wait(30)


def test_quota_deletes_the_oldest_but_never_what_is_in_use(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle, image_bundle: Bundle
) -> None:
    root = tmp_path / "models"
    for channel, bundle in (("a", table_bundle), ("b", newer_bundle), ("c", image_bundle)):
        publish(bundle, str(tmp_path / "repository"), channel)
        options = {"model": "digits-cnn", "platform": "android"} if channel == "c" else {"model": "churn"}
        updater = Updater(str(tmp_path / "repository"), channel, root, **options)
        updater.update(beside=channel != "c", quota_bytes=PLENTY)
    registry = Registry(Installation(root))
    held = next(model.folder for model in registry.models() if model.release == "churn.edge_device.a.1")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(root, held, ready, done))
    holder.start()
    assert ready.wait(30)

    assert registry.collect(quota_bytes=0) == ["churn.edge_device.b.1"]
    holder.kill()  # a lease ends with its process, however that ends
    holder.join()

    assert registry.collect(quota_bytes=PLENTY) == []
    assert registry.collect(quota_bytes=0) == ["churn.edge_device.a.1"]
    assert [model.release for model in registry.models()] == ["digits-cnn.android.c.1"]
    assert len(list((root / "bundles").iterdir())) == 1


def test_what_a_crash_left_is_swept(tmp_path: Path, table_bundle: Bundle) -> None:
    publish(table_bundle, str(tmp_path / "repository"), "stable")
    Updater(str(tmp_path / "repository"), "stable", tmp_path / "models").update()
    (tmp_path / "models/bundles" / ("0" * 64)).mkdir()
    (tmp_path / "models/releases/.stable.2").mkdir()

    Registry(Installation(tmp_path / "models")).collect()

    assert len(list((tmp_path / "models/bundles").iterdir())) == 1
    assert not list((tmp_path / "models/releases").glob(".*"))


def test_release_that_names_no_bundle_is_swept_and_stops_nothing(
    tmp_path: Path, table_bundle: Bundle, newer_bundle: Bundle
) -> None:
    repository, root = str(tmp_path / "repository"), tmp_path / "models"
    for bundle in (table_bundle, newer_bundle, table_bundle):
        publish(bundle, repository, "stable")
        Updater(repository, "stable", root).update(quota_bytes=PLENTY)
    (root / "releases/churn.edge_device.stable.1/bundle").unlink()
    publish(newer_bundle, repository, "stable")

    assert Updater(repository, "stable", root).update().status == "installed"
    assert Installation(root).names() == ["churn.edge_device.stable.3", "churn.edge_device.stable.4"]


@pytest.fixture
def four(tmp_path: Path) -> Installation:
    """Four releases; the first two share a bundle, and the last is the current one, with none before it."""
    installation = Installation(tmp_path / "device")
    for version in (1, 2, 3):
        keep(installation, release_of(version, "shared" if version < 3 else ""), beside=True)
    keep(installation, release_of(4))
    return installation


def _bundle(installation: Installation, content: str) -> Path:
    return installation.bundle_folder(release_of(1, content).manifest.sha256)


@pytest.mark.parametrize(
    ("bundles", "left"), [(3, [1, 2, 3, 4]), (2, [3, 4]), (1, [4])], ids=["all three fit", "two", "one"]
)
def test_no_more_is_deleted_than_the_quota_asks_for(four: Installation, bundles: int, left: list[int]) -> None:
    """A release whose bundle another one has goes, too, but makes no room."""
    before = four.names()

    removed = Registry(four).collect(quota_bytes=bundles * BUNDLE_BYTES)

    assert four.names() == [f"{LINE}.{version}" for version in left]
    assert removed == [name for name in before if name not in four.names()]
    assert len(list((four.root / "bundles").iterdir())) == bundles


def _failing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(_: Path) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("edgewright_runtime.update.registry.open_lock", refused)


def test_bundle_whose_lease_cannot_be_asked_for_stays(four: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(four)
    _failing(monkeypatch, errno.EACCES)

    assert registry.collect() == [f"{LINE}.1"]  # its bundle is the second one's, too
    assert four.names() == [f"{LINE}.2", f"{LINE}.3", f"{LINE}.4"]
    assert _bundle(four, "shared").is_dir()


def test_want_of_descriptors_is_no_lease_that_another_holds(
    four: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(four)
    _failing(monkeypatch, errno.EMFILE)

    with pytest.raises(OSError, match="Too many open files"):
        registry.collect()


def test_deleted_bundle_can_be_installed_and_held_again(four: Installation) -> None:
    registry = Registry(four)
    registry.collect()
    keep(four, release_of(3), beside=True)

    # As `in_use` does, but without waiting for the lease.
    lease = os.open(four.root / "leases" / _bundle(four, "3").name, os.O_RDWR)
    try:
        fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(lease)


def test_release_whose_bundle_is_gone_is_swept_and_stops_nothing(four: Installation) -> None:
    shutil.rmtree(_bundle(four, "shared"))

    assert Registry(four).collect() == [f"{LINE}.{version}" for version in (1, 2, 3)]
    assert four.names() == [f"{LINE}.4"]
