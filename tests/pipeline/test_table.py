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
from edgewright.pipeline.orchestration import configure_orchestration
from edgewright.pipeline.result import DeploymentResult, Optimization, Step
from edgewright.pipeline.steps_shown import steps_shown
from edgewright.pipeline.table import explanation, results_table
from edgewright.profile import Platform
from edgewright.progress import progress
from edgewright.terminal import terminal
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


@pytest.mark.parametrize("width", [80, 200])
def test_brackets_of_a_name_are_printed_as_they_are(optimized: DeploymentResult, width: int) -> None:
    named = optimized.optimization.model.model_copy(update={"name": "a[b] :x: [red]c"})
    result = optimized.model_copy(update={"optimization": optimized.optimization.model_copy(update={"model": named})})
    for console in (terminal(), Console()):
        console.file, console.width = io.StringIO(), width
        console.print(results_table([result], width))
        assert "a[b] :x: [red]c" in console.file.getvalue()


def test_two_steps_of_one_title_may_run_at_once() -> None:
    with steps_shown(), progress.during("Looking into x"), progress.during("Looking into x"):
        pass


def test_a_tilde_in_the_home_of_prefect_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an env file gives it, which no shell has expanded: Prefect itself does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", "~/prefect")
    monkeypatch.chdir(tmp_path)
    for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "1")
    for name in ("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "PREFECT_LOCAL_STORAGE_PATH", "EDGEWRIGHT_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    configure_orchestration()
    assert (tmp_path / "prefect").is_dir()
    assert not (tmp_path / "~").exists()
