"""Where a model is measured: each target runs the same bench and gives the same answer, or the same kind of error."""

from typing import Protocol

from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchSpec

__all__ = ["Target"]


class Target(Protocol):
    """A place that runs `edgewright_runtime.bench`.

    Emulated targets give no wall-clock figures.
    """

    @property
    def name(self) -> str:
        """How reports call it, with the bounds that are enforced."""
        ...

    @property
    def emulated(self) -> bool:
        """Whether times there mean nothing."""
        ...

    @property
    def own_memory(self) -> bool:
        """Whether memory that is measured there is the device's: qemu-user shows the emulator's own."""
        ...

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """The bench's answer; paths in ``spec`` are this machine's, ``spec.outputs`` is written here.

        ``what`` names the work in messages ("measuring digits_cnn.tflite").

        Raises:
            UnsupportedError: the runtime for this format is not on the target.
            ConversionError: the runtime crashed, hung, ran out of memory, or refused the file or the rows.
            DeviceUnreachableError: the target did not answer, or went away in the middle.
        """
        ...
