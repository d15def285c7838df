"""What an application imports, and what that brings along."""

import subprocess
import sys

import pytest

import edgewright_runtime

RARELY_USED = {
    "http.client",
    "ssl",
    "urllib.request",
    "edgewright_runtime.predict.cloud",
    "edgewright_runtime.codec.ewz",
}


@pytest.mark.parametrize("name", edgewright_runtime.__all__)
def test_what_the_package_offers_is_there(name: str) -> None:
    assert isinstance(getattr(edgewright_runtime, name), type)


def test_nothing_else_is_offered() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Devise'"):
        _ = edgewright_runtime.Devise  # type: ignore[attr-defined]


def test_a_device_answers_without_what_is_rarely_used() -> None:
    code = f"import sys; from edgewright_runtime import Device; print(sorted({RARELY_USED!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
