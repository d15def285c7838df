"""What a TorchScript archive may hold: code of tensor operations, tensors, and nothing that names a file or a class of
another library. Looked at before torch loads it, since loading may already run code of the archive.
"""

import ast
import re
import zipfile
from pathlib import Path

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.archives import opened_archive

__all__ = ["inspect_torchscript"]

# Recurrent layers of quantized models hold their weights in that class of torch's own.
_OUTSIDE = re.compile(r"__torch__\.torch\.classes\.(?!rnn\.CellParamsBase)[\w.]+")
_NAMESPACES = frozenset({"aten", "prim"})
_MAX_PARTS = 2  # behind the first: ops.aten.add


def inspect_torchscript(path: Path) -> None:
    """Refuse an archive whose code could do anything but compute.

    Raises:
        UntrustedModelError: it calls an operation that takes a file's name, or one of another library.
        InputError: damaged.
    """
    with opened_archive(path) as archive:
        # torch reads records without looking at their check sums.
        damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path}: damaged: the check sum of '{damaged}' does not fit")
        for entry in archive.namelist():
            if entry.endswith(".py"):
                _inspect_code(path, entry, _text(path, archive, entry))


def _text(path: Path, archive: zipfile.ZipFile, entry: str) -> str:
    try:
        return archive.read(entry).decode()
    except (zipfile.BadZipFile, UnicodeDecodeError) as e:
        raise InputError(f"{path}: a damaged TorchScript archive: {entry}: {e}") from e


def _inspect_code(path: Path, entry: str, code: str) -> None:
    # Classes of C++ libraries stand in the code as types, and their constructors are native code.
    outside = _OUTSIDE.search(code)
    if outside:
        raise UntrustedModelError(f"{path}: {entry} uses {outside[0]}, a class of another library; nothing has run")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise InputError(f"{path}: a damaged TorchScript archive: {entry} is not code") from e
    for node in ast.walk(tree):
        name = _dotted(node)
        if name:
            _inspect_name(path, entry, name)


def _dotted(node: ast.AST) -> str:
    """``a.b`` or ``a.b.c``; empty of longer ones, which name no operation and may be as deep as the parser goes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _MAX_PARTS:
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) and parts else ""


def _inspect_name(path: Path, entry: str, name: str) -> None:
    """``torch.NAME`` and ``ops.NAMESPACE.NAME`` are operations; other names are the archive's own."""
    root, _, rest = name.partition(".")
    if root == "torch" and "." not in rest:
        operation = rest
    elif root == "ops" and rest.count(".") == 1:
        namespace, _, operation = rest.partition(".")
        if namespace not in _NAMESPACES:
            raise UntrustedModelError(f"{path}: {entry} calls {name}; only operations of torch on tensors are taken")
    else:
        return
    # Only torch has the schemas, which say what an operation takes.
    from edgewright.intake.aten import reaches_outside

    if reaches_outside(operation):
        raise UntrustedModelError(
            f"{path}: {entry} calls {name}, which names a file, or memory as it is; nothing has run"
        )
