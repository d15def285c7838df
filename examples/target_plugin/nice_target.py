"""This machine at a lower priority: the bench is run by ``nice``."""

from edgewright.profile import DeviceProfile
from edgewright.validate.targets import Target
from edgewright.validate.targets.local import run_bench
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchSpec


class NiceTarget:
    """Runs the bench with a niceness of 0 to 19."""

    emulated = False
    own_memory = True

    def __init__(self, niceness: int) -> None:
        self._niceness = niceness

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"this machine (niceness {self._niceness})"

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`."""
        import sys

        return run_bench(spec, what, timeout_s, interpreter=("nice", "-n", str(self._niceness), sys.executable))


def target(device: DeviceProfile) -> Target:
    """What the entry point names."""
    return NiceTarget(int(device.target_options.get("niceness", 10)))
