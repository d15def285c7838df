"""The part of Edgewright that lives on the device: standard library and numpy, nothing else."""

__version__ = "0.1.0"
