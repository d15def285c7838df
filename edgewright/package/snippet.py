"""Integration code for one model on its platform: Swift, Kotlin or Python, with the model's own names and shapes."""

import json
import math
import re
import textwrap
from pathlib import Path

from edgewright.errors import UnsupportedError
from edgewright.package.identifiers import argument_names, float_literal, type_name
from edgewright.portable_words import refuse_unportable
from edgewright.profile import ExportOptions
from edgewright_runtime.bundle.manifest import Manifest, TensorSpec

__all__ = ["write_snippet"]

_TEMPLATES = Path(__file__).parent / "templates"
_NUMPY_IMPORTS = "from pathlib import Path\n\nimport numpy as np\n"
_UNDERSCORE = {"kotlin": r"\u005f", "swift": r"\u{5f}"}
_JSON_IMPORTS = "import json\nfrom pathlib import Path\n"
# dtype: (Kotlin array, ByteBuffer method, Swift element, MLMultiArray type, bytes)
_ELEMENTS = {
    "int8": ("ByteArray", "", "Int8", "int8", 1),
    "float32": ("FloatArray", "Float", "Float", "float32", 4),
    "int32": ("IntArray", "Int", "Int32", "int32", 4),
    "int64": ("LongArray", "Long", "Int32", "int32", 8),
}


def write_snippet(folder: Path, manifest: Manifest, options: ExportOptions) -> Path:
    """Write the snippet for the manifest's platform into the bundle's folder.

    ``options`` are those that the model was exported with.

    Raises:
        UnsupportedError: a tensor of a type that an app cannot hand in.
    """
    match manifest.platform:
        case "ios":
            name, content = _swift(manifest, options)
        case "android":
            name, content = _kotlin(manifest)
        case _:
            name, content = _python(manifest)
    left = re.search(r"__[A-Z_]+__", content)
    if left:
        raise ValueError(f"template {name}: {left.group()} was not filled in")
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def _kotlin(manifest: Manifest) -> tuple[str, str]:
    answer = _answer(manifest)
    classifies = manifest.task == "classification"
    table = bool(manifest.preprocessing.columns)
    content = _filled(
        "android.kt",
        PREDICT=_kotlin_table(manifest) if table else _kotlin_arrays(manifest),
        FIELDS=f"    private val labels = listOf({_quoted(_labels(manifest), 'kotlin')})\n" if classifies else "",
        LABEL_FIELD="val label: String, " if classifies else "",
        OUTPUTS="\n".join(
            f"        answers[{_literal(o.name, 'kotlin')}] = buffer({_ELEMENTS[o.dtype][4] * _row_size(o)})"
            for o in manifest.outputs
        ),
        INTERPRET=_kotlin_meaning(manifest),
        TEXT_IMPORTS="import android.icu.lang.UCharacter\n" if _reads_texts(manifest) else "",
        MORE_IMPORTS="import java.text.Normalizer\nimport java.util.Locale\n" if _reads_texts(manifest) else "",
        READ_ANSWER=_kotlin_read(answer),
        ANSWER_SIZE=str(_row_size(answer)),
        **_common(manifest, "kotlin"),
    )
    return f"{type_name(manifest.name)}.kt", content


def _kotlin_table(manifest: Manifest) -> str:
    spec = manifest.inputs[0]
    put = _kotlin_put("features", "value", spec, " " * 12)
    counted = '        if (column.getString("kind") == "text") return counts(text, i)\n'
    return _filled(
        "android_table.kt",
        BYTES=str(_ELEMENTS[spec.dtype][4]),
        WIDTH=str(manifest.preprocessing.width),
        PUT="\n".join(put),
        TEXT=counted if _reads_texts(manifest) else "",
        TERMS=_template("android_terms.kt") if _reads_texts(manifest) else "",
    )


def _kotlin_put(buffer: str, value: str, spec: TensorSpec, indent: str) -> list[str]:
    """Append a real value as the tensor stores it."""
    if spec.scale is None:
        return [f"{indent}{buffer}.put{_ELEMENTS[spec.dtype][1]}({value})"]
    return [
        f"{indent}val steps = Math.round({value} / {float_literal(spec.scale, 'f')}) + ({spec.zero_point})",
        f"{indent}{buffer}.put(steps.coerceIn(-128, 127).toByte())",
    ]


