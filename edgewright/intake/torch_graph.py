"""The internal model file: one ``.safetensors`` with the tensors, and the graph as JSON in its metadata.

No pickle: loading builds only the functions and layers named in `allowed`, and pure operations of ATen (`aten`). The
bytes depend on the model alone, so the same model has the same digest. Runs in a child process: imports torch.
"""

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import fx, nn

from edgewright.errors import InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.allowed import FUNCTION_NAMES, FUNCTIONS, LAYERS, RECURRENT
from edgewright.intake.aten import is_pure, named_operation, operation_name
from edgewright.intake.module_paths import place
from edgewright.store import replace_file

__all__ = ["load", "save"]

_SCHEMA = 2
_INPUT_RANGES = "input_ranges"  # of quantization-aware training: {layer: (step, zero point)}
_TARGET = re.compile(r"[A-Za-z0-9_.]+")
# What makes a recurrent layer; its own signature does not say.
_RECURRENT_ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "dropout")


def save(module: fx.GraphModule, path: Path) -> None:
    """Write a graph module as the importer emits it, also after its layers were changed.

    Raises:
        UnsupportedError: the graph holds a function or a layer that the format does not know.
    """
    used = {str(n.target) for n in module.graph.nodes if n.op == "call_module"}
    document = {
        "schema": _SCHEMA,
        "training": module.training,
        "nodes": [_node_to_json(n) for n in module.graph.nodes],
        "layers": {name: _layer_to_json(name, module.get_submodule(name)) for name in sorted(used)},
    }
    tensors, document["parameters"], document["shared"] = _tensors_of(module)
    # Left out where there is none, so that other graphs keep their bytes.
    if module.meta.get(_INPUT_RANGES):
        document[_INPUT_RANGES] = module.meta[_INPUT_RANGES]
    # Sorted and without spaces: the bytes, and so the digest, follow from the model alone.
    metadata = {"edgewright_graph": json.dumps(document, sort_keys=True, separators=(",", ":"))}
    replace_file(path, to_safetensors(tensors, metadata))


def load(path: Path) -> fx.GraphModule:
    """Read a file that `save` wrote.

    Raises:
        InputError: the file is not one, is damaged, or names a function or layer outside the allow-list.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        document = json.loads(metadata["edgewright_graph"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError, RecursionError) as e:
        raise InputError(f"{path}: not a readable Edgewright graph: {one_line(e, 200)}") from e
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a readable Edgewright graph: a {type(document).__name__}, not an object")
    if document.get("schema") != _SCHEMA:
        raise InputError(f"{path}: graph schema {document.get('schema')!r}; this version reads {_SCHEMA}")
    try:
        return _built(document, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, RecursionError) as e:
        raise InputError(f"{path}: damaged Edgewright graph: {one_line(e, 200)}") from e


def _tensors_of(module: fx.GraphModule) -> tuple[dict[str, torch.Tensor], list[str], dict[str, str]]:
    """Every tensor under its name; which of them are trained; the further names of shared ones, which stay one."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    persistent = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    shared = {}
    for name in sorted(persistent):
        # In the order of names, so that the first name does not depend on how the module was built.
        original = first.setdefault(id(persistent[name]), name)
        if original != name:
            shared[name] = original
    # safetensors writes whole memory: a view of a large tensor would take all of it along.
    tensors = {n: persistent[n].detach().cpu().contiguous().clone() for n in sorted(persistent) if n not in shared}
    return tensors, sorted(n for n in persistent if n in parameters), shared


def _built(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> fx.GraphModule:
    root = nn.Module()
    inside: set[str] = set()
    shared: dict[str, str] = document["shared"]
    # Loading by name asks for every name, those of shared tensors too.
    tensors = tensors | {name: tensors[original] for name, original in shared.items()}
    for name, description in document["layers"].items():
        layer = _layer_from_json(description, f"{name}.", tensors)
        # Tensors of layers are in them already; what is left are constants of the graph itself.
        inside.update(f"{name}.{key}" for key in layer.state_dict())
        place(root, name, layer)
    trained = set(document["parameters"])
    for name in sorted(set(tensors) - inside):
        place(root, name, _as_parameter(tensors[name]) if name in trained else tensors[name])
    # Last, since loading gave each of the names a tensor of its own.
    for name, original in shared.items():
        _tie(root, name, original)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    known = set(document["layers"]) | set(tensors)
    for description in document["nodes"]:
        nodes[description["name"]] = _node_from_json(graph, description, nodes, known)
    module = fx.GraphModule(root, graph)
    module.graph.lint()
    # A layer remembers on its own whether it trains; the flag of the whole is not handed down here.
    module.training = document["training"]
    if _INPUT_RANGES in document:
        ranges = document[_INPUT_RANGES]
        module.meta[_INPUT_RANGES] = {name: (float(step), int(zero)) for name, (step, zero) in ranges.items()}
    return module


def _as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=tensor.dtype.is_floating_point or tensor.dtype.is_complex)


