"""The errors of the library.

EdgewrightError
├ InputError            a file, table, option or value that the user gave cannot be used
│ ├ ProfileError        the profile or recipe is wrong: names the key, the value, what is allowed
│ └ UntrustedModelError a pickle that names something outside the allow-list
├ UnsupportedError      no path for this operator / technique x format x device
├ ConversionError       a converter rejected the graph, or its output disagrees with the source
├ BudgetExceededError   raised at the flow's gate only; validation itself returns a report
└ TransientError        the only family that is retried
  ├ DeviceUnreachableError
  └ TrackingUnavailableError

Each message is one line: what was found, what is allowed, what to do next.
"""

__all__ = [
    "BudgetExceededError",
    "ConversionError",
    "DeviceUnreachableError",
    "EdgewrightError",
    "InputError",
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


class UnsupportedError(EdgewrightError):
    """No path exists for this operator, technique, format or device."""


class ConversionError(EdgewrightError):
    """A converter rejected the graph, crashed, or produced a model that disagrees with its source."""


class BudgetExceededError(EdgewrightError):
    """A measured figure misses its limit; the message says which one and by how much."""


class TransientError(EdgewrightError):
    """May succeed when tried again: the only family that tasks retry."""


class DeviceUnreachableError(TransientError):
    """A validation target did not answer."""


class TrackingUnavailableError(TransientError):
    """The tracking server did not answer."""