def _kotlin_read(spec: TensorSpec) -> str:
    stored = f"answer.get{_ELEMENTS[spec.dtype][1]}()"
    if spec.scale is None:
        return f"{stored}.toFloat()"
    return f"({stored} - ({spec.zero_point})) * {float_literal(spec.scale, 'f')}"


def _kotlin_arrays(manifest: Manifest) -> str:
    arguments = ", ".join(f"{name}: {_kotlin_array(i)}" for i, name in _arguments(manifest))
    lines = [f"    /** Raw values, row by row: {_shapes(manifest)}. */", f"    fun predict({arguments}): Prediction {{"]
    for spec, name in _arguments(manifest):
        size, width = _row_size(spec), _ELEMENTS[spec.dtype][4]
        put = _kotlin_put(f"{name}Buffer", _scaled("value", manifest, spec, "f"), spec, " " * 12)
        lines += [
            f'        require({name}.size == {size}) {{ "{name}: {size} values are needed, found ${{{name}.size}}" }}',
            f"        val {name}Buffer = buffer({width * size})",
            f"        for (value in {name}) {{",
            *put,
            "        }",
            f"        {name}Buffer.rewind()",
        ]
    pairs = ", ".join(f"{_literal(i.name, 'kotlin')} to {name}Buffer" for i, name in _arguments(manifest))
    return "\n".join([*lines, f"        return run(mapOf({pairs}))", "    }", ""])


def _kotlin_array(spec: TensorSpec) -> str:
    return "FloatArray" if spec.scale is not None else _ELEMENTS[spec.dtype][0]


def _kotlin_meaning(manifest: Manifest) -> str:
    kind, width = manifest.scores.kind, _row_size(_answer(manifest))
    if kind == "values":
        return "        return Prediction(raw)"
    if kind == "classes":
        return "        return Prediction(labels[Math.round(raw[0])], raw)"
    lines = {
        (True, True): ["val positive = 1f / (1f + exp(-raw[0]))", "val scores = floatArrayOf(1f - positive, positive)"],
        (True, False): ["val scores = floatArrayOf(1f - raw[0], raw[0])"],
        (False, True): [
            "val peak = raw.max()",
            "val raised = FloatArray(raw.size) { exp(raw[it] - peak) }",
            "val total = raised.sum()",
            "val scores = FloatArray(raw.size) { raised[it] / total }",
        ],
        (False, False): ["val scores = raw"],
    }[width == 1, kind == "logits"]
    lines += ["val best = scores.indices.maxByOrNull { scores[it] } ?: 0", "return Prediction(labels[best], scores)"]
    return "\n".join(f"        {line}" for line in lines)


def _swift(manifest: Manifest, options: ExportOptions) -> tuple[str, str]:
    classifies = manifest.task == "classification"
    table = bool(manifest.preprocessing.columns)
    fields = f"    private let labels = [{_quoted(_labels(manifest), 'swift')}]\n" if classifies else ""
    content = _filled(
        "ios.swift",
        IMPORTS="import CoreGraphics\n" if options.image_inputs else "",
        PREDICT=_swift_predict(manifest, options),
        ANSWER_VALUES=_template(
            "ios_by_label.swift" if options.class_labels and manifest.labels else "ios_array.swift"
        ),
        INIT=_template("ios_table_init.swift") if table else "",
        FIELDS=fields + ("    private let columns: [Column]\n" if table else ""),
        LABEL_FIELD="        let label: String\n" if classifies else "",
        INTERPRET=_swift_meaning(manifest),
        **_common(manifest, "swift"),
    )
    return f"{type_name(manifest.name)}.swift", content


def _swift_predict(manifest: Manifest, options: ExportOptions) -> str:
    if manifest.preprocessing.columns:
        return _filled(
            "ios_table.swift",
            WIDTH=str(manifest.preprocessing.width),
            TEXT="        if !column.words.isEmpty { return counts(text, column) }\n" if _reads_texts(manifest) else "",
            TERMS=_template("ios_terms.swift") if _reads_texts(manifest) else "",
        )
    return _swift_images(manifest) if options.image_inputs else _swift_arrays(manifest)


