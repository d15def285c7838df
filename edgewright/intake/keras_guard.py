"""What a Keras file or a SavedModel may hold: loading builds classes by name and runs a graph, so it is read first.

A ``.keras`` or ``.h5`` names a class and a module for each layer; a SavedModel is a program that may read and write
files or call back into Python.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.archives import opened_archive

__all__ = ["inspect_keras_file", "inspect_saved_model"]

_MODULES = (
    "keras.layers",
    "keras.models",
    "keras.src.models",
    "keras.src.engine",
    "keras.engine",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.optimizers",
    "keras.losses",
    "keras.metrics",
    "keras.dtype_policies",
    "keras.mixed_precision",
)
# Layers that carry code of their own, or whose settings name a file or an address to read.
_REFUSED_CLASSES = frozenset(
    {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup", "IntegerLookup"}
    | {"TextVectorization", "Hashing", "function", "__lambda__"}
)
_REFUSED_OPERATIONS = (
    "PyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "Print",
    "Dataset",
    "Reader",
    "Rpc",
    "TableFromTextFile",
    "LoadAndRemapMatrix",
    "Save",
    "Restore",
)
_OF_CHECKPOINTS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})


def inspect_keras_file(path: Path) -> None:
    """Refuse layers that carry code, and names outside Keras.

    Raises:
        UntrustedModelError: such a layer or name; nothing of it has run.
        InputError: damaged.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    config = _config_of_archive(path) if zipped else _config_of_hdf5(path)
    for entry in _objects(config):
        name, module = str(entry.get("class_name")), entry.get("module")
        if name in _REFUSED_CLASSES:
            raise UntrustedModelError(
                f"{path}: holds a {name}, which carries code or reads files; replace it and save again"
            )
        if module not in {None, "keras"} and not f"{module}.".startswith(tuple(f"{m}." for m in _MODULES)):
            raise UntrustedModelError(f"{path}: asks for {module}.{name}, which is no layer; nothing of it has run")


def _config_of_archive(path: Path) -> Any:
    with opened_archive(path) as archive:
        try:
            return json.loads(archive.read("config.json"))
        except (KeyError, ValueError, RecursionError) as e:
            raise InputError(f"{path}: damaged: no readable config.json") from e


def _config_of_hdf5(path: Path) -> Any:
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise InputError(f"{path}: holds weights but no model; save the whole model: model.save('model.keras')")
            _refuse_links(file, path)
            return json.loads(config.decode() if isinstance(config, bytes) else config)
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise InputError(f"{path}: a truncated or damaged HDF5 file: {str(e).splitlines()[0]}") from e


def _refuse_links(file: Any, path: Path) -> None:
    """Weights that lie in another file would be read from wherever the link points."""
    import h5py

    def visit(group: Any) -> None:
        for name in group:
            if isinstance(group.get(name, getlink=True), (h5py.ExternalLink, h5py.SoftLink)):
                raise UntrustedModelError(f"{path}: '{name}' is a link out of the file; refused")
            if isinstance(group[name], h5py.Group):
                visit(group[name])
            elif group[name].external:
                raise UntrustedModelError(f"{path}: '{name}' lies in another file; refused")

    visit(file)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object: a mapping with a class name."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def inspect_saved_model(path: Path) -> None:
    """Refuse graphs that touch files or Python. Imports tensorflow's protocol buffers.

    Raises:
        UntrustedModelError: an operator that does more than compute; nothing of it has run.
        InputError: damaged.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    document = saved_model_pb2.SavedModel()
    try:
        document.ParseFromString((path / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as e:
        raise InputError(f"{path}: a truncated or damaged saved_model.pb: {e}") from e
    if not document.meta_graphs:
        raise InputError(f"{path}: a truncated or damaged saved_model.pb: no graph")
    for graph in document.meta_graphs:
        nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
        for node in nodes:
            if node.op not in _OF_CHECKPOINTS and any(word in node.op for word in _REFUSED_OPERATIONS):
                raise UntrustedModelError(
                    f"{path}: the graph holds {node.op} (node '{node.name}'), which reaches outside the model; "
                    "nothing of it has run"
                )
