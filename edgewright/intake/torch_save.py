"""What a file of `torch.save` is: weights or a pickled module, no program. No ML framework is imported here."""

import io
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from edgewright.errors import InputError

__all__ = ["refuse_torch_save"]

_PICKLES = 4  # before its zip archives: a number, a version, the system, then what was saved
_OF_TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v2)?|parameter\w*)|torch \w*Storage|torch\.storage \w+"
    r"|torch (Size|device|\w+\d+)|numpy\S* (dtype|ndarray|_reconstruct|scalar)|_codecs encode|torch\.serialization \w+"
    r"|(builtins|__builtin__) (bool|bytes|complex|dict|float|int|list|set|slice|str|tuple)"
)


def refuse_torch_save(path: Path, pickled: bytes) -> NoReturn:
    """Say what to do with the file; its pickle is read opcode by opcode, and nothing of it runs.

    Raises:
        InputError: always: a state dict needs the code of its module, a pickled module runs code when it is loaded.
    """
    foreign = next((name for name in _globals(pickled) if not _OF_TENSORS.fullmatch(name)), None)
    stem = path.stem if path.stem.isidentifier() else "model"
    if foreign is None:
        raise InputError(
            f"{path}: a state dict of torch.save: weights without the module that they belong to. Write a {stem}.yaml "
            f"beside it: `factory: package.module:function` (a function that returns the module), `weights: "
            f"{path.name}`, `inputs: {{x: [3, 224, 224]}}` (each input's shape without the batch), and give that file"
        )
    raise InputError(
        f"{path}: a whole module pickled by torch.save ({foreign.replace(' ', '.')}): loading it runs its code, so it "
        f"is not taken. Where you trust it: `model = torch.load({path.name!r}, weights_only=False).eval()`; `program = "
        "torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim('batch')},))`; "
        f"`torch.export.save(program, '{stem}.pt2')`"
    )


def _globals(pickled: bytes) -> Iterator[str]:
    """``module name`` of each class and function that the pickles ask for, as far as they can be read."""
    stream = io.BytesIO(pickled)
    texts: list[str] = []
    try:
        for _ in range(_PICKLES):
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL":
                    yield " ".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, IndexError, UnicodeDecodeError):
        return  # what was read so far tells the kind
