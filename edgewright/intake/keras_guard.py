"""What a Keras file or a SavedModel may hold: loading builds classes by name and runs a graph, so it is read first.

A ``.keras`` or ``.h5`` names a class for each layer, and functions inside layers; a SavedModel is a program that may
read and write files or call back into Python. Everything that is named must stand in `edgewright.intake.keras_names`.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import InputError, UntrustedModelError
from edgewright.failures import one_line
from edgewright.intake.archives import opened_archive
from edgewright.intake.keras_names import (
    ACTIVATIONS,
    CLASSES,
    FUNCTIONS,
    MARKERS,
    OF_CHECKPOINTS,
    OPERATORS,
    REFUSED_OPERATIONS,
)

__all__ = ["inspect_keras_file", "inspect_saved_model"]

_MODULES = (
    "keras",
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
    "keras.src.applications.convnext",
)
# What Keras 3 writes for arithmetic between layers (x + y, x[:, 0], masks): classes that compute and hold no code.
_OPERATIONS = tuple(f"keras.src.ops.{name}" for name in ("numpy", "nn", "math", "linalg", "image"))
# The rest of its module calls functions.
_CORE_OPERATIONS = frozenset({"Cast", "Slice", "SliceUpdate", "ScatterUpdate", "StopGradient", "Unstack"})
# Layers that carry code of their own, or whose settings name a file or an address to read.
_OF_CODE = frozenset(
    {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
    | {"function", "__lambda__", "ClassMethod", "InstanceMethod"}
)
_OF_VOCABULARY = frozenset({"StringLookup", "IntegerLookup", "TextVectorization"})
_OF_HASHES = frozenset({"Hashing", "HashedCrossing"})
_NO_OPERATOR = ", and no platform has an operator for it; apply it to the data, and save the model from its output on"
# What those layers leave of themselves in a graph.
_LOOKED_UP = re.compile(r"(Mutable|Anonymous)*(HashTable|DenseHashTable|LookupTable|InitializeTable)\w*")
_HASHED = re.compile(r"StringToHashBucket\w*|SparseCross\w*")
_CALLED = re.compile(r"(compat\.v1\.)?((math|nn|linalg|image|signal|bitwise|__operators__)\.\w+|(?P<plain>\w+))")


def inspect_keras_file(path: Path) -> None:
    """Refuse classes and functions that are not of the lists.

    Raises:
        UntrustedModelError: such a class or function; nothing of it has run.
        InputError: damaged.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    config = _config_of_archive(path) if zipped else _config_of_hdf5(path)
    # Code is refused anywhere in the file, also where Keras would not build it.
    _inspect_code(config, path)
    # How it was trained is never built: a loss may be of any class.
    for entry in _objects(_without_training(config)):
        _inspect_class(str(entry["class_name"]), entry.get("module"), path)


def _without_training(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_training(inner) for key, inner in value.items() if key != "compile_config"}
    return [_without_training(inner) for inner in value] if isinstance(value, list) else value


def _inspect_class(name: str, module: Any, path: Path) -> None:
    known = name in CLASSES or name in MARKERS
    if module is not None and not isinstance(module, str):
        known = False
    elif module == "keras.src.ops.core":
        known = name in _CORE_OPERATIONS
    elif module is not None and _is_below(module, _OPERATIONS):
        known = name.isidentifier() and name not in REFUSED_OPERATIONS
    elif module is not None:
        known = known and _is_below(module, _MODULES) and not module.startswith("keras.src.ops")
    if not known:
        asked = name if module is None else f"{module}.{name}"
        raise UntrustedModelError(
            f"{path}: asks for {asked}, which is not a layer of Keras that only computes; nothing of it has run"
        )


def _is_below(module: str, allowed: Iterable[str]) -> bool:
    # `keras` matches by itself only: every module lies below it.
    return any(module == name or (name != "keras" and module.startswith(f"{name}.")) for name in allowed)


