"""Every shipped profile loads, and what a device cannot do is found before anything runs."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgewright.artifact import Artifact, Exported, Format, Precision
from edgewright.errors import ProfileError
from edgewright.export.onnx_file import runtime_floor
from edgewright.profile import Platform, load_device, profiles_folder, shipped_names
from edgewright.validate.requirements import advice, unmet

GENERIC = {"generic_android", "generic_edge_device", "generic_ios"}


def exported(form: Format, floor: str, precision: Precision = Precision.FLOAT32, size: int = 1000) -> Exported:
    return Exported(
        artifact=Artifact(path=Path("m"), format=form, digest="0" * 64, size_bytes=size),
        precision=precision,
        inputs=(),
        outputs=(),
        runtime="onnxruntime",
        runtime_floor=floor,
    )


def test_at_least_fourteen_real_devices_are_described() -> None:
    assert set(shipped_names("device")) >= GENERIC
    assert len(set(shipped_names("device")) - GENERIC) >= 14


@pytest.mark.parametrize("name", shipped_names("device"))
def test_profile_loads_and_names_its_sources(name: str) -> None:
    device = load_device(name)
    assert device.threads <= device.cores
    if name in GENERIC:
        return
    assert device.extensions
    assert device.app_memory_mb is not None
    assert device.app_memory_mb < device.memory_mb
    assert device.budget.max_latency_ms
    assert "https://" in (profiles_folder() / "devices" / f"{name}.yaml").read_text()


def test_emulated_core_has_the_devices_extensions() -> None:
    with_dot_product = {"cortex-a76"}
    for name in shipped_names("device"):
        device = load_device(name)
        if device.emulated_core == "haswell":
            assert device.weight_bits == 7
        elif device.emulated_core:
            assert device.platform is Platform.EDGE_DEVICE
            assert ("dotprod" in device.extensions) == (device.emulated_core in with_dot_product)


def test_misspelt_extension_and_policy_are_refused(tmp_path: Path) -> None:
    text = (profiles_folder() / "devices" / "raspberry_pi_5.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("dotprod", "dotproduct"))
    with pytest.raises(ProfileError, match="dotproduct"):
        load_device(str(own))
    own.write_text(text.replace("max_temperature_c", "max_temperatur_c"))
    with pytest.raises(ProfileError, match="did you mean 'max_temperature_c'"):
        load_device(str(own))


def test_model_that_fits_has_no_unmet_requirement() -> None:
    assert unmet(exported(Format.ONNX, "1.18.0"), load_device("raspberry_pi_5")) == ()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (exported(Format.ONNX, "1.20.1"), "needs onnxruntime 1.20.1; raspberry_pi_zero_2_w may have 1.18.0"),
        (exported(Format.TFLITE, "1.0"), "takes onnx files; this is tflite"),
        (exported(Format.ONNX, "1.18.0", size=600 << 20), "the file alone has 600 MB"),
    ],
)
def test_unmet_requirement_is_named(model: Exported, said: str) -> None:
    (found,) = unmet(model, load_device("raspberry_pi_zero_2_w"))
    assert said in found


def test_file_of_a_newer_opset_than_the_devices_runtime_reads_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([node], "relu", values[:1], values[1:])
    floors = {
        opset: runtime_floor(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
        for opset in (17, 21)
    }
    device = load_device("raspberry_pi_5").model_copy(update={"runtime_floor": floors[17]})
    assert unmet(exported(Format.ONNX, floors[17]), device) == ()
    (found,) = unmet(exported(Format.ONNX, floors[21]), device)
    assert f"needs onnxruntime {floors[21]}; raspberry_pi_5 may have {floors[17]}" in found


def test_contradicting_keys_are_one_clear_line(tmp_path: Path) -> None:
    text = (profiles_folder() / "devices" / "raspberry_pi_5.yaml").read_text()
    own = tmp_path / "own.yaml"
    for added, said in (
        ("target: ssh\n", "target ssh needs the key 'ssh'"),
        ("target: emulated_device\nemulated_core: cortex-a7\n", "needs an emulated_core of cortex-a53"),
    ):
        own.write_text(text.replace("emulated_core: cortex-a76\n", "") + added)
        with pytest.raises(ProfileError, match=said):
            load_device(str(own))


def test_armv7_has_no_published_onnx_runtime() -> None:
    device = load_device("generic_edge_device").model_copy(update={"instruction_set": "armv7"})
    assert "it needs a build of its own" in advice(exported(Format.ONNX, "1.18.0"), device)[0]


def test_int8_without_dot_products_is_warned_of() -> None:
    int8 = exported(Format.ONNX, "1.18.0", Precision.INT8)
    assert "no 8-bit dot product (neon)" in advice(int8, load_device("raspberry_pi_4"))[0]
    assert advice(int8, load_device("raspberry_pi_5")) == ()
    assert advice(int8, load_device("generic_edge_device")) == ()


@pytest.mark.parametrize(
    ("needed", "held", "is_met"),
    [
        ("17.0", "17", True),
        ("17", "17.0.0", True),
        ("17.0.1", "17", False),
        ("1.9", "1.14", True),
        ("1.14", "1.9", False),
    ],
)
def test_a_version_is_as_new_as_its_numbers(needed: str, held: str, is_met: bool) -> None:
    device = load_device("raspberry_pi_5").model_copy(update={"runtime_floor": held})
    assert (unmet(exported(Format.ONNX, needed), device) == ()) is is_met
