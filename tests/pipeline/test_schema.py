"""The JSON schemas that editors complete from take what is shipped, and no misspelling."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from edgewright.pipeline.cli import app

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "profiles").rglob("*.yaml"))


def schema(kind: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["schema", kind])
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("kind", ["device", "recipe"])
def test_what_is_shipped_fits(kind: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(kind))
    files = [path for path in SHIPPED if path.parent.name == f"{kind}s"]
    assert len(files) > 3
    for path in files:
        validator.validate(yaml.safe_load(path.read_text()))


def test_a_data_file_fits_and_a_misspelt_key_does_not() -> None:
    validator = jsonschema.Draft202012Validator(schema("data"))
    validator.validate({"path": "d.npz", "task": "none", "scale": 0.5, "shapes": {"image": [1, 3, 8, 8]}})
    with pytest.raises(jsonschema.ValidationError, match="scael"):
        validator.validate({"path": "d.npz", "scael": 2})
