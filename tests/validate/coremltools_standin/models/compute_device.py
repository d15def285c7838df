"""The kinds of device that a plan names."""


class MLCPUComputeDevice:
    """As the real one."""


class MLGPUComputeDevice:
    """As the real one."""


class MLNeuralEngineComputeDevice:
    """As the real one."""
