"""A kept result is found again only while the code that made it is the same: all that a task reaches is in its key."""

import ast
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright import code_version
from edgewright.artifact import Format
from edgewright.export.reuse import reuse
from edgewright.recipe import Distill
from edgewright.store import Store
from tasks import optimize

ROOT = Path(__file__).parents[2]
OURS = ("edgewright", "edgewright_runtime")
NAME_FOR_OTHERS = {"edgewright.forking", "edgewright.recipe"}  # what others ask for; what `edgewright.optimize` calls
ENTRIES = (
    *("edgewright.export", "edgewright.optimize", "edgewright.intake", "edgewright.package"),
    *("edgewright.validate.evaluation", "edgewright.validate.performance", "edgewright.validate.emulation"),
)


def source(module: str) -> Path:
    """Its file; one that is not there is no module (but a name in one)."""
    base = ROOT / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def named_in(module: str) -> Iterator[str]:
    """What its text names as ``module`` or ``module:function``, as children and servers are told of code."""
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if re.fullmatch(r"edgewright(_runtime)?(\.\w+)+", name) and source(name).exists():
                yield name


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_called_by_its_name_alone_is_in_the_key_too(entry):
    """The graph of imports does not see such a call: an import for type checkers beside it tells of it."""
    reached = {name for name in code_version._reached((entry,)) if name.partition(".")[0] in OURS}
    assert len(reached) > 20
    for module in reached - NAME_FOR_OTHERS:
        assert set(named_in(module)) <= reached, module


@pytest.mark.parametrize("entry", ["edgewright.export", "edgewright.intake"])
@pytest.mark.parametrize("distribution", ["tensorflow", "keras", "torch", "onnxscript", "scikit-learn", "ml-dtypes"])
def test_another_version_of_a_library_is_another_key(entry, distribution, monkeypatch):
    code_version.code_version.cache_clear()
    before, real = code_version.code_version(entry), importlib.metadata.version
    code_version.code_version.cache_clear()
    assert code_version.code_version(entry) == before
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == distribution else real(name))
    code_version.code_version.cache_clear()
    assert code_version.code_version(entry) != before
    code_version.code_version.cache_clear()


@pytest.mark.parametrize(
    ("entry", "module", "is_reached"),
    [
        ("edgewright.export", "edgewright.export.litert", True),
        ("edgewright.export", "edgewright.export.diagnosis.finding", True),
        ("edgewright.export", "edgewright.intake.torch_graph", True),
        ("edgewright.export", "edgewright.cloud.app", False),
        ("edgewright.optimize", "edgewright.optimize.training", True),
        ("edgewright.validate.evaluation", "edgewright.export.mil_evaluator", True),
        ("edgewright.validate.evaluation", "edgewright_runtime.backends.litert", True),
        ("edgewright.intake", "edgewright.intake.keras_child", True),
    ],
)
def test_a_changed_line_is_another_key_where_it_runs(entry, module, is_reached, tmp_path, monkeypatch):
    code_version.code_version.cache_clear()
    before, real = code_version.code_version(entry), code_version._source
    changed = tmp_path / "changed.py"
    changed.write_text(f"{source(module).read_text()}\n# changed\n")
    monkeypatch.setattr(code_version, "_source", lambda name: changed if name == module else real(name))
    code_version.code_version.cache_clear()
    assert (code_version.code_version(entry) != before) == is_reached
    code_version.code_version.cache_clear()


def test_what_an_export_starts_from_is_made_anew_by_another_converter(tmp_path, monkeypatch):
    store, made = Store(tmp_path / "store"), []

    def convert(path):
        made.append(path)
        path.write_text(f"conversion {len(made)}")

    def again():
        return reuse(store, ("key",), convert, name="m.tflite", form=Format.TFLITE, parent=None)

    first = again()
    assert again() == first
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "tensorflow" else real(name))
    code_version.code_version.cache_clear()
    assert again() != first
    assert len(made) == 2
    code_version.code_version.cache_clear()


@pytest.mark.parametrize("layout", ["mine.py", "mine/__init__.py"], ids=["module", "package"])
def test_a_changed_student_of_the_users_own_is_distilled_anew(layout, tmp_path, monkeypatch):
    keys = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optimize, "run", lambda task, *values: keys.append((task.name, *values[1:])))
    file = tmp_path / layout
    file.parent.mkdir(exist_ok=True)
    for content in ("width = 1", "width = 1", "width = 2"):
        file.write_text(content)
        optimize.compress(None, Distill(student="mine:make"), None, None)
    optimize.compress(None, Distill(student="width"), None, None)
    assert keys[0] == keys[1] != keys[2]
    assert keys[0][-1] != keys[3][-1] == ""
