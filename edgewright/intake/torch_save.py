"""What a file of `torch.save` is: weights or a pickled module, no program. No ML framework is imported here."""

import re
from pathlib import Path
from typing import NoReturn

from edgewright.errors import InputError
from edgewright.intake.pickle_outline import Made, outline

__all__ = ["STATE_DICTS", "refuse_torch_save"]

STATE_DICTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
"""Where checkpoints hold their weights, beside epochs and optimizers."""
_INPUTS = (
    "`inputs: {x: [3, 224, 224]}` (each input's shape without the batch; of whole numbers or masks "
    "`{ids: {shape: [128], dtype: int64}}`)"
)

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
    contents = outline(pickled, _PICKLES)
    foreign = next((name for name in contents.names if not _OF_TENSORS.fullmatch(name)), None)
    stem = path.stem if path.stem.isidentifier() else "model"
    # Weights alone: a state dict names nothing but tensors.
    if foreign is None:
        raise InputError(
            f"{path}: a state dict of torch.save: weights without the module that they belong to. {_described(stem)}, "
            f"`weights: {path.name}`, {_INPUTS}, and give that file"
        )
    if not isinstance(contents.built, dict):
        named = contents.built.name if isinstance(contents.built, Made) and _is_module(contents.built) else foreign
        raise InputError(
            f"{path}: a whole module pickled by torch.save ({_dotted(named)}): loading it runs its code, so it is not "
            f"taken. {_exported(path.name, '', stem)}"
        )
    module = next(((k, v) for k, v in contents.built.items() if isinstance(v, Made) and _is_module(v)), None)
    if module is not None:
        key, instance = module
        raise InputError(
            f"{path}: a checkpoint that holds a whole module under {key!r} ({_dotted(instance.name)}): loading it runs "
            f"its code, so it is not taken. {_exported(path.name, f'[{key!r}]', stem)}"
        )
    key = next((k for k in STATE_DICTS if isinstance(contents.built.get(k), dict)), None)
    loaded = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    tensors = f"{{k: v for k, v in {loaded}.items() if isinstance(v, torch.Tensor)}}"
    raise InputError(
        f"{path}: a checkpoint that holds more than tensors ({_dotted(foreign)}): loading it runs code, so it is not "
        "taken. Where you trust it, take its weights out in its folder: `import torch; torch.save("
        f"{f'{loaded}[{key!r}]' if key else tensors}, '{stem}_weights.pt')`. {_described(stem)}, "
        f"`weights: {stem}_weights.pt`, {_INPUTS}, and give that file"
    )


def _exported(name: str, place: str, stem: str) -> str:
    """The lines, as one: they run as they stand where the class of the module can be imported."""
    return (
        "Where you trust it, run this in its folder, where its class can be imported, with two rows of your own input "
        f"as the example: `import torch; model = torch.load({name!r}, map_location='cpu', weights_only=False){place}"
        ".eval(); example = torch.rand(2, 3, 224, 224); program = torch.export.export(model, (example,), "
        "dynamic_shapes=({0: torch.export.Dim('batch')},)); "
        f"torch.export.save(program, '{stem}.pt2')`"
    )


def _described(stem: str) -> str:
    return f"Write a {stem}.yaml beside it: `factory: package.module:function` (a function that returns the module)"


def _is_module(instance: Made) -> bool:
    return instance.state is not None and {"_modules", "_parameters"} <= instance.state.keys()


def _dotted(name: str) -> str:
    return name.replace(" ", ".")
