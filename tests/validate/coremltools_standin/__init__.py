"""A stand-in for coremltools as it is on a Mac, for tests: no Mac was used.

It runs one kind of package, a linear classifier whose weights lie beside the model, and plans it. What it has of
coremltools has coremltools' own names and parameters: test_core_ml.py compares them with the installed one.
"""

from enum import Enum

__version__ = "stand-in"


class ComputeUnit(Enum):
    """The names of the real one."""

    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


from . import models  # noqa: E402 - it needs the above, as in the real one

__all__ = ["ComputeUnit", "models"]
