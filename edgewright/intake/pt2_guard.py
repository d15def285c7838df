"""What a ``.pt2`` may hold: a torch.export file can carry pickles, native code, file access and sympy source.

`torch.export.load` would unpickle weights and constants without limits, evaluate size expressions as Python, and call
any function of torch by name. So everything of that kind is looked at first. Runs in a child process: imports torch.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edgewright.errors import InputError, UntrustedModelError
from edgewright.failures import one_line
from edgewright.intake.archives import opened_archive
from edgewright.intake.aten import computes
from edgewright.intake.tensor_files import load_tensors

__all__ = ["inspect_program"]

_OPERATION = re.compile(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)")
# Of quantization, which torch registers only when it is imported; and of `edgewright.intake.grouped_experts`.
_OTHER_OPERATION = re.compile(
    r"torch\.ops\.quantized_decomposed\.[a-z]\w*(\.\w+)?|torch\.ops\.transformers\.grouped_mm_fallback\.default"
)
_PYTHON_TARGET = re.compile(
    r"(_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt|pow)|torch\.sym_\w+"
    r"|torch\._sym_sqrt|torch\.ops\.higher_order\.(cond|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast))"
)
_SYMPY_NAMES = frozenset(
    {"Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le", "Gt"}
    | {"LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "Equality", "Unequality", "And", "Or", "Not"}
    | {"Ge", "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "IntTrueDiv", "TruncToInt", "CeilToInt", "FloorToInt"}
    | {
        "ModularIndexing",
        "Where",
        "ToFloat",
        "RoundToInt",
        "Identity",
        "true",
        "false",
        "oo",
        "int_oo",
        "True",
        "False",
    }
)
_MAX_POWER = 16
_SYMBOL = re.compile(r"[a-z]+_?\d+")
_SYMPY_NODES = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
                ast.Compare, ast.operator, ast.unaryop, ast.cmpop)  # fmt: skip
_TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})


def inspect_program(path: Path) -> None:
    """Refuse a ``.pt2`` that could run anything but tensor operators.

    Raises:
        UntrustedModelError: it holds native code, pickled objects, or names a function outside the allow-list.
        InputError: damaged.
    """
    with opened_archive(path) as archive:
        try:
            damaged = archive.testzip()  # torch reads weights without looking at their check sums
            if damaged is not None:
                raise InputError(f"{path}: damaged: the check sum of '{damaged}' does not fit")
            for entry in archive.namelist():
                _inspect_entry(path, archive, entry)
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(f"{path}: a damaged torch.export archive: {one_line(e, 200)}") from e


def _inspect_entry(path: Path, archive: zipfile.ZipFile, entry: str) -> None:
    if "/aotinductor/" in entry or entry.endswith((".so", ".dll", ".dylib", ".cubin", ".py")):
        raise UntrustedModelError(f"{path}: holds compiled code ({entry}); only graphs of tensor operators are taken")
    if entry.endswith("_config.json"):
        for name, payload in json.loads(archive.read(entry))["config"].items():
            _inspect_payload(path, archive, entry, name, payload)
    elif entry.endswith(".json"):
        for key, value in _strings(json.loads(archive.read(entry)), ""):
            _inspect_string(path, key, value)
    elif entry.endswith(".pt"):
        _inspect_pickle(path, entry, archive.read(entry))


def _inspect_payload(path: Path, archive: zipfile.ZipFile, config: str, name: str, payload: Any) -> None:
    where = f"{config.rpartition('/')[0]}/{payload['path_name']}"
    if not payload["path_name"].startswith(("weight_", "tensor_")):
        raise UntrustedModelError(f"{path}: the constant '{name}' is a pickled object; only tensors are taken")
    if payload.get("use_pickle"):
        _inspect_pickle(path, where, archive.read(where))


def _inspect_pickle(path: Path, entry: str, content: bytes) -> None:
    """torch's own restricted unpickler must manage it; then the unrestricted one does nothing else."""
    if content:
        load_tensors(io.BytesIO(content), f"{path}: {entry}")


def _inspect_string(path: Path, key: str, value: str) -> None:
    if key == "target" and not (_PYTHON_TARGET.fullmatch(value) or _is_operation(value)):
        raise UntrustedModelError(
            f"{path}: the graph calls {value}; only tensor operators (torch.ops.aten) known to compute alone are taken"
        )
    if key == "expr_str" and not _is_size_expression(value):
        raise UntrustedModelError(f"{path}: a size is given as {value[:80]!r}, which is not arithmetic on sizes")
    if key in {"in_spec", "out_spec"} and value:
        for inner, kind in _strings(json.loads(value), ""):
            if inner == "type" and kind not in _TREE_TYPES:
                raise UntrustedModelError(
                    f"{path}: inputs or outputs of type {kind}; only tuples, lists and dicts are taken"
                )


def _is_operation(target: str) -> bool:
    parts = _OPERATION.fullmatch(target)
    if parts is None:
        return _OTHER_OPERATION.fullmatch(target) is not None
    packet = getattr(getattr(torch.ops, parts[1]), parts[2], None)
    # An overload, not the name alone: a call of that picks one by its operands.
    return computes(getattr(packet, parts[3], None))


def _is_size_expression(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _SYMPY_NODES):
            return False
        if isinstance(node, (ast.LShift, ast.RShift)) or (_is_power(node) and not _is_small_power(node)):
            return False
        if isinstance(node, ast.Name) and node.id not in _SYMPY_NAMES and not _SYMBOL.fullmatch(node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _SYMBOL.fullmatch(node.value):
            return False
    return True


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "Pow"
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _is_small_power(node: ast.AST) -> bool:
    """Whether a power of a size, to a small number: of numbers, or of powers, it may not end before the memory does."""
    operands = [node.left, node.right] if isinstance(node, ast.BinOp) else getattr(node, "args", [])
    if len(operands) != 2 or any(_is_power(inner) for inner in ast.walk(operands[0])):
        return False
    exponent = re.fullmatch(r"(?:Integer\()?-?(\d{1,2})\)?", ast.unparse(operands[1]))
    nodes = ast.walk(operands[0])
    names = [inner.id if isinstance(inner, ast.Name) else getattr(inner, "value", None) for inner in nodes]
    of_a_size = any(isinstance(name, str) and _SYMBOL.fullmatch(name) for name in names)
    return of_a_size and exponent is not None and int(exponent[1]) <= _MAX_POWER


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string with the key it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)
    elif isinstance(value, str):
        yield key, value
