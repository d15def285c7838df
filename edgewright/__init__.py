"""Edgewright: one trained model in; a verified, monitored model on every edge device out.

``import edgewright as ew``; ``ew.deploy(model, data, platform="android")``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright.pipeline.python import deploy

__all__ = ["deploy"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What a session asks for is imported then: every module of ours begins by importing this package."""
    if name not in __all__:
        raise AttributeError(f"module 'edgewright' has no attribute '{name}'")
    from edgewright.pipeline import python

    return getattr(python, name)
