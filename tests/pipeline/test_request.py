import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from edgewright.errors import InputError, ProfileError
from edgewright.monitor import MonitoringPlan
from edgewright.pipeline.parameters import DeploymentParameters
from edgewright.pipeline.request import resolve
from edgewright.pipeline.schema import keys_of
from edgewright.pipeline.shapes import parse_shapes
from edgewright.profile import load_device
from edgewright.recipe import Recipe, load_recipe
from edgewright_runtime.bundle.manifest import Kernels
from edgewright_runtime.bundle.monitoring import Monitoring


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    for name in ("model.pt2", "data.npz"):
        (tmp_path / name).write_bytes(b"x")
    return {"model": tmp_path / "model.pt2", "data": tmp_path / "data.npz", "platform": "android"}


def test_a_limit_given_replaces_the_devices_own(asked: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "title: mine\nplatform: android\ninstruction_set: arm64\ncores: 4\nmemory_mb: 100\nos_floor: '8'\n"
        "runtime_floor: '2'\nbudget: {max_latency_ms: 5, max_size_mb: 3}\n"
    )
    request = resolve(DeploymentParameters.of({**asked, "platform": None, "device": str(own), "max_latency_ms": 7}))
    assert request.budget.max_latency_ms == 7
    assert request.budget.max_size_mb == 3
    assert request.budget.max_memory_mb is None


def test_a_record_has_what_was_given_and_no_defaults(asked: dict[str, Any]) -> None:
    given = DeploymentParameters.of({**asked, "recipe": "int8", "max_size_mb": 2, "channel": "beta"})
    assert given.texts() == {
        "model": "model.pt2", "data": "data.npz", "platform": "android", "max_size_mb": "2.0", "channel": "beta",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_latency_ms": 0}, "max_latency_ms = 0: a limit is a number above zero"),
        ({"max_memory_mb": -1}, "max_memory_mb = -1: a limit is a number above zero"),
        ({"max_size_mb": float("nan")}, "max_size_mb = nan: a limit is a number above zero"),
        ({"max_accuracy_drop": 101}, "max_accuracy_drop = 101: input should be less than or equal to 100"),
        ({"platform": "windows"}, "platform = 'windows': input should be 'ios', 'android' or 'edge_device'"),
        ({"platform": None}, "neither a device nor a platform is given"),
        ({"device": "nokia_3310"}, "unknown device 'nokia_3310'; known: .*generic_android"),
        ({"device": "generic_ios"}, "device 'generic_ios' is ios, not android"),
        ({"recipe": "magic"}, "unknown recipe 'magic'; known: .*int8"),
        ({"model": Path("absent.pt2")}, "model absent.pt2: no such file"),
        ({"data": Path("absent.csv")}, "data absent.csv: no such file"),
    ],
)
def test_bad_input_is_one_line(asked: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(DeploymentParameters.of({**asked, **change}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel: x\n", "unknown key 'titel'; did you mean 'title'?"),
        ("kernels: {xnpack: true}", "unknown key 'kernels.xnpack'; did you mean 'xnnpack'?"),
        ("title: [\n", "cannot be read"),
        ("title: x\n", "key 'platform' is missing"),
        ("just words", "cannot be read"),
        (
            "{title: x, platform: android, instruction_set: arm64, cores: 0, memory_mb: 1, os_floor: '1', "
            "runtime_floor: '1'}",
            "cores = 0: input should be greater than 0",
        ),
    ],
)
def test_a_wrong_profile_names_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message.replace("?", r"\?")):
        load_device(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("techniques: [{technique: quantize, dtype: int3}]", "dtype = 'int3'"),
        ("techniques: [{technique: prune, sparsty: 0.5}]", "'techniques.0.prune.sparsty'; did you mean 'sparsity'?"),
        ("techniques: [{technique: fuse, xyz: 1}]", "unknown key 'techniques.0.fuse.xyz'; allowed: keep, technique"),
        (
            "techniques: [{technique: prune, sparsity: 0.5, training: {epoch: 3}}]",
            "'techniques.0.prune.training.epoch'; did you mean 'epochs'?",
        ),
        ("technics: []", "unknown key 'technics'; did you mean 'techniques'?"),
    ],
)
def test_a_wrong_recipe_names_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"description: x\n{text}\n")
    with pytest.raises(ProfileError, match=re.escape(message)):
        load_recipe(str(path))