def _tie(root: nn.Module, name: str, original: str) -> None:
    """Make one tensor of two names."""
    (holder, leaf), (owner, original_leaf) = (
        (root.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in (name, original)
    )
    setattr(holder, leaf, getattr(owner, original_leaf))


def _layer_to_json(name: str, layer: nn.Module) -> dict[str, Any]:
    kind = type(layer).__name__
    # A subclass has the same name, but not the same answers.
    if LAYERS.get(kind) is not type(layer):
        raise UnsupportedError(f"layer '{name}' of type {kind} has no place in an Edgewright graph file")
    arguments: dict[str, Any] = {}
    if kind in RECURRENT:
        arguments = {a: getattr(layer, a) for a in _RECURRENT_ARGUMENTS}
        arguments |= {"nonlinearity": layer.nonlinearity} if kind == "RNN" else {"proj_size": layer.proj_size}
        # What equals zero is a default, but for bias: False equals zero, and its default is True.
        arguments = {a: v for a, v in arguments.items() if v != 0 or a == "bias"}
    # Attributes bear the names of the arguments that they were made of, by torch's convention.
    for parameter in () if arguments else inspect.signature(type(layer).__init__).parameters:
        if parameter in {"self", "args", "kwargs", "device", "dtype", "inplace"} or not hasattr(layer, parameter):
            continue
        value = getattr(layer, parameter)
        # A constructor asks whether there is a bias; the layer holds the tensor, or None.
        if isinstance(value, torch.Tensor) or (parameter == "bias" and value is None):
            value = value is not None
        if not parameter.startswith("_"):
            arguments[parameter] = _to_json(value)
    arguments.update(_sizes_of(layer))
    description: dict[str, Any] = {"class": kind, "arguments": arguments, "training": layer.training}
    floats = [p.dtype for p in layer.parameters() if p.dtype.is_floating_point]
    if floats:
        description["dtype"] = str(floats[0]).removeprefix("torch.")
    return description


def _sizes_of(layer: nn.Module) -> dict[str, int]:
    """Channel counts by the weights themselves: attributes go stale when layers are pruned."""
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.weight.shape[1], "out_features": layer.weight.shape[0]}
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return {"in_channels": layer.weight.shape[0], "out_channels": layer.weight.shape[1] * layer.groups}
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return {"in_channels": layer.weight.shape[1] * layer.groups, "out_channels": layer.weight.shape[0]}
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and layer.running_mean is not None:
        return {"num_features": layer.running_mean.shape[0]}
    return {}


def _layer_from_json(description: dict[str, Any], prefix: str, tensors: dict[str, torch.Tensor]) -> nn.Module:
    arguments = {k: _from_json(v, {}) for k, v in description["arguments"].items()}
    with torch.device("meta"):  # no time is spent on initial weights
        layer = LAYERS[description["class"]](**arguments)
    if "dtype" in description:
        layer = layer.to(getattr(torch, description["dtype"]))
    own = {key: tensors[prefix + key] for key in layer.state_dict()}
    layer.load_state_dict(own, assign=True)
    return layer.train(description["training"])


def _node_to_json(node: fx.Node) -> dict[str, Any]:
    target = node.target
    if node.op == "call_function":
        if target not in FUNCTION_NAMES and not is_pure(target):
            raise UnsupportedError(f"function {target} (node '{node.name}') has no place in an Edgewright graph file")
        target = FUNCTION_NAMES[target] if target in FUNCTION_NAMES else operation_name(target)
    elif node.op == "call_method":
        raise UnsupportedError(f"method call '{target}' (node '{node.name}') has no place in an Edgewright graph file")
    described = {"op": node.op, "name": node.name, "target": str(target), "args": _to_json(node.args)}
    return described | ({"kwargs": _to_json(node.kwargs)} if node.kwargs else {})


def _node_from_json(
    graph: fx.Graph, description: dict[str, Any], nodes: dict[str, fx.Node], known: set[str]
) -> fx.Node:
    op, target, name = description["op"], description["target"], description["name"]
    if op not in {"placeholder", "get_attr", "call_function", "call_module", "output"}:
        raise ValueError(f"node kind {op!r}")
    # fx writes names and targets into Python source: nothing but names may stand there.
    if not name.isidentifier() or not _TARGET.fullmatch(target):
        raise ValueError(f"name {name!r} or target {target!r}")
    if op in {"get_attr", "call_module"} and target not in known:
        raise ValueError(f"{op} of unknown {target!r}")
    args = _from_json(description["args"], nodes)
    kwargs = _from_json(description.get("kwargs", {"dict": {}}), nodes)
    # A target of ATen is looked up by its name only where it is pure; see `aten`.
    function = FUNCTIONS.get(target) or named_operation(target) if op == "call_function" else target
    if function is None:
        raise ValueError(f"function {target!r}")
    return graph.create_node(op, function, args, kwargs, name=name)


def _to_json(value: Any) -> Any:
    """JSON that tells lists from tuples and holds nodes, dtypes, slices and non-finite numbers."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, torch.Size | tuple):
        return {"tuple": [_to_json(v) for v in value]}
    if isinstance(value, list):
        return [_to_json(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _to_json(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_to_json(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device) and value.type == "cpu":
        return {"device": "cpu"}
    # JSON has no infinity and no NaN.
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UnsupportedError(f"a value of type {type(value).__name__} has no place in an Edgewright graph file")


def _from_json(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_from_json(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    match tag:
        case "node":
            return nodes[content]
        case "tuple":
            return tuple(_from_json(v, nodes) for v in content)
        case "dict":
            return {k: _from_json(v, nodes) for k, v in content.items()}
        case "slice":
            return slice(*(_from_json(v, nodes) for v in content))
        case "dtype":
            kind = getattr(torch, content)
            if not isinstance(kind, torch.dtype):
                raise ValueError(f"dtype {content!r}")  # noqa: TRY004 - the file is wrong, not the caller
            return kind
        case "float":
            return float(content)
        case "device":
            return torch.device("cpu")
        case _:
            raise ValueError(f"tag {tag!r}")
