"""The packages of the zoo that this project does not depend on: in ``.zoo/site``, behind the main environment.

Nothing of the main environment is overridden: the packages are installed without their dependencies, and their folder
comes last on the path.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "FOLDER",
    "SITE",
    "activate",
    "ensure_onnx2tf",
    "ensure_site",
    "import_torchvision",
    "onnx2tf_version",
    "uv_install",
]

FOLDER = Path(__file__).parents[1] / ".zoo"
SITE = FOLDER / "site"
_PINS = Path(__file__).parent / "zoo-constraints.txt"


def ensure_site() -> None:
    """Install timm, torchvision and the packages that ship models; nothing where the pins are unchanged."""
    ready = SITE / ".pins"
    if ready.is_file() and ready.read_text() == _PINS.read_text():
        return
    uv_install("--target", str(SITE), "--no-deps", "-r", str(_PINS))
    ready.write_text(_PINS.read_text())


def ensure_onnx2tf() -> None:
    """onnx2tf in an environment of its own: it pins numpy and onnx, and its newest releases want Python 3.12.

    ``ZOO_PYTHON312`` names such a Python where ``python3.12`` is not on the path; without one, the newest release for
    the Python that runs this is taken.
    """
    folder = FOLDER / "onnx2tf"
    if (folder / "bin" / "onnx2tf").is_file():
        return
    newer = os.environ.get("ZOO_PYTHON312") or "python3.12"
    ended = subprocess.run([newer, "--version"], check=False, capture_output=True) if shutil.which(newer) else None
    python = newer if ended is not None and ended.returncode == 0 else sys.executable
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([str(uv), "venv", "-q", "--clear", "--python", python, str(folder)], check=True)
    wanted = "onnx2tf==2.6.9" if python == newer else "onnx2tf==1.29.24"
    uv_install(wanted, python=folder / "bin" / "python")


def onnx2tf_version() -> str:
    """The version in that environment, or "absent"."""
    found = sorted((FOLDER / "onnx2tf" / "lib").glob("python*/site-packages/onnx2tf-*.dist-info"))
    return found[0].name.removeprefix("onnx2tf-").removesuffix(".dist-info") if found else "absent"


def uv_install(*arguments: str, python: Path = Path(sys.executable)) -> None:
    """Install packages by uv, with the local folder of wheels where `PIP_FIND_LINKS` names one."""
    links = os.environ.get("PIP_FIND_LINKS")
    found = ["--find-links", links] if links else []
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([str(uv), "pip", "install", "-q", "--python", str(python), *found, *arguments], check=True)


def activate() -> None:
    """Put the zoo's packages behind those of the main environment."""
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))


def import_torchvision() -> None:
    """Import torchvision beside a CPU build of torch: its compiled operators do not load there, its networks do."""
    import torch

    register = torch.library.register_fake

    def skipping(name: Any, *arguments: Any, **options: Any) -> Any:
        """Its operators are not registered, so there is nothing to register a shape function for."""
        if str(name).startswith("torchvision"):
            return _unchanged
        return register(name, *arguments, **options)

    torch.library.register_fake = skipping
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = register


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