def _swift_images(manifest: Manifest) -> str:
    arguments = ", ".join(f"{name}: CGImage" for _, name in _arguments(manifest))
    sizes = "; ".join(f"{_remark(i.name)} {i.shape[3]} x {i.shape[2]} pixels" for i in manifest.inputs)
    names = [(_literal(i.name, "swift"), argument) for i, argument in _arguments(manifest)]
    values = [f"            {name}: try self.image({argument}, for: {name})," for name, argument in names]
    return "\n".join(
        [
            "",
            f"    /// Images, scaled to {sizes}; the file holds their normalization.",
            f"    func predict({arguments}) throws -> Prediction {{",
            "        return try run([",
            *values,
            "        ])",
            "    }",
            _template("ios_image.swift"),
        ]
    )


def _swift_arrays(manifest: Manifest) -> str:
    arguments = ", ".join(f"{name}: [{_ELEMENTS[i.dtype][2]}]" for i, name in _arguments(manifest))
    lines = [
        "",
        f"    /// Raw values, row by row: {_shapes(manifest)}.",
        f"    func predict({arguments}) throws -> Prediction {{",
    ]
    for spec, name in _arguments(manifest):
        size, element = _row_size(spec), _ELEMENTS[spec.dtype][3]
        shape = ", ".join(str(d) for d in (1, *spec.shape[1:]))
        value = _scaled(f"{name}[i]", manifest, spec, "")
        lines += [
            f"        guard {name}.count == {size} else {{",
            f"            throw {type_name(manifest.name)}Error.badInput(",
            f'                "{name}: {size} values are needed, found \\({name}.count)")',
            "        }",
            f"        let {name}Array = try MLMultiArray(shape: [{shape}], dataType: .{element})",
            f"        for i in 0..<{size} {{ {name}Array[i] = NSNumber(value: {value}) }}",
        ]
    pairs = ", ".join(f"{_literal(i.name, 'swift')}: {name}Array" for i, name in _arguments(manifest))
    return "\n".join([*lines, f"        return try run([{pairs}])", "    }", ""])


def _swift_meaning(manifest: Manifest) -> str:
    kind, width = manifest.scores.kind, _row_size(_answer(manifest))
    if kind == "values":
        return "        return Prediction(scores: raw)"
    if kind == "classes":
        return "        return Prediction(label: labels[Int(raw[0].rounded())], scores: raw)"
    lines = {
        (True, True): ["let positive = 1 / (1 + exp(-raw[0]))", "let scores = [1 - positive, positive]"],
        (True, False): ["let scores = [1 - raw[0], raw[0]]"],
        (False, True): [
            "let peak = raw.max() ?? 0",
            "let raised = raw.map { exp($0 - peak) }",
            "let total = raised.reduce(0, +)",
            "let scores = raised.map { $0 / total }",
        ],
        (False, False): ["let scores = raw"],
    }[width == 1, kind == "logits"]
    lines += [
        "let best = scores.indices.max { scores[$0] < scores[$1] } ?? 0",
        "return Prediction(label: labels[best], scores: scores)",
    ]
    return "\n".join(f"        {line}" for line in lines)


def _python(manifest: Manifest) -> tuple[str, str]:
    arrays = not manifest.preprocessing.columns and len(manifest.inputs) == 1
    columns = ", ".join(dict.fromkeys(_remark(c.name) for c in manifest.preprocessing.columns))
    show = 'print(prediction.labels[0], f"{prediction.scores[0].max():.3f}")'
    return "example.py", _filled(
        "edge_device.py.txt",
        EXTRA={"onnx": "onnx", "tflite": "litert"}.get(manifest.format, "onnx"),
        IMPORTS="from pathlib import Path\n\nimport numpy as np"
        if arrays
        else "import json\nfrom pathlib import Path\n",
        INPUTS=_comment(f"Columns: {columns}" if columns else f"Inputs: {_shapes(manifest)}"),
        EXAMPLE='example = np.load(Path(__file__).parent / "example.npy")'
        if arrays
        else 'example = json.loads((Path(__file__).parent / "example.json").read_text())',
        SHOW=show if manifest.task == "classification" else "print(prediction.scores[0])",
        NAME=_remark(manifest.name).replace("\\", "\\\\"),
    )


