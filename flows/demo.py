"""``make demo``: two models trained here, each deployed to all three platforms, and one table."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.child import deferred, run_in_child
from edgewright.errors import EdgewrightError
from edgewright.pipeline.orchestration import configure_orchestration
from edgewright.pipeline.result import DeploymentResult
from edgewright.pipeline.steps_shown import steps_shown
from edgewright.pipeline.table import explanation, results_markdown, results_table
from edgewright.profile import Platform
from edgewright.progress import progress
from edgewright.store import home, replace_file
from edgewright.terminal import terminal

if TYPE_CHECKING:
    from edgewright.demo import make_breast_cancer, make_digits_cnn
else:
    make_breast_cancer = deferred("edgewright.demo:make_breast_cancer")
    make_digits_cnn = deferred("edgewright.demo:make_digits_cnn")

console = terminal()

# (made by, model, data, target) of each model
_MODELS = (
    (make_digits_cnn, "digits_cnn.pt2", "digits.npz", None),
    (make_breast_cancer, "breast_cancer.pkl", "breast_cancer.yaml", None),
)


def main() -> None:
    """Train, deploy six times, print the table and where everything is."""
    configure_orchestration()
    began = time.perf_counter()
    results: list[DeploymentResult] = []
    with steps_shown():
        folder = _train_models()
        with progress.during("Starting the orchestrator"):
            from flows.edge_deployment import deploy
        for _, model, data, target in _MODELS:
            for platform in Platform:
                asked = {"model": folder / model, "data": folder / data, "target": target, "platform": platform.value}
                results.append(deploy(**asked))
    for result in results:
        console.print(result.device, style="bold", soft_wrap=True)
        console.print(explanation(result), soft_wrap=True, highlight=False)
    replace_file(home() / "demo" / "results.md", results_markdown(results).encode())
    console.print(results_table(results, console.width))
    console.print(f"{len(results)} deployments in {time.perf_counter() - began:.0f} s, training included.")
    console.print(f"Bundles      {home() / 'objects'}\nReleases     {home() / 'releases'}", soft_wrap=True)
    console.print(f"This table   {home() / 'demo' / 'results.md'}", soft_wrap=True)
    console.print("MLflow runs  experiment 'edgewright'; `edgewright ui` shows them and the Prefect runs:")
    console.print("             http://127.0.0.1:4200 (Prefect)   http://127.0.0.1:5000 (MLflow)")
    failed = [result for result in results if result.status == "failed"]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(results)} deployments failed: {failed[0].error}")


def _train_models() -> Path:
    folder = home() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for maker, model, data, _ in _MODELS:
        # Trained anew, a model would have other weights, and find no step in the cache.
        if not ((folder / model).exists() and (folder / data).exists()):
            with progress.during(f"Training {Path(model).stem}"):
                run_in_child(partial(maker, folder), what=f"training {Path(model).stem}", is_confined=False)
    return folder


if __name__ == "__main__":
    try:
        main()
    except EdgewrightError as e:
        raise SystemExit(f"error {e}") from e
