import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
LAYER_FILES = sorted([*(PROJECT / "flows").glob("*.py"), *(PROJECT / "tasks").glob("*.py")])
FRAMEWORKS = {
    "torch",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "sklearn",
    "coremltools",
    "litert_torch",
    "mlflow",
    "pandas",
}


@pytest.mark.parametrize("path", sorted((PROJECT / "flows").glob("*.py")), ids=lambda p: p.stem)
def test_no_flow_shadows_another_module(path: Path) -> None:
    # Prefect puts flows/ itself on sys.path: `flows/queue.py` would become `import queue`.
    if path.stem == "__init__":
        return
    assert path.stem not in sys.stdlib_module_names
    assert importlib.util.find_spec(path.stem) is None


@pytest.mark.parametrize("path", LAYER_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_flows_and_tasks_define_no_types(path: Path) -> None:
    # A file entrypoint loads its module a second time under another name: a class would exist twice.
    tree = ast.parse(path.read_text())
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] == []


def test_importing_the_flows_loads_no_framework() -> None:
    code = f"import sys, flows.edge_deployment, flows.serve; print(sorted({FRAMEWORKS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def test_deployments_name_flows_that_are_there_and_ship_paused() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert {d["name"] for d in deployments} == {"deploy", "monitor", "rollback", "validate"}
    for deployment in deployments:
        file, function = deployment["entrypoint"].split(":")
        names = [n.name for n in ast.walk(ast.parse((PROJECT / file).read_text())) if isinstance(n, ast.FunctionDef)]
        assert function in names
        assert all(schedule["active"] is False for schedule in deployment["schedules"])
    assert any(d["schedules"] for d in deployments)


def test_the_form_of_validation_asks_for_a_bundle_and_at_least_one_device() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.validate import validate_bundle

    schema = parameter_schema(validate_bundle).model_dump()
    assert [n for n, field in schema["properties"].items() if not field.get("description")] == []
    assert schema["required"] == ["bundle", "devices"]
    assert schema["properties"]["devices"]["minItems"] == 1


def test_the_form_has_a_description_for_every_parameter() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.edge_deployment import edge_deployment

    schema = parameter_schema(edge_deployment).model_dump()
    assert [n for n, field in schema["properties"].items() if not field.get("description")] == []
    assert schema["required"] == ["model", "data"]
    assert "ios" in str(schema["definitions"]["Platform"])
    assert "int8" in schema["properties"]["recipe"]["enum"]
    assert "generic_android" in str(schema["properties"]["device"])


def test_the_form_and_the_command_line_have_the_parameters_of_a_deployment() -> None:
    from prefect.utilities.callables import parameter_schema
    from typer.main import get_command

    from edgewright.pipeline.cli import app
    from edgewright.pipeline.parameters import DeploymentParameters
    from flows.edge_deployment import edge_deployment

    fields = set(DeploymentParameters.model_fields)
    assert set(parameter_schema(edge_deployment).model_dump()["properties"]) == fields
    command = get_command(app).commands["deploy"]
    assert {option.name for option in command.params} == fields - {"shapes"} | {"shape", "json_file"}
    helps = {option.name: option.help for option in command.params}
    assert all(
        helps[name] == field.description for name, field in DeploymentParameters.model_fields.items() if name in helps
    )
