"""Integration code for one model on its platform: Swift, Kotlin or Python, with the model's own names and shapes.

The code stands in ``templates``, in Jinja's language; here are the values that it is filled with.
"""

import math
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgewright.errors import UnsupportedError
from edgewright.package.identifiers import argument_names, float_literal, remark, text_literal, type_name
from edgewright.portable_words import refuse_unportable
from edgewright.profile import ExportOptions
from edgewright_runtime.bundle.manifest import Manifest, TensorSpec

__all__ = ["write_snippet"]

_TEMPLATES = Path(__file__).parent / "templates"
# What each language's templates call the functions that make names and numbers of others safe.
_FILTERS: dict[str, dict[str, Callable[..., str]]] = {
    "swift": {"literal": partial(text_literal, language="swift"), "number": float_literal},
    "kotlin": {"literal": partial(text_literal, language="kotlin"), "number": partial(float_literal, suffix="f")},
    "python": {
        "docstring": lambda text: text.replace("\\", "\\\\"),
        "wrapped": lambda text: "\n# ".join(textwrap.wrap(text, 110)),
    },
}
_SCORES_ARE = {"values": "the predicted values", "classes": "the class index"}


class _Element(NamedTuple):
    """How the languages handle one number of a tensor."""

    kotlin: str
    buffer_method: str  # of ByteBuffer, after "get" and "put"
    swift: str
    multi_array: str  # Core ML's MLMultiArrayDataType
    bytes: int


_ELEMENTS = {
    "int8": _Element("ByteArray", "", "Int8", "int8", 1),
    "float32": _Element("FloatArray", "Float", "Float", "float32", 4),
    "int32": _Element("IntArray", "Int", "Int32", "int32", 4),
    # Core ML's MLMultiArray has no 64-bit integers: an app on iOS hands in 32 bits.
    "int64": _Element("LongArray", "Long", "Int32", "int32", 8),
}


class _Tensor(NamedTuple):
    """An input or output as an app's code handles it; ``size`` counts the numbers of one row."""

    spec: TensorSpec
    argument: str
    element: _Element
    size: int
    is_normalized: bool  # from the raw values that the app hands in


def write_snippet(folder: Path, manifest: Manifest, options: ExportOptions) -> Path:
    """Write the snippet for the manifest's platform into the bundle's folder.

    ``options`` are those that the model was exported with.

    Raises:
        UnsupportedError: a tensor of a type that an app cannot hand in.
    """
    match manifest.platform:
        case "ios":
            language, template, name = "swift", "ios.swift", f"{type_name(manifest.name)}.swift"
            values = _app_values(manifest)
        case "android":
            language, template, name = "kotlin", "android.kt", f"{type_name(manifest.name)}.kt"
            values = _app_values(manifest)
        case _:
            language, template, name = "python", "edge_device.py.txt", "example.py"
            values = {"extra": "litert" if manifest.format == "tflite" else "onnx"}
    shared = {"manifest": manifest, "options": options, "columns": _columns(manifest), "shapes": _shapes(manifest)}
    path = folder / name
    path.write_text(_environment(language).get_template(template).render(shared | values), encoding="utf-8")
    return path


def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - what is made is code; the filters escape for its language
        # A misspelt name fails here, not as a gap in an app's code.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"remark": remark, **_FILTERS[language]}
    return environment


def _app_values(manifest: Manifest) -> dict[str, Any]:
    arguments = argument_names(spec.name for spec in manifest.inputs)
    inputs = [_tensor(spec, argument, manifest) for spec, argument in zip(manifest.inputs, arguments, strict=True)]
    outputs = [_tensor(spec, "", manifest) for spec in manifest.outputs]
    answer = next(output for output in outputs if output.spec.name == manifest.scores.output)
    return {
        "type": type_name(manifest.name),
        "stem": Path(manifest.model).stem,
        "inputs": inputs,
        "outputs": outputs,
        "answer": answer,
        # One score is that of the second of two classes.
        "labels": manifest.labels or tuple(str(i) for i in range(max(answer.size, 2))),
        "scores_are": _SCORES_ARE.get(manifest.scores.kind, "probabilities, in the order of the labels"),
        "reads_texts": _reads_texts(manifest),
        "mean": manifest.preprocessing.mean,
        "scale": manifest.preprocessing.scale,
    }


def _tensor(spec: TensorSpec, argument: str, manifest: Manifest) -> _Tensor:
    if spec.dtype not in _ELEMENTS:
        raise UnsupportedError(
            f"no integration code for tensor '{spec.name}' of type {spec.dtype}; known: {', '.join(_ELEMENTS)}"
        )
    is_real = spec.dtype == "float32" or spec.scale is not None
    changes = (manifest.preprocessing.scale, manifest.preprocessing.mean) != (1.0, 0.0)
    return _Tensor(spec, argument, _ELEMENTS[spec.dtype], math.prod(spec.shape[1:]), is_real and changes)


def _reads_texts(manifest: Manifest) -> bool:
    """Whether a column is text; how it is cut must be one that the app's language can follow."""
    rules = [column.words for column in manifest.preprocessing.columns if column.words is not None]
    for words in rules:
        refuse_unportable(words, manifest.platform)
    return bool(rules)


def _columns(manifest: Manifest) -> str:
    return ", ".join(dict.fromkeys(remark(column.name) for column in manifest.preprocessing.columns))


def _shapes(manifest: Manifest) -> str:
    kinds = [i.dtype if i.scale is None else "real" for i in manifest.inputs]
    return "; ".join(
        f"{remark(i.name)} {list(i.shape[1:])} {kind}" for i, kind in zip(manifest.inputs, kinds, strict=True)
    )
