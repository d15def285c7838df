"""Names of models, tensors, columns and labels in what is made of them, code, pages and tables: text, never more."""

import ast
import csv
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from edgewright.artifact import LayerNoise
from edgewright.package import Bundle
from edgewright.package.snippet import write_snippet
from edgewright.plain_text import csv_text, markdown_text
from edgewright.profile import ExportOptions
from edgewright.report.sensitivity import sensitivity_csv, sensitivity_svg
from edgewright_runtime.bundle.manifest import Manifest, TensorSpec
from edgewright_runtime.bundle.opening import open_bundle
from tests.bundles import table_parts

EVIL = [
    "*/ INJECTED() /*",
    "/* INJECTED",
    "x\nINJECTED()",
    'x"; INJECTED(); "',
    "x\\",
    "${INJECTED()}",
    "\\(INJECTED())",
    '"""\nINJECTED()\n"""',
    "\u2028INJECTED()\u202e",
    "__PREDICT__",
    "a__NAME__b",
    "\\N{BULLET}\\x",
    "x\rINJECTED()",
]


def code_of(text: str, interpolation: str) -> str:
    """Swift or Kotlin without its comments, which nest, and its string literals."""
    kept, at, depth = [], 0, 0
    while at < len(text):
        if text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif depth and text.startswith("*/", at):
            depth, at = depth - 1, at + 2
        elif depth:
            at += 1
        elif text.startswith("//", at):
            at = min((end for end in (text.find(c, at) for c in "\n\r") if end >= 0), default=len(text))
        elif text[at] == '"':
            at += 1
            while text[at] != '"':
                assert text[at] not in "\n\r", "a literal that does not end on its line"
                assert not text.startswith(interpolation, at), "an interpolation"
                at += 2 if text[at] == "\\" else 1
            at += 1
        else:
            kept.append(text[at])
            at += 1
    assert depth == 0, "a comment that does not end"
    return "".join(kept)


def evil(manifest: Manifest, name: str, platform: str) -> Manifest:
    """Every text of others is that name."""
    column = replace(manifest.preprocessing.columns[0], name=name)
    table = replace(manifest.preprocessing, columns=(column, *manifest.preprocessing.columns[1:]))
    return replace(
        manifest,
        name=name,
        platform=platform,
        labels=(name, "other"),
        inputs=tuple(replace(spec, name=name) for spec in manifest.inputs),
        outputs=tuple(replace(spec, name=name) for spec in manifest.outputs),
        scores=replace(manifest.scores, output=name),
        preprocessing=table,
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    bundle: Bundle = table_parts(tmp_path_factory.mktemp("bundle")).build()
    return open_bundle(bundle.artifact.path)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("arrays", [False, True], ids=["table", "arrays"])
def test_no_name_adds_code_to_a_snippet(manifest: Manifest, tmp_path: Path, name: str, arrays: bool) -> None:
    for platform in ("ios", "android", "edge_device"):
        asked = evil(manifest, name, platform)
        if arrays:
            two = (TensorSpec(name, (-1, 3), "float32"), TensorSpec("in", (-1, 2), "float32"))
            asked = replace(asked, inputs=two, preprocessing=replace(asked.preprocessing, columns=()))
        text = write_snippet(tmp_path, asked, ExportOptions()).read_text(encoding="utf-8")
        if platform == "edge_device":
            called = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            assert not any(isinstance(f, ast.Name) and f.id == "INJECTED" for f in called)
        else:
            code = code_of(text, "\\(INJECTED()" if platform == "ios" else "${INJECTED()")
            assert "INJECTED()" not in code  # a class or an argument may be called so, which calls nothing
            assert code.count("{") == code.count("}")
            assert "__" not in code


def test_markdown_and_spreadsheets_show_names_as_they_are() -> None:
    assert markdown_text("a|b\n<script> [x](y) `z` *w* a_b") == r"a\|b \<script\> \[x\](y) \`z\` \*w\* a_b"
    assert [csv_text(t) for t in ("=1+1", "@x", "-2", "conv1", "")] == ["'=1+1", "'@x", "'-2", "conv1", ""]


def test_a_layer_of_any_name_has_its_line_and_its_bar(tmp_path: Path) -> None:
    names = ["=cmd()", "a,b", 'q"', "$x_{$", "plain"]
    noise = tuple(LayerNoise(layer=name, signal_to_noise_db=20.0 + i) for i, name in enumerate(names))
    measured = table_parts(tmp_path).exported.model_copy(update={"sensitivity": noise, "float_layers": ("a,b",)})
    rows = list(csv.reader(io.StringIO(sensitivity_csv(measured).decode())))
    assert [row[0] for row in rows[1:]] == ["'=cmd()", *names[1:]]
    assert [row[2] for row in rows[1:]] == ["int8", "float", "int8", "int8", "int8"]
    drawn = re.findall(r">([^<>]*)</text>", sensitivity_svg(measured).decode())
    assert set(names) <= {unescape(text) for text in drawn}