def _reads_texts(manifest: Manifest) -> bool:
    """Whether a column is text; how it is cut must be one that the app's language can follow."""
    found = [column.words for column in manifest.preprocessing.columns if column.words is not None]
    for words in found:
        refuse_unportable(words, manifest.platform)
    return bool(found)


def _common(manifest: Manifest, language: str) -> dict[str, str]:
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.dtype not in _ELEMENTS:
            raise UnsupportedError(
                f"no integration code for tensor '{spec.name}' of type {spec.dtype}; known: {', '.join(_ELEMENTS)}"
            )
    return {
        "NAME": _remark(manifest.name),
        "TYPE": type_name(manifest.name),
        "FILE": manifest.model,
        "STEM": Path(manifest.model).stem,
        "INPUT": _literal(manifest.inputs[0].name, language)[1:-1],
        "ANSWER": _literal(manifest.scores.output, language)[1:-1],
        "COLUMNS": ", ".join(dict.fromkeys(_remark(c.name) for c in manifest.preprocessing.columns)),
        "SCORES_ARE": {"values": "the predicted values", "classes": "the class index"}.get(
            manifest.scores.kind, "probabilities, in the order of the labels"
        ),
    }


def _filled(template: str, **values: str) -> str:
    content = _template(template)
    # Fragments hold tokens of their own, so the second round fills those.
    for _ in range(2):
        for key, value in values.items():
            content = content.replace(f"__{key}__", value)
    return content


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _answer(manifest: Manifest) -> TensorSpec:
    return next(spec for spec in manifest.outputs if spec.name == manifest.scores.output)


def _labels(manifest: Manifest) -> tuple[str, ...]:
    width = max(_row_size(_answer(manifest)), 2)
    return manifest.labels or tuple(str(i) for i in range(width))


def _row_size(spec: TensorSpec) -> int:
    return math.prod(spec.shape[1:])


def _shapes(manifest: Manifest) -> str:
    kinds = [i.dtype if i.scale is None else "real" for i in manifest.inputs]
    return "; ".join(
        f"{_remark(i.name)} {list(i.shape[1:])} {kind}" for i, kind in zip(manifest.inputs, kinds, strict=True)
    )


def _scaled(value: str, manifest: Manifest, spec: TensorSpec, suffix: str) -> str:
    done = manifest.preprocessing
    if (spec.dtype != "float32" and spec.scale is None) or (done.scale, done.mean) == (1.0, 0.0):
        return value
    return f"({value} - {float_literal(done.mean, suffix)}) * {float_literal(done.scale, suffix)}"


def _arguments(manifest: Manifest) -> list[tuple[TensorSpec, str]]:
    """Each input, and what the method that takes it calls it."""
    return list(zip(manifest.inputs, argument_names(i.name for i in manifest.inputs), strict=True))


def _remark(text: str) -> str:
    """Text of others in a comment: on one line, and unable to end the comment or to pass for a token of a template."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    for ending in ("*/", "/*", '"""', "__"):
        while ending in shown:
            shown = shown.replace(ending, f"{ending[:1]} {ending[1:]}")
    return shown


def _quoted(words: tuple[str, ...], language: str) -> str:
    return ", ".join(_literal(word, language) for word in words)


def _literal(word: str, language: str) -> str:
    """A text as a string literal, in which nothing passes for a token of a template."""
    escaped = "".join(_escaped(c, language) for c in word).replace("__", f"_{_UNDERSCORE[language]}")
    return f'"{escaped}"'


def _escaped(character: str, language: str) -> str:
    if character in '"\\' or (
        character == "$" and language == "kotlin"
    ):  # Kotlin interpolates, Swift knows no such escape
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\u{{{ord(character):x}}}" if language == "swift" else json.dumps(character)[1:-1]


def _comment(text: str) -> str:
    return "\n# ".join(textwrap.wrap(text, 110))
