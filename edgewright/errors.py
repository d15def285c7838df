"""The errors of the library.

EdgewrightError
├ InputError            a file, table, option or value that the user gave cannot be used
│ ├ ProfileError        the profile or recipe is wrong: names the key, the value, what is allowed
│ └ UntrustedModelError a pickle that names something outside the allow-list
├ MissingLibraryError   what an extra of this distribution brings is not installed
├ UnsupportedError      no path for this operator / technique x format x device
├ ConversionError       a converter rejected the graph, or its output disagrees with the source
│ └ DisagreementError   the latter, with what a diagnosis found
├ BudgetExceededError   raised at the flow's gate only; validation itself returns a report
├ PoorSourceError       raised there, too: the source model itself is hardly better than chance
└ TransientError        the only family that is retried
  ├ DeviceUnreachableError
  └ TrackingUnavailableError

Each message is one line: what was found, what is allowed, what to do next.
"""

__all__ = [
    "BudgetExceededError",
    "ConversionError",
    "DeviceUnreachableError",
    "DisagreementError",
    "EdgewrightError",
    "InputError",
    "MissingLibraryError",
    "PoorSourceError",
    "ProfileError",
    "TrackingUnavailableError",
    "TransientError",
    "UnsupportedError",
    "UntrustedModelError",
]


class EdgewrightError(Exception):
    """Root of every error that Edgewright raises on purpose."""


class InputError(EdgewrightError):
    """Something the user gave cannot be used; nothing was written."""


class ProfileError(InputError):
    """A device profile, a recipe or a budget is wrong."""


class UntrustedModelError(InputError):
    """A model file asks for code outside the allow-list; none of it has run."""


class MissingLibraryError(EdgewrightError):
    """A library that the work needs is not installed; ``str`` names it and how to get it."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; edgewright[all] has every library that is used (docs/install.md)")


class UnsupportedError(EdgewrightError):
    """No path exists for this operator, technique, format or device."""


class ConversionError(EdgewrightError):
    """A converter rejected the graph, crashed, or produced a model that disagrees with its source."""


class CrashError(ConversionError):
    """Code of a library ended its process: by a fault of memory or of arithmetic, or of its own accord."""

    def __init__(self, message: str, signal: str = "") -> None:
        super().__init__(message)
        self.signal = signal


class DisagreementError(ConversionError):
    """An exported file answers otherwise than its model; ``exported`` and ``diagnosis`` tell which, and where."""

    def __init__(self, message: str, exported: object = None, diagnosis: object = None) -> None:
        super().__init__(message)
        self.exported, self.diagnosis = exported, diagnosis


class BudgetExceededError(EdgewrightError):
    """A measured figure misses its limit; the message says which one and by how much."""


class PoorSourceError(EdgewrightError):
    """The source model's own answers are doubtful; the message says why, and how to release it all the same."""


class TransientError(EdgewrightError):
    """May succeed when tried again: the only family that tasks retry."""


class DeviceUnreachableError(TransientError):
    """A validation target did not answer."""


class TrackingUnavailableError(TransientError):
    """The tracking server did not answer."""
