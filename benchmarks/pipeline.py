"""What orchestration and tracking cost: the pipeline against the same library calls in a plain script.

``make bench-pipeline`` runs it and writes ``benchmarks/results/pipeline.json``. Each run has an empty home of its own,
so nothing is cached; plain and orchestrated runs alternate. A run is one model to all three platforms: about a minute.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT = HERE / "results" / "pipeline.json"
PLATFORMS = ("ios", "android", "edge_device")
RECIPE = "int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", choices=("plain", "orchestrated"))
    parser.add_argument("--demo", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({"plain": plain, "orchestrated": orchestrated}[arguments.child](arguments.demo)))
        return
    with tempfile.TemporaryDirectory() as folder:
        demo = _train(Path(folder))
        runs: dict[str, list[dict[str, float]]] = {"plain": [], "orchestrated": []}
        for _ in range(arguments.repeats):
            for kind, done in runs.items():
                done.append(_in_new_home(kind, demo))
                print(kind, done[-1], flush=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(_summary(runs), indent=2) + "\n")
    print(RESULT.read_text())


def plain(demo: Path) -> dict[str, float]:
    """The library alone, in the order of the flows."""
    from edgewright import export, intake, monitor, package, release, validate
    from edgewright.artifact import Precision
    from edgewright.pipeline.parameters import DeploymentParameters
    from edgewright.pipeline.request import resolve
    from edgewright.recipe import Quantize
    from edgewright.store import Store, home

    began, store = time.perf_counter(), Store()
    first = resolve(DeploymentParameters.of(_asked(demo, PLATFORMS[0])))
    taken = intake.take_in(first.model, first.data, store)
    model, dataset = taken.model, taken.dataset
    for platform in PLATFORMS:
        request = resolve(DeploymentParameters.of(_asked(demo, platform)))
        device, limit = request.device, request.recipe.max_accuracy_drop_percent
        convert = {"instruction_set": device.instruction_set, "dot_products": device.dot_products}
        baseline = kept = export.export(model, dataset, device.platform, Precision.FLOAT32, store, **convert)
        for technique in request.recipe.techniques:
            assert isinstance(technique, Quantize)
            made = export.export(model, dataset, device.platform, Precision(technique.dtype), store, **convert)
            before, after = (validate.evaluate(model, dataset, e, split="validation") for e in (kept, made))
            cost = validate.measure(kept, made, dataset, device)
            kept = made if validate.benefit(before, after, cost, limit).useful else kept
        before, after = (validate.evaluate(model, dataset, e) for e in (baseline, kept))
        if kept is baseline:
            cost = validate.measure(baseline, kept, dataset, device)
        report = validate.judge(before, after, cost, request.budget, limit)
        bundle = package.build_bundle(
            model, dataset, kept, report, device, store, monitoring=monitor.MonitoringPlan().with_limits_of(report)
        )
        released = release.publish(bundle, str(home() / "releases"), platform)
        baseline = release.current_baseline(released.repository, released.channel)
        monitor.check_health(monitor.read_telemetry([]), baseline.plan, baseline.report)
    return {"seconds": time.perf_counter() - began}


def orchestrated(demo: Path) -> dict[str, float]:
    """The flows, with the embedded server's start apart; then the same again, and a resume after a failed release."""
    from edgewright.pipeline.orchestration import configure_orchestration

    configure_orchestration()
    began = time.perf_counter()
    from prefect import flow

    flow(lambda: None, name="empty")()
    server_start = time.perf_counter() - began
    from edgewright.store import home
    from flows.edge_deployment import deploy

    def run(**changes: Any) -> tuple[float, list[str]]:
        start = time.perf_counter()
        done = [deploy(**_asked(demo, p), channel=p, **changes).status for p in PLATFORMS]
        return time.perf_counter() - start, done

    seconds, first = run()
    unchanged = min(_one(deploy, demo) for _ in range(3))
    blocked = home() / "not-a-folder"
    blocked.write_text("a file where the repository should be")
    # A new recipe makes stages one to three new; stage four then fails on the blocked repository.
    asked = {**_asked(demo, "android"), "recipe": "float16", "channel": "android"}
    start = time.perf_counter()
    failed = deploy(**asked, repository=str(blocked))
    to_failure = time.perf_counter() - start
    start = time.perf_counter()
    resumed = deploy(**asked)
    resume = time.perf_counter() - start
    assert set(first) == {"succeeded"}, first
    assert failed.completed_stages == ("optimize", "validate", "package"), failed
    assert resumed.status == "succeeded", resumed.error
    return {
        "seconds": seconds,
        "server_start_s": server_start,
        "unchanged_rerun_s": unchanged,
        "to_failure_s": to_failure,
        "resume_s": resume,
    }


def _one(deploy: Any, demo: Path) -> float:
    start = time.perf_counter()
    assert deploy(**_asked(demo, "android"), channel="android").status == "succeeded"
    return time.perf_counter() - start


def _asked(demo: Path, platform: str) -> dict[str, Any]:
    return {"model": demo / "digits_cnn.pt2", "data": demo / "digits.npz", "platform": platform, "recipe": RECIPE}


def _train(folder: Path) -> Path:
    from edgewright.child import deferred, run_in_child

    run_in_child(
        partial(deferred("edgewright.demo:make_digits_cnn"), folder), what="training digits_cnn", writes=[folder]
    )
    return folder


def _in_new_home(kind: str, demo: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "EDGEWRIGHT_HOME": home,
            "PREFECT_HOME": f"{home}/prefect",
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        }
        environment.pop("PREFECT_API_URL", None)
        line = [sys.executable, __file__, "--child", kind, "--demo", str(demo)]
        done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    def median(kind: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[kind])

    plain_s, whole_s = median("plain", "seconds"), median("orchestrated", "seconds")
    return {
        "what": "digits CNN, int8, to three platforms; seconds of wall time, medians",
        "repeats": len(runs["plain"]),
        "plain_s": round(plain_s, 2),
        "orchestrated_s": round(whole_s, 2),
        "overhead_ratio": round(whole_s / plain_s - 1, 4),
        "server_start_s": round(median("orchestrated", "server_start_s"), 2),
        "unchanged_rerun_s": round(median("orchestrated", "unchanged_rerun_s"), 2),
        "to_failure_s": round(median("orchestrated", "to_failure_s"), 2),
        "resume_s": round(median("orchestrated", "resume_s"), 2),
        "runs": runs,
    }


if __name__ == "__main__":
    main()
