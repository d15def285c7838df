"""The `.mlpackage` folder itself: manifest, program (protocol buffers) and weight file, without coremltools' converter.

Only coremltools' protobuf definitions are used, loaded under a name of their own: importing coremltools takes seconds.
"""

import importlib
import importlib.util
import json
import sys
import uuid
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from edgewright.errors import InputError
from edgewright.export.declaration import Declared
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["MASKS_NOTE", "load", "make_reproducible", "mil", "model_file", "operators", "program_of", "tensors"]

MASKS_NOTE = "edgewright.masks"  # written by `edgewright.export.coreml`
# Where coremltools puts the model: the manifest names the place, in the folder of data, and may name another.
_MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
_MANIFEST = "Manifest.json"
_PROTO = "edgewright_coreml_proto"
_IDENTITY = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace for URLs
# coremltools writes the day of conversion into the model; the same source must give the same bytes.
_TIME_STAMPS = ("com.github.apple.coremltools.conversion_date",)


def mil() -> ModuleType:
    """The protobuf definitions of the Model Intermediate Language, ``MIL_pb2``."""
    return _proto("MIL_pb2")


def model_file(path: Path) -> Path:
    """The file that holds the model of a package; weights lie beside it.

    Raises:
        InputError: the manifest is damaged, or names a file outside the package.
    """
    manifest = path / _MANIFEST
    if not manifest.is_file():
        return path / _MODEL
    try:
        content = json.loads(manifest.read_text())
        item = content.get("itemInfoEntries", {}).get(content.get("rootModelIdentifier"), {})
        file = path / "Data" / item["path"] if "path" in item else path / _MODEL
    except (ValueError, AttributeError, TypeError) as e:
        raise InputError(f"{manifest}: not the manifest of a Core ML package; export the model again") from e
    if not file.resolve().is_relative_to(path.resolve()):
        raise InputError(f"{manifest}: names the model '{item['path']}', which lies outside the package")
    return file


def load(path: Path) -> Any:
    """The model specification (``Model`` protobuf) of a package.

    Raises:
        InputError: the folder is not a Core ML package, or its program cannot be parsed.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    file = model_file(path)
    if not file.is_file():
        raise InputError(f"{path}: not a Core ML package ({file.relative_to(path)} is missing)")
    specification = _proto("Model_pb2").Model()
    try:
        specification.ParseFromString(file.read_bytes())
    except DecodeError as e:
        raise InputError(f"{file}: not a Core ML model: {e}") from e
    return specification


def program_of(specification: Any, path: Path) -> Any:
    """The block of operations that the model's main function runs.

    Raises:
        InputError: the package holds another kind of model than an ML program, or none of the blocks that it names.
    """
    kind = specification.WhichOneof("Type")
    if kind != "mlProgram":
        raise InputError(f"{path}: holds a Core ML '{kind}', only ML programs are read")
    # Asked first: of a map of protobuf, what is not in it reads as an empty one.
    functions = specification.mlProgram.functions
    if "main" not in functions:
        raise InputError(f"{path}: its ML program has the functions {sorted(functions)}, and 'main' is what is run")
    function = functions["main"]
    # A function may hold a block for each of several opsets; it runs the one that it names.
    if function.opset not in function.block_specializations:
        held = sorted(function.block_specializations)
        raise InputError(f"{path}: its main function is of opset '{function.opset}', and it holds those of {held}")
    return function.block_specializations[function.opset]


def operators(path: Path) -> Counter[str]:
    """How often each MIL operator stands in the program, constants left out."""
    return Counter(op.type for op in program_of(load(path), path).operations if op.type != "const")


def tensors(path: Path) -> Declared:
    """What a package declares."""
    description = load(path).description
    masks = description.metadata.userDefined.get(MASKS_NOTE, "")
    inputs, outputs = (tuple(map(_spec, side)) for side in (description.input, description.output))
    return Declared(inputs, outputs, notes=(masks,) if masks else ())


def make_reproducible(path: Path) -> None:
    """Rewrite what differs from run to run: random identifiers, the date, the order of protobuf maps."""
    specification = load(path)
    for key in _TIME_STAMPS:
        specification.description.metadata.userDefined.pop(key, None)
    model_file(path).write_bytes(specification.SerializeToString(deterministic=True))
    manifest = path / _MANIFEST
    content = json.loads(manifest.read_text())
    # coremltools draws these identifiers at random; they need only be distinct, as the items' paths are.
    renamed = {old: str(uuid.uuid5(_IDENTITY, item["path"])) for old, item in content["itemInfoEntries"].items()}
    content["itemInfoEntries"] = {renamed[old]: item for old, item in content["itemInfoEntries"].items()}
    content["rootModelIdentifier"] = renamed[content["rootModelIdentifier"]]
    manifest.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n")


def _proto(module: str) -> ModuleType:
    # A package whose path is coremltools' folder of definitions: the definitions import each other, not their parent.
    if _PROTO not in sys.modules:
        base = importlib.util.find_spec("coremltools")
        if base is None or not base.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'coremltools'; install edgewright[coreml]", name="coremltools")
        folder = Path(next(iter(base.submodule_search_locations))) / "proto"
        package = ModuleType(_PROTO)
        package.__path__ = [str(folder)]
        sys.modules[_PROTO] = package
    return importlib.import_module(f"{_PROTO}.{module}")


def _spec(feature: Any) -> TensorSpec:
    kind = feature.type.WhichOneof("Type")
    if kind != "multiArrayType":
        return TensorSpec(feature.name, (), kind.removesuffix("Type"))
    array = feature.type.multiArrayType
    return TensorSpec(feature.name, tuple(array.shape), array.ArrayDataType.Name(array.dataType).lower())
