"""What an app's code calls the inputs, the class and the numbers of a model: valid, and no two alike."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgewright.package import Bundle
from edgewright.package.identifiers import argument_names, float_literal, type_name
from edgewright.package.snippet import write_snippet
from edgewright.profile import ExportOptions
from edgewright_runtime.bundle.manifest import Manifest, TensorSpec
from edgewright_runtime.bundle.opening import open_bundle
from tests.bundles import table_parts

ALIKE = [
    ("a-b", "a_b", "a b"),
    ("a", "aBuffer", "aArray"),
    ("aBuffer", "a"),
    ("", "日本", "модель"),
    ("1", "1x", "input_1"),
    ("class", "deinit", "Self", "object"),
    ("run", "value", "i", "buffer", "steps", "image", "mapOf"),
    ("a_2", "a", "a-"),
]
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    bundle: Bundle = table_parts(tmp_path_factory.mktemp("bundle")).build()
    return open_bundle(bundle.artifact.path)


@pytest.mark.parametrize("names", ALIKE)
def test_arguments_are_valid_and_no_two_alike(names: tuple[str, ...]) -> None:
    given = argument_names(names)
    declared = [name + ending for name in given for ending in ("", "Buffer", "Array")]
    assert len(set(declared)) == len(declared) == 3 * len(names)
    assert all(IDENTIFIER.fullmatch(name) for name in given)
    assert not set(given) & {"class", "deinit", "Self", "object", "run", "value", "i", "buffer", "steps", "mapOf"}


@pytest.mark.parametrize(("platform", "images"), [("ios", False), ("ios", True), ("android", False)])
@pytest.mark.parametrize("names", ALIKE)
def test_each_input_is_handed_in_under_its_own_name(
    manifest: Manifest, tmp_path: Path, names: tuple[str, ...], platform: str, images: bool
) -> None:
    shape = (-1, 3, 4, 4) if images else (-1, 3)
    inputs = tuple(TensorSpec(name, shape, "float32") for name in names)
    several = replace(
        manifest, platform=platform, inputs=inputs, preprocessing=replace(manifest.preprocessing, columns=())
    )
    text = write_snippet(tmp_path, several, ExportOptions(image_inputs=images)).read_text(encoding="utf-8")

    arguments = re.search(r"fun(?:c)? predict\(([^)]*)\)", text)
    assert arguments is not None
    declared = [argument.split(":")[0] for argument in arguments.group(1).split(", ")]
    made = {"ios": f"{{}}{'' if images else 'Array'}", "android": "{}Buffer"}[platform]
    pairs = {
        (False, "ios"): r'"([^"]*)": (\w+)',
        (False, "android"): r'"([^"]*)" to (\w+)',
        (True, "ios"): r'"([^"]*)": try self\.image\((\w+),',
    }[images, platform]
    called = text[text.index("return try run([" if platform == "ios" else "return run(mapOf(") :]
    handed_in = re.findall(pairs, called[: called.index("    }")])
    assert handed_in == [(name, made.format(argument)) for name, argument in zip(names, declared, strict=True)]


def test_a_class_is_called_like_no_type_that_the_code_uses() -> None:
    names = ["data", "set", "interpreter", "NS number", "range", "column", "", "модель", "3 layers", "plain net"]
    assert [type_name(name) for name in names] == [
        "ModelData",
        "ModelSet",
        "ModelInterpreter",
        "ModelNSNumber",
        "ModelRange",
        "ModelColumn",
        "Model",
        "Model",
        "Model3Layers",
        "PlainNet",
    ]


def test_every_type_of_a_template_is_taken() -> None:
    """Words with a capital in the code of both languages, without texts and remarks."""
    templates = Path(__file__).parents[2] / "edgewright" / "package" / "templates"
    for path in [*templates.glob("*.kt"), *templates.glob("*.swift")]:
        code = re.sub(
            r'"(\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|import [^\n]*|__[A-Z_]+__', "", path.read_text(), flags=re.DOTALL
        )
        for used in set(re.findall(r"(?<![\w.])[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", code)):
            assert type_name(used) != used, f"{path.name}: {used}"


@pytest.mark.parametrize(
    ("number", "literal"),
    [(3, "3.0f"), (3.0, "3.0f"), (np.float32(0.5), "0.5f"), (np.float64(1e-5), "1e-05f"), (-1.5, "-1.5f")],
)
def test_a_number_of_any_type_is_a_float_of_kotlin(number: float, literal: str) -> None:
    assert float_literal(number, "f") == literal
    assert float_literal(number) == literal[:-1]
