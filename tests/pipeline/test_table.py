"""What the final table and the lines below it say."""

import io
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.pipeline.cli import app
from edgewright.pipeline.result import DeploymentResult, Optimization, Step
from edgewright.pipeline.table import explanation, results_table
from edgewright.profile import Platform
from edgewright_runtime.bundle.manifest import TensorSpec

FAILED = DeploymentResult(
    status="failed",
    deployment_id="d",
    completed_stages=(),
    error="no",
    platform=Platform.ANDROID,
    device="pixel_8",
    recipe="int8",
    seconds=1.0,
)


def _artifact(size: int, form: Format = Format.TFLITE) -> Artifact:
    return Artifact(path=Path("m.tflite"), format=form, digest=f"{size:064x}", size_bytes=size)


def _exported(size: int, precision: Precision) -> Exported:
    spec = (TensorSpec("x", (1, 3), "float32"),)
    return Exported(
        artifact=_artifact(size), precision=precision, inputs=spec, outputs=spec, runtime="litert", runtime_floor="1"
    )


@pytest.fixture
def optimized() -> DeploymentResult:
    spec = (TensorSpec("x", (1, 3), "float32"),)
    model = ImportedModel(
        name="[/red] model",
        source=_artifact(1),
        onnx=_artifact(2),
        graph=None,
        inputs=spec,
        outputs=spec,
        task=ModelTask.CLASSIFICATION,
    )
    dataset = Dataset(artifact=_artifact(3, Format.DATASET), calibration_rows=1, validation_rows=1, test_rows=1)
    before, after = _exported(113_000, Precision.FLOAT32), _exported(118_000, Precision.INT8)
    step = Step(technique="quantize", parameters={}, exported=after, kept=True, reason="faster")
    made = Optimization(model=model, dataset=dataset, baseline=before, candidate=after, steps=(step,))
    return FAILED.model_copy(
        update={"optimization": made, "completed_stages": ("optimize",), "page": Path("/reports/d/report.html")}
    )


def _printed(result: DeploymentResult, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(results_table([result], width))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 200])
def test_figures_that_were_not_reached_are_left_out(optimized: DeploymentResult, width: int) -> None:
    said = _printed(optimized, width)
    assert "113.0 kB" in said
    assert "118.0 kB" in said
    assert "[/red] model" in said
    for absent in ("download", "accuracy", "p50", "peak MB"):
        assert absent not in said
    assert "verdict" in said


def test_lines_below_name_all_sizes_and_the_page(optimized: DeploymentResult) -> None:
    lines = explanation(optimized).splitlines()
    assert "on disk: float32 113.0 kB, quantize 118.0 kB" in lines
    assert "report: /reports/d/report.html" in lines


def test_run_that_failed_at_once_has_nothing_to_explain() -> None:
    assert explanation(FAILED) == ""


@pytest.mark.parametrize("reached", [False, True])
def test_failed_run_prints_what_it_came_to_and_why_it_ended(
    optimized: DeploymentResult, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    result = (optimized if reached else FAILED).model_copy(update={"error": "column '[/x]' is odd"})

    @contextmanager
    def orchestrated(_: str):
        yield SimpleNamespace(deploy=lambda **_: result)

    monkeypatch.setattr("edgewright.pipeline.orchestration.orchestrated", orchestrated)
    request = SimpleNamespace(name="m", model=None, data=None)
    monkeypatch.setattr("edgewright.pipeline.request.resolve", lambda _: request)
    monkeypatch.setattr("edgewright.intake.preflight", lambda *_: None)

    done = CliRunner().invoke(app, ["deploy", "m.pkl", "--data", "d.csv", "--platform", "android"])

    assert done.exit_code == 1, done.output
    assert f"failed after {int(reached)} of 5 stages: column '[/x]' is odd" in done.stderr
    assert ("118.0 kB" in done.stdout) == reached
    if not reached:
        assert done.stdout == ""