def _inspect_code(config: Any, path: Path) -> None:
    """Refuse what carries code or reads files, and functions that do more than compute, wherever they stand."""
    for entry in _objects(config):
        name = str(entry["class_name"])
        if name in _OF_VOCABULARY | _OF_HASHES:
            why = (
                "hashes its input" if name in _OF_HASHES else "looks its input up in a vocabulary, which may be a file"
            )
            raise UntrustedModelError(f"{path}: holds {_article(name)} {name}, which {why}{_NO_OPERATOR}")
        if name in _OF_CODE:
            raise UntrustedModelError(
                f"{path}: holds a {name}, which carries code or reads files; replace it and save again"
            )
    for holder, key, value in _settings(config):
        # Keras 2 writes a function of TensorFlow in these layers; settings of a layer have no class name.
        if key == "function" and str(holder.get("class_name", "")) in {"", "TFOpLambda", "SlicingOpLambda"}:
            called = _CALLED.fullmatch(value) if isinstance(value, str) else None
            if called is None or (called["plain"] is not None and called["plain"] not in FUNCTIONS):
                raise UntrustedModelError(f"{path}: calls the function {_shown(value)}, which may do more than compute")
        elif key == "function_type" or (key.endswith(("function", "_fn", "fn")) and not _is_plain(value)):
            raise UntrustedModelError(f"{path}: carries code in '{key}'; replace that layer and save again")
        elif key.endswith("activation") and isinstance(value, str) and value not in ACTIVATIONS:
            raise UntrustedModelError(f"{path}: asks for the activation {_shown(value)}, which Keras does not have")


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOU" else "a"


def _is_plain(value: Any) -> bool:
    """Whether it names a function of Keras by its plain name, or none."""
    return value is None or (isinstance(value, str) and value.isidentifier())


def _shown(value: Any) -> str:
    return str(value)[:80]


def _settings(value: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every mapping with each of its keys and values."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, str(key), inner
            yield from _settings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner)


def _config_of_archive(path: Path) -> Any:
    with opened_archive(path) as archive:
        try:
            config = json.loads(archive.read("config.json"))
        # RecursionError: nested deeper than the parser goes.
        except (KeyError, ValueError, RecursionError) as e:
            raise InputError(f"{path}: damaged: no readable config.json") from e
        # Weights are HDF5, which may point to other files, even inside an archive.
        for entry in archive.namelist():
            if entry.endswith(".h5"):
                _inspect_weights(archive, entry, path)
    return config


def _inspect_weights(archive: zipfile.ZipFile, entry: str, path: Path) -> None:
    import h5py  # type: ignore[import-untyped]

    try:
        with archive.open(entry) as stream, h5py.File(stream, "r") as file:
            _refuse_links(file, path)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: a truncated or damaged {entry}: {one_line(e, 200)}") from e


