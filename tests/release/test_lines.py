"""One model on one platform in one channel: versions of its own, devices of its own, and nothing else gets in."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import InputError
from edgewright.package import Bundle, read_bundle
from edgewright.profile import load_device
from edgewright.release import current_baseline, current_release, publish, rollback
from edgewright.release.upkeep import check_repository, repair_repository
from edgewright.store import Store
from edgewright_runtime.bundle.line import Line, checked_line
from edgewright_runtime.bundle.release import parse_lines
from edgewright_runtime.errors import EdgeRuntimeError, IntegrityError, TransportError
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Updater
from tests.bundles import Parts, table_parts


def made(folder: Path, *, name: str = "churn", platform: str = "edge_device", seed: int = 1) -> Bundle:
    parts: Parts = table_parts(folder, seed=seed)
    device = load_device(f"generic_{platform}")
    return replace(parts, model=parts.model.model_copy(update={"name": name}), device=device).build()


def changed(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any]], None]) -> Bundle:
    """The same files with another manifest."""
    manifest = json.loads((bundle.artifact.path / "manifest.json").read_bytes())
    change(manifest)
    folder.mkdir()
    for file in bundle.artifact.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_bundle(folder).bundle


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made(tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="module")
def on_phones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made(tmp_path_factory.mktemp("android"), platform="android")


@pytest.fixture(scope="module")
def fraud(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made(tmp_path_factory.mktemp("fraud"), name="fraud", seed=5)


@pytest.fixture
def repository(tmp_path: Path) -> str:
    return str(tmp_path / "r")


def test_models_and_platforms_in_one_repository_and_channel_have_versions_of_their_own(
    repository: str, tmp_path: Path, churn: Bundle, on_phones: Bundle, fraud: Bundle
) -> None:
    board = Updater(repository, "stable", tmp_path / "board")
    publish(churn, repository, "stable")
    assert board.update().installed.name == "churn.edge_device.stable.1"

    releases = [publish(bundle, repository, "stable") for bundle in (on_phones, fraud, fraud)]
    releases += [publish(fraud, repository, "stable", cohort_percent=50)]

    assert [(r.line, r.version) for r in releases] == [
        ("churn.android.stable", 1),
        ("fraud.edge_device.stable", 1),
        ("fraud.edge_device.stable", 1),
        ("fraud.edge_device.stable", 2),
    ]
    assert board.update().status == "current"
    phone = Updater(repository, "stable", tmp_path / "phone", platform="android").update()
    other = Updater(repository, "stable", tmp_path / "other", model="fraud").update(ignore_cohort=True)
    assert phone.installed.release.manifest.sha256 == on_phones.manifest_digest
    assert other.installed.name == "fraud.edge_device.stable.2"


def test_device_that_is_new_takes_the_only_model_for_it_and_asks_where_there_are_several(
    repository: str, tmp_path: Path, churn: Bundle, on_phones: Bundle, fraud: Bundle
) -> None:
    publish(on_phones, repository, "stable")
    new = Updater(repository, "stable", tmp_path / "d")
    with pytest.raises(
        TransportError, match=r"nothing for edge_device on channel 'stable'; there is: 'churn' for andr"
    ):
        new.update()
    publish(churn, repository, "stable")
    assert new.update().installed.name == "churn.edge_device.stable.1"
    publish(fraud, repository, "stable")
    assert new.update().status == "current", "it goes on with what it has"

    with pytest.raises(EdgeRuntimeError, match=r"2 models for edge_device on 'stable': churn, fraud; say which"):
        Updater(repository, "stable", tmp_path / "e").update()
    command = [sys.executable, "-m", "edgewright_runtime", "install", repository, "--root", str(tmp_path / "e")]
    done = subprocess.run([*command, "--model", "fraud"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["installed"]["release"] == "fraud.edge_device.stable.1"


def test_device_changes_its_channel_and_its_model_when_told(
    repository: str, tmp_path: Path, churn: Bundle, fraud: Bundle
) -> None:
    publish(churn, repository, "stable")
    publish(churn, repository, "beta", cohort_percent=99)
    publish(fraud, repository, "stable")
    Updater(repository, "stable", tmp_path / "d", model="churn").update()

    names = [
        Updater(repository, channel, tmp_path / "d", model=model).update(ignore_cohort=True).installed.name
        for channel, model in (("beta", None), ("stable", "fraud"), ("stable", None))
    ]

    assert names == ["churn.edge_device.beta.1", "fraud.edge_device.stable.1", "fraud.edge_device.stable.1"]


def _other_columns(manifest: dict[str, Any]) -> None:
    for i, column in enumerate(manifest["preprocessing"]["columns"]):
        column["name"] = f"amount_{i}"


def _other_labels(manifest: dict[str, Any]) -> None:
    manifest["labels"] = ["honest", "fraud", "unclear"]


def _an_array(manifest: dict[str, Any]) -> None:
    manifest["preprocessing"]["columns"] = []


def _regression(manifest: dict[str, Any]) -> None:
    manifest["task"] = "regression"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_columns, "no column in common: charges, contract, tenure; here: amount_0, amount_1, amount_2"),
        (_other_labels, "no class in common: high, low, middle; here: fraud, honest, unclear"),
        (_an_array, "it takes table rows, this takes arrays"),
        (_regression, "classification, this is regression"),
    ],
)
def test_another_model_of_the_same_name_is_refused_and_nothing_is_written(
    repository: str, tmp_path: Path, churn: Bundle, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    publish(churn, repository, "stable")
    before = sorted(Path(repository).rglob("*"))

    with pytest.raises(InputError) as refused:
        publish(changed(churn, tmp_path / "other", change), repository, "stable")

    assert said in str(refused.value)
    assert "--name" in str(refused.value)
    assert sorted(Path(repository).rglob("*")) == before


def test_version_with_one_column_and_one_class_more_is_the_same_model(
    repository: str, tmp_path: Path, churn: Bundle
) -> None:
    def grown(manifest: dict[str, Any]) -> None:
        manifest["preprocessing"]["columns"][2]["name"] = "plan"
        manifest["labels"] = ["low", "middle", "highest"]

    publish(churn, repository, "stable")
    assert publish(changed(churn, tmp_path / "grown", grown), repository, "stable").version == 2


def test_array_of_another_shape_is_another_model(repository: str, tmp_path: Path, image_bundle: Bundle) -> None:
    def larger(manifest: dict[str, Any]) -> None:
        manifest["inputs"][0]["shape"] = [1, 1, 16, 16]

    publish(image_bundle, repository, "stable")
    with pytest.raises(InputError, match=r"inputs of shape \[\(1, 8, 8\)\], here \[\(1, 16, 16\)\]"):
        publish(changed(image_bundle, tmp_path / "larger", larger), repository, "stable")


def test_rollback_and_watching_ask_which_where_a_channel_has_several(
    repository: str, churn: Bundle, on_phones: Bundle, newer_bundle: Bundle
) -> None:
    publish(churn, repository, "stable")
    publish(newer_bundle, repository, "stable")
    assert current_release(repository, "stable")[0].version == 2
    publish(on_phones, repository, "stable")

    for ask in (rollback, current_release, current_baseline):
        with pytest.raises(InputError, match="'churn' for android on stable; 'churn' for edge_device on stable: say"):
            ask(repository, "stable")
    with pytest.raises(InputError, match=r"no release of 'fraud' on channel 'stable'; there is: 'churn' for android"):
        rollback(repository, "stable", model="fraud")
    back = rollback(repository, "stable", platform="edge_device")
    assert (back.line, back.version, back.content_of) == ("churn.edge_device.stable", 3, 1)
    assert current_baseline(repository, "stable", model="churn", platform="android").release.version == 1


def test_names_that_look_alike_are_lines_apart() -> None:
    names = [
        "churn",
        "Churn",
        "churn ",
        "CHURN",
        "чурн",
        "čurn",
        "churn.v2",
        "churn-v2",
        "churn_v2",
        "a" * 60,
        "a" * 61,
    ]
    ids = [Line(name, "edge_device", "stable").id for name in names]

    assert len(set(ids)) == len(names)
    assert [checked_line(line) for line in ids] == ids
    assert ids[0] == "churn.edge_device.stable"
    assert all(len(line) < 90 for line in ids)


def test_model_with_an_odd_name_reaches_its_device(repository: str, tmp_path: Path) -> None:
    publish(made(tmp_path / "odd", name="Чурн v2 (final)"), repository, "stable")
    assert Updater(repository, "stable", tmp_path / "d").update().status == "installed"
    assert Updater(repository, "stable", tmp_path / "d").update().status == "current"


def test_release_that_holds_another_model_than_it_says_is_refused(
    repository: str, tmp_path: Path, churn: Bundle
) -> None:
    publish(churn, repository, "stable")
    path = Path(repository) / "releases/churn.edge_device.stable/1.json"
    forged = json.loads(path.read_bytes())
    forged["signed"]["model"] = "fraud"
    content = json.dumps(forged).encode()
    index = json.loads((Path(repository) / "channels/churn.edge_device.stable.json").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    index["signed"].update(line="fraud.edge_device.stable", release_bytes=len(content), release_sha256=digest)
    (Path(repository) / "releases/fraud.edge_device.stable").mkdir()
    (Path(repository) / "releases/fraud.edge_device.stable/1.json").write_bytes(content)
    (Path(repository) / "channels/fraud.edge_device.stable.json").write_text(json.dumps(index))

    with pytest.raises(IntegrityError, match=r"its bundle is of 'churn' for edge_device, another model"):
        Updater(repository, "stable", tmp_path / "d", model="fraud").update()


@pytest.mark.parametrize("harm", [b"{", None], ids=["damaged", "gone"])
def test_list_of_lines_is_repaired(
    repository: str, tmp_path: Path, churn: Bundle, on_phones: Bundle, harm: bytes | None
) -> None:
    for bundle in (churn, on_phones):
        publish(bundle, repository, "stable")
    lines = Path(repository) / "lines.json"
    before = lines.read_bytes()
    lines.unlink() if harm is None else lines.write_bytes(harm)

    assert any(line.startswith("lines.json: ") for line in check_repository(repository).damaged)
    assert repair_repository(repository, Store(tmp_path)) == (["lines.json: written again"], [])
    assert lines.read_bytes() == before
    assert len(parse_lines(before)) == 2


def _as_version_1(root: Path) -> None:
    """A device's root as the first version of the runtime left it: it knew channels only."""
    folder = root / "releases/churn.edge_device.stable.1"
    document = json.loads((folder / "release.json").read_bytes())
    document["signed"]["schema_version"] = 1
    del document["signed"]["model"], document["signed"]["platform"]
    (folder / "release.json").write_text(json.dumps(document))
    folder.rename(root / "releases/stable.1")
    (root / "current").unlink()
    (root / "current").symlink_to("releases/stable.1")
    (root / "highest/churn.edge_device.stable").rename(root / "highest/stable")


def test_device_of_the_first_version_goes_over_to_its_models_line(
    repository: str, tmp_path: Path, churn: Bundle, fraud: Bundle
) -> None:
    publish(churn, repository, "stable")
    updater = Updater(repository, "stable", tmp_path / "d")
    updater.update()
    _as_version_1(tmp_path / "d")
    assert Installation(tmp_path / "d").current().name == "stable.1"
    publish(fraud, repository, "stable")

    outcome = updater.update()

    assert outcome.installed.name == "churn.edge_device.stable.1"
    assert outcome.installed.previous == "stable.1"
    assert outcome.downloaded_bytes == 0