def test_shapes_are_read_by_name() -> None:
    assert parse_shapes(["image=1,3,224,224", "size=1"]) == {"": {"image": (1, 3, 224, 224), "size": (1,)}}
    assert parse_shapes([]) == {"": {}}


def test_sizes_change_together() -> None:
    assert parse_shapes(["ids=1,32|64", "mask=1,32|64", "x=1,4"]) == {
        "32": {"ids": (1, 32), "mask": (1, 32), "x": (1, 4)},
        "64": {"ids": (1, 64), "mask": (1, 64), "x": (1, 4)},
    }
    assert set(parse_shapes(["image=1,3,224|320,112|160"])) == {"224x112", "320x160"}
    for wrong, said in (
        (["ids=1,32|64", "mask=1,32|64|128"], "found 2 and 3"),
        (["ids=1,32", "ids=1,64"], "given twice"),
        (["ids=1,32|32"], "stand there twice"),
    ):
        with pytest.raises(InputError, match=said):
            parse_shapes(wrong)


@pytest.mark.parametrize("text", ["image", "=1,2", "image=", "image=1,x", "image=1,0", "image=1,2|", "image=1|-1"])
def test_a_wrong_shape_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="such as image=1,3,224,224"):
        parse_shapes([text])


def test_keys_of_a_device_tell_what_the_runtimes_own_values_say_of_themselves() -> None:
    keys = {key.name: key for key in keys_of(type(load_device("raspberry_pi_5")), load_device("raspberry_pi_5"))}
    assert keys["kernels"].meaning == (Kernels.__doc__ or "").partition("\n")[0]
    for field in fields(Kernels):
        key = keys[f"kernels.{field.name}"]
        assert (key.allowed, key.meaning) == ("true or false; may be left out", field.metadata["description"])
    plan = {key.name: key for key in keys_of(MonitoringPlan, MonitoringPlan())}
    assert plan["window_s"].allowed == "whole number >= 1 and <= 31536000; may be left out"
    assert all(key.meaning for key in plan.values())


def test_keys_of_a_recipe_name_techniques_as_a_file_does() -> None:
    techniques = next(key for key in keys_of(Recipe, None) if key.name == "techniques")
    named = re.findall(r"\w+", techniques.allowed.partition(";")[0].removeprefix("list of: ").replace(" or ", " "))
    assert {"train_quantization", "prune_channels", "fuse"} <= set(named)
    read = [Recipe.model_validate({"name": "r", "description": "d", "techniques": [{"technique": n}]}) for n in named]
    assert [recipe.techniques[0].technique for recipe in read] == named


def test_plan_is_described_to_a_form_and_refuses_what_a_device_would() -> None:
    properties = TypeAdapter(MonitoringPlan).json_schema()["properties"]
    assert set(properties) == {field.name for field in fields(Monitoring)}
    assert all(field["description"] for field in properties.values())
    assert (properties["window_s"]["minimum"], properties["window_s"]["maximum"]) == (1, 31_536_000)
    for wrong in ({"window_s": 0}, {"max_drift": float("nan")}, {"max_memory_mb": float("inf")}, {"steps": ["nap"]}):
        with pytest.raises(ValidationError):
            TypeAdapter(MonitoringPlan).validate_python(wrong)
    with pytest.raises(ValidationError, match="surprise"):
        TypeAdapter(MonitoringPlan).validate_python({"surprise": 1})
    with pytest.raises(FrozenInstanceError):
        MonitoringPlan().window_s = 1  # type: ignore[misc]
