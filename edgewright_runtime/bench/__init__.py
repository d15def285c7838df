"""Latency, memory and outputs of model files on the device; ``python -m edgewright_runtime.bench``."""
