"""The five stages, in their order."""

from typing import Literal

__all__ = ["STAGES", "StageName"]

StageName = Literal["optimize", "validate", "package", "deploy", "monitor"]
STAGES: tuple[StageName, ...] = ("optimize", "validate", "package", "deploy", "monitor")
