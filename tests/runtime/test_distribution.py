"""The runtime as a distribution of its own: old Python, standard library and numpy, light to import."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgewright_runtime

PACKAGE = Path(edgewright_runtime.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# The first names of what this distribution may import; the inference runtimes and psutil are extras.
ALLOWED = {*sys.stdlib_module_names, "numpy", "edgewright_runtime"}
EXTRAS = {"onnxruntime", "ai_edge_litert", "tflite_runtime", "psutil", "zstandard"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_module_is_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))

    unions_at_run_time = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"isinstance", "issubclass", "cast"}
        and any(isinstance(a, ast.BinOp) and isinstance(a.op, ast.BitOr) for a in node.args)
    ]
    assert not unions_at_run_time
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"zip", "dataclass"}:
            assert not {k.arg for k in node.keywords} & {"strict", "slots", "kw_only"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_module_imports_what_a_board_has(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])

    assert found <= ALLOWED | EXTRAS


def test_import_brings_no_framework_and_not_even_numpy() -> None:
    code = "import sys, json, edgewright_runtime; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    # -S: no site, so none of the environment's start-up files can import anything.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, capture_output=True, cwd=PACKAGE.parent, text=True
    )

    assert set(json.loads(done.stdout)) <= {*sys.stdlib_module_names, "edgewright_runtime", "__main__"}


def test_predictor_imports_numpy_alone() -> None:
    code = (
        "import sys, edgewright_runtime.predict.predictor, edgewright_runtime.update.updater\n"
        "print(*sorted(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    heavy = {"torch", "tensorflow", "onnx", "onnxruntime", "ai_edge_litert", "sklearn", "pandas", "pydantic", "prefect"}
    assert not heavy & set(done.stdout.split())
    assert "numpy" in done.stdout.split()


def test_wheel_holds_the_package_under_its_own_name(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=PACKAGE,
    )

    (wheel,) = tmp_path.glob("edgewright_runtime-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith("edgewright_runtime-")}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    modules = {f"edgewright_runtime/{m.relative_to(PACKAGE).as_posix()}" for m in MODULES}
    assert names == modules | {"edgewright_runtime/py.typed"}
    assert "Requires-Python: >=3.9" in metadata
    assert {line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")} == {
        "onnx",
        "litert",
        "monitor",
        "zstd",
    }
    run = "import edgewright_runtime.update.updater as u; print(u.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", run],
        env={"PYTHONPATH": str(wheel)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(wheel))
