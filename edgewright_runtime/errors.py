"""The device's own errors; it cannot import those of the workstation."""

__all__ = [
    "BackendUnavailableError",
    "DamagedError",
    "EdgeRuntimeError",
    "InputRejectedError",
    "IntegrityError",
    "RefusedError",
    "RollbackError",
    "ShortageError",
    "TransportError",
    "UnsuitableError",
]


class EdgeRuntimeError(Exception):
    """Root of every error that the device runtime raises on purpose."""


class IntegrityError(EdgeRuntimeError):
    """Bytes that are not what their digest, length or format says."""


class DamagedError(IntegrityError):
    """Files that were whole once and are not any more: what a disk does, not who made them."""


class RollbackError(EdgeRuntimeError):
    """An older version was offered as new, or there is no version to return to."""


class UnsuitableError(EdgeRuntimeError):
    """A bundle that is intact, but costs more on this device than its budget allows."""


class ShortageError(EdgeRuntimeError):
    """Too little memory, disk or time for it just now; that says nothing of the model, and is tried again later."""


class BackendUnavailableError(EdgeRuntimeError):
    """The inference runtime that the bundle needs is not installed, or too old."""


class TransportError(EdgeRuntimeError):
    """A release repository or the cloud did not answer, or not with what was asked for."""


class RefusedError(TransportError):
    """The server understood and refused: asking again would not help."""


class InputRejectedError(EdgeRuntimeError):
    """An input that does not fit the manifest: wrong name, shape, type or value."""
