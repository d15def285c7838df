"""Peak signal-to-noise ratio of images in 0-1, as a metric that data files name ``psnr``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["psnr"]


def psnr(outputs: Mapping[str, np.ndarray], answers: np.ndarray) -> Any:
    """Decibels, over all rows, of the first output (N, ...) against the answers of the same shape; higher is better."""
    found = next(iter(outputs.values()))
    return -10 * np.log10(np.mean((found - answers) ** 2) + 1e-12)
