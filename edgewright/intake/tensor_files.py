"""Files of `torch.save` that hold tensors and plain values, and nothing else. Imports torch."""

import pickle
import re
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from edgewright.errors import InputError, UntrustedModelError
from edgewright.failures import one_line

__all__ = ["load_tensors"]


def load_tensors(source: Path | IO[bytes], where: str) -> Any:
    """What torch's restricted unpickler makes of it; ``where`` begins each message.

    Raises:
        FileNotFoundError: no such file.
        UntrustedModelError: it asks for more than tensors.
        InputError: damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the protocol of what is refused next
            return torch.load(source, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as e:
        asked = re.search(r"GLOBAL (\S+)", str(e))
        what = f"asks for {asked.group(1)}" if asked else "is not a plain tensor file"
        raise UntrustedModelError(f"{where} {what}; only tensors are taken, nothing of it has run") from e
    except Exception as e:  # its virtual machine has no error type for a stack or a memo that lacks something
        raise InputError(f"{where} is damaged: {one_line(e)}") from e