def _config_of_hdf5(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            if config is None:
                raise InputError(f"{path}: holds weights but no model; save the whole model: model.save('model.keras')")
            _refuse_links(file, path)
            return json.loads(config.decode() if isinstance(config, bytes) else config)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: a truncated or damaged HDF5 file: {one_line(e, 200)}") from e


def _refuse_links(file: Any, path: Path) -> None:
    """Weights that lie in another file would be read from wherever the link points."""
    import h5py

    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        # Two names may stand for one group: where each holds the next one twice, there are paths without end.
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            # `getlink` looks at the link itself; plain indexing would follow it.
            if isinstance(group.get(name, getlink=True), (h5py.ExternalLink, h5py.SoftLink)):
                raise UntrustedModelError(f"{path}: '{name}' is a link out of the file; refused")
            held = group[name]
            if isinstance(held, h5py.Group):
                waiting.append(held)
            # HDF5 may leave a dataset's bytes in other files, or put it together from other datasets.
            elif held.external or held.is_virtual:
                raise UntrustedModelError(f"{path}: '{name}' lies in another file; refused")


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
    """Refuse graphs that do more than compute, and layers that carry code. Imports tensorflow's protocol buffers.

    Raises:
        UntrustedModelError: an operator outside the list, one that writes a file on the way to an answer, or a layer
            that carries code in the notes that Keras keeps beside the graph; nothing of it has run.
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
        _inspect_graph(graph, path)
        _inspect_notes((node.user_object.metadata for node in graph.object_graph_def.nodes), path)
    _inspect_notes(_notes_of_keras(path), path)


def _inspect_graph(graph: Any, path: Path) -> None:
    functions = {f.signature.name: list(f.node_def) for f in graph.graph_def.library.function}
    _refuse_names_of_operators(functions, path)
    nodes = list(graph.graph_def.node)
    # Checkpoint operators pass here, since every SavedModel saves and restores its variables by them.
    for node in (*nodes, *(node for inner in functions.values() for node in inner)):
        if node.op not in OPERATORS and node.op not in OF_CHECKPOINTS and node.op not in functions:
            if layers := _layers_with(node.op):
                raise UntrustedModelError(
                    f"{path}: the graph holds {node.op} (node '{node.name}'), as {layers}{_NO_OPERATOR}"
                )
            raise UntrustedModelError(
                f"{path}: the graph holds {node.op} (node '{node.name}'), which is not known to compute alone; "
                "nothing of it has run"
            )
        # Another name may be an operator's, which TensorFlow would run all the same.
        if missing := _calls(node) - {node.op, ""} - functions.keys():
            raise UntrustedModelError(
                f"{path}: node '{node.name}' calls {min(missing)}, which is not a function of the graph; "
                "nothing of it has run"
            )
    writing = _reaching_files(functions)
    # What the loaded object offers can be called without a node of the main graph.
    called = {name for node in graph.object_graph_def.nodes for name in node.function.concrete_functions}
    called |= {node.bare_concrete_function.concrete_function_name for node in graph.object_graph_def.nodes}
    reached = _ancestors(nodes, _answers(graph))
    files = {node.name for node in reached if node.op in OF_CHECKPOINTS or _calls(node) & writing}
    if files or called & writing:
        raise UntrustedModelError(
            f"{path}: reads or writes a file on the way to an answer ({sorted(files | (called & writing))[0]}); "
            "nothing of it has run"
        )


def _layers_with(operator: str) -> str:
    """The layers of Keras that leave such an operator in a graph, and what they do; none for any other."""
    if _LOOKED_UP.fullmatch(operator):
        return f"{' or '.join(sorted(_OF_VOCABULARY))} leaves it, which looks its input up in a vocabulary"
    if _HASHED.fullmatch(operator):
        return f"{' or '.join(sorted(_OF_HASHES))} leaves it, which hashes its input"
    return ""


def _refuse_names_of_operators(functions: Iterable[str], path: Path) -> None:
    """A node of such a name would be looked at as a call, and might be run as the operator."""
    from tensorflow.python.framework import op_def_registry

    for name in functions:
        if op_def_registry.get(name) is not None:
            raise UntrustedModelError(f"{path}: a function of the graph is called {name}, as an operator; refused")


def _reaching_files(functions: dict[str, list[Any]]) -> set[str]:
    """The functions that read or write files, themselves or by what they call."""
    callers: dict[str, set[str]] = {}
    for name, nodes in functions.items():
        for called in set[str]().union(*map(_calls, nodes)):
            callers.setdefault(called, set()).add(name)
    names: set[str] = set()
    # An operator stands among the calls, so that those who use it come first, and then who calls them.
    waiting = [name for operator in OF_CHECKPOINTS for name in callers.get(operator, ())]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += callers.get(name, ())
    return names


def _calls(node: Any) -> set[str]:
    """The functions that a node names: as its operator, or in an attribute."""
    named = {attribute.func.name for attribute in node.attr.values() if attribute.HasField("func")}
    named |= {function.name for attribute in node.attr.values() for function in attribute.list.func}
    return named | {node.op}


def _answers(graph: Any) -> set[str]:
    """The nodes of the main graph that answer a signature, or run when the model is loaded."""
    tensors = [tensor.name for signature in graph.signature_def.values() for tensor in signature.outputs.values()]
    # Collections in which TensorFlow 1 names what runs on loading.
    for key in ("saved_model_main_op", "legacy_init_op", "table_initializer"):
        tensors += graph.collection_def[key].node_list.value if key in graph.collection_def else []
    # `^name` is a control input, `name:1` one of several outputs.
    return {name.lstrip("^").partition(":")[0] for name in tensors}


def _ancestors(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """These nodes, and all that they are computed from or wait for."""
    by_name = {node.name: node for node in nodes}
    ancestors: dict[str, Any] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in ancestors:
            ancestors[name] = by_name[name]
            waiting += [given.lstrip("^").partition(":")[0] for given in by_name[name].input]
    return list(ancestors.values())


def _notes_of_keras(path: Path) -> list[str]:
    """What Keras 2 writes beside the graph, one text a layer."""
    file = path / "keras_metadata.pb"
    if not file.is_file():
        return []
    from google.protobuf.message import DecodeError
    from tf_keras.protobuf import saved_metadata_pb2

    document = saved_metadata_pb2.SavedMetadata()
    try:
        document.ParseFromString(file.read_bytes())
    except (DecodeError, OSError) as e:
        raise InputError(f"{path}: a truncated or damaged keras_metadata.pb: {e}") from e
    return [node.metadata for node in document.nodes]


def _inspect_notes(notes: Iterable[str], path: Path) -> None:
    for text in notes:
        if text:
            try:
                config = json.loads(text)
            except (ValueError, RecursionError) as e:
                raise InputError(f"{path}: damaged: a layer is described by what is no JSON") from e
            _inspect_code(config, path)
