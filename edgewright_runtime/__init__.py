"""The part of Edgewright that lives on the device: standard library and numpy, nothing else.

``from edgewright_runtime import Device, Settings``; for answers alone, without upkeep, ``Predictor``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright_runtime.device import Device
    from edgewright_runtime.predict.predictor import Predictor
    from edgewright_runtime.settings import Settings

__all__ = ["Device", "Predictor", "Settings"]
_HOMES = {"Device": "device", "Predictor": "predict.predictor", "Settings": "settings"}
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
