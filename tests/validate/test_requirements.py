"""Every shipped profile loads, and what a device cannot do is found before anything runs."""

from pathlib import Path

import pytest

from edgewright.artifact import Artifact, Exported, Format, Precision
from edgewright.errors import ProfileError
from edgewright.profile import Platform, device_names, load_device, profiles_folder
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
    assert set(device_names()) >= GENERIC
    assert len(set(device_names()) - GENERIC) >= 14


@pytest.mark.parametrize("name", device_names())
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
    for name in device_names():
        device = load_device(name)
        if device.emulated_core:
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


def test_int8_without_dot_products_is_warned_of() -> None:
    int8 = exported(Format.ONNX, "1.18.0", Precision.INT8)
    assert "no 8-bit dot product (neon)" in advice(int8, load_device("raspberry_pi_4"))[0]
    assert advice(int8, load_device("raspberry_pi_5")) == ()
    assert advice(int8, load_device("generic_edge_device")) == ()
