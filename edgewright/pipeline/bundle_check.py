"""A finished bundle on a device, before it is released there: does it run, answer as it did, and keep the budget."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright.artifact import Artifact, Dataset, Exported, Format, Precision, digest_of, size_of
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.measurement import BudgetLine, Cost, Energy, Performance
from edgewright.package import BundleContent
from edgewright.profile import DeviceProfile
from edgewright.report.figures import NOT_MEASURED, energy_text, figure_text, percentiles
from edgewright.store import Store
from edgewright.validate import core_ml_units
from edgewright.validate.energy import energy_of
from edgewright.validate.evaluation import run_package
from edgewright.validate.performance import measure
from edgewright.validate.requirements import unmet
from edgewright.validate.targets import Target
from edgewright.validate.targets.choice import opened
from edgewright.validate.verdict import budget_lines
from edgewright.value import Value
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.predict.encoding import dequantize
from edgewright_runtime.update.golden import largest_difference, load_golden

__all__ = ["DeviceCheck", "ValidatedBundle", "check_bundle", "check_rows", "validated_bundle"]

SUSTAINED_S, QUICK_SUSTAINED_S = 60.0, 5.0


class DeviceCheck(Value):
    """One bundle on one device. ``difference`` is the largest of its golden outputs, as a share of what is allowed.

    ``checked_by`` names what ran them where it was not the target; ``failure`` says why the bundle does not run there
    at all; empty where it does.
    """

    device: str
    target: str
    failure: str = ""
    difference: float | None = None
    checked_by: str = ""
    performance: Performance | None = None
    lines: tuple[BudgetLine, ...] = ()
    energy: Energy | None = None

    @property
    def passed(self) -> bool:
        """Whether it runs, agrees with its golden vectors, and misses no limit."""
        return not self.failure and all(line.status != "missed" for line in self.lines)

    @property
    def whole(self) -> bool:
        """Everything that its verdict rests on was measured on the target."""
        unknown = any(line.status == "not measured" for line in self.lines)
        return not unknown and self.difference is not None and not self.checked_by

    @property
    def verdict(self) -> str:
        """In words; what was not measured is not said to be passed."""
        if self.passed:
            return "passed" if self.whole else "passed as far as it was measured"
        return self.failure or "; ".join(line.sentence() for line in self.lines if line.status == "missed")


class ValidatedBundle(Value):
    """A bundle's model as measurement takes it; ``golden`` holds its golden vectors in real units, with tolerances."""

    exported: Exported
    golden: Dataset
    tolerance: tuple[tuple[str, float], ...]


def validated_bundle(content: BundleContent, store: Store) -> ValidatedBundle:
    """The model and the golden vectors of a bundle, put into the store.

    Raises:
        InputError: the golden vectors cannot be read.
    """
    manifest, folder = content.manifest, content.artifact.path
    file = folder / manifest.model
    form = {"tflite": Format.TFLITE, "onnx": Format.ONNX, "mlpackage": Format.MLPACKAGE}[manifest.format]
    exported = Exported(
        artifact=Artifact(path=file, format=form, digest=digest_of(file), size_bytes=size_of(file)),
        precision=Precision(manifest.precision),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        runtime=manifest.runtime.name,
        runtime_floor=manifest.runtime.minimum_version,
        made_for=manifest.runtime.processor,
    )
    # The manifest's tolerances are in stored units, what is measured is in real ones.
    scale = {spec.name: spec.scale or 1.0 for spec in manifest.outputs}
    tolerance = tuple((name, allowed * scale[name]) for name, allowed in manifest.golden.tolerance.items())
    return ValidatedBundle(exported=exported, golden=_golden(content, store), tolerance=tolerance)


def _golden(content: BundleContent, store: Store) -> Dataset:
    """Golden inputs as test rows; golden outputs stand where the source model's answers do."""
    manifest = content.manifest
    try:
        inputs, outputs = load_golden(content.artifact.path / manifest.golden.path)
    except OSError as e:
        raise InputError(f"bundle {content.artifact.path}: golden vectors cannot be read: {e}") from e
    arrays = {f"test.x.{s.name}": dequantize(inputs[s.name], s) for s in manifest.inputs}
    arrays |= {f"test.reference.{s.name}": dequantize(outputs[s.name], s) for s in manifest.outputs}
    rows = manifest.golden.rows
    with store.workspace() as scratch:
        # A dataset's test rows have true answers: golden rows have none, and nothing looks at these.
        np.savez(scratch / "golden.npz", **arrays, **{"test.y": np.zeros(rows)})  # type: ignore[arg-type]
        artifact = store.put(scratch / "golden.npz", Format.DATASET)
    return Dataset(artifact=artifact, calibration_rows=0, validation_rows=0, test_rows=rows)


def check_bundle(
    bundle: ValidatedBundle, baseline: ValidatedBundle | None, device: DeviceProfile, *, quick: bool = False
) -> DeviceCheck:
    """Everything that the device's target can tell: it is nobody else's meanwhile.

    ``baseline`` is timed beside it, interleaved; left out, the bundle is timed against itself. ``quick`` heats for
    5 seconds instead of 60.

    Raises:
        DeviceUnreachableError: the target did not answer.
    """
    # Before the target is opened, which may be a board that somebody else measures on.
    if reasons := unmet(bundle.exported, device):
        return DeviceCheck(device=device.name, target="not tried", failure="; ".join(reasons))
    with opened(device) as target:
        check = DeviceCheck(device=device.name, target=target.name)
        try:
            difference, checked_by = _difference(target, bundle)
            # Time on an emulated device means nothing, so neither does heat.
            seconds = None if target.emulated else (QUICK_SUSTAINED_S if quick else SUSTAINED_S)
            # Alone it is timed against itself: what is seen then is the machine's noise.
            first = (baseline or bundle).exported
            performance = measure(
                first, bundle.exported, bundle.golden, device, target=target, sustained_seconds=seconds
            )
        except (ConversionError, UnsupportedError) as e:
            return check.model_copy(update={"failure": str(e)})
    # Not `difference > 1`: NaN has to count as too far.
    too_far = difference is not None and not difference <= 1
    return check.model_copy(
        update={
            "failure": f"golden outputs differ by {difference:.2g} times what is allowed" if too_far else "",
            "difference": difference,
            "checked_by": checked_by,
            "performance": performance,
            "lines": budget_lines(performance.candidate, device.budget),
            "energy": energy_of(performance.sustained, (), device),
        }
    )


def _difference(target: Target, bundle: ValidatedBundle) -> tuple[float | None, str]:
    """Largest difference of an output from its golden one over its tolerance, None where it gives none; and by what.

    Where Core ML is not, this project's evaluator of the package runs it.
    """
    model = bundle.exported
    with np.load(bundle.golden.artifact.path, allow_pickle=False) as stored, Store().workspace() as scratch:
        rows, answers = scratch / "rows.npz", scratch / "answers.npz"
        names = _names(model)
        write_arrays(rows, {name: stored[f"test.x.{name}"] for name in names[0]})
        try:
            if model.artifact.format is Format.MLPACKAGE and not core_ml_units.is_here():
                checked_by = run_package(model.artifact, (rows, answers), *names, _OUTPUTS_S)
            else:
                checked_by = _outputs(target, model, names, (rows, answers))
        except UnsupportedError:
            return None, ""
        outputs = read_arrays(answers)
        shares = [
            _share(_largest(outputs[name], stored[f"test.reference.{name}"]), allowed)
            for name, allowed in bundle.tolerance
        ]
        return max(shares), checked_by


_OUTPUTS_S = 300
_Names = tuple[tuple[str, ...], tuple[str, ...]]


def _outputs(target: Target, model: Exported, names: _Names, paths: tuple[Path, Path]) -> str:
    bench_model = BenchModel(str(model.artifact.path), model.artifact.format.value, *names)
    spec = BenchSpec("outputs", (bench_model,), str(paths[0]), outputs=str(paths[1]))
    target.run(spec, f"running {model.artifact.path.name} on {target.name}", _OUTPUTS_S)
    return ""


def _share(difference: float, allowed: float) -> float:
    """Of nothing allowed, as for class labels, any difference is infinitely much."""
    if allowed:
        return difference / allowed
    return float("inf") if difference else 0.0


def _largest(actual: np.ndarray, expected: np.ndarray) -> float:
    """Infinite where shapes differ or a number is NaN or infinite in one of them only: it exceeds every tolerance."""
    return largest_difference(actual, expected) if actual.shape == expected.shape else float("inf")


def _names(model: Exported) -> _Names:
    return tuple(spec.name for spec in model.inputs), tuple(spec.name for spec in model.outputs)


def check_rows(checks: Sequence[DeviceCheck]) -> list[dict[str, str]]:
    """A table: one row a device."""
    return [_row(check) for check in checks]


def _row(check: DeviceCheck) -> dict[str, str]:
    cost = check.performance.candidate if check.performance else None
    latency = cost.latency if cost else None
    one = cost.one_thread if cost else None
    sustained = check.performance.sustained if check.performance else None
    return {
        "device": check.device,
        "measured on": check.target,
        "verdict": check.verdict,
        "p50 / p95 ms": percentiles(latency),
        "p50 ms, 1 thread": figure_text("one_thread_p50_ms", one.p50_ms) if one else "",
        "added / peak MB": _memory(cost),
        "drift under heat": f"x{sustained.drift:.3f} in {sustained.seconds:g} s" if sustained else NOT_MEASURED,
        "energy": _energy(check.energy),
        "operators prefer": _planned(check.performance),
        "golden outputs": _golden_outputs(check),
        "latency against baseline": check.performance.verdict if check.performance else "",
    }


def _golden_outputs(check: DeviceCheck) -> str:
    if check.difference is None:
        return "not compared"
    return f"{check.difference:.2g} of what is allowed" + (f", by {check.checked_by}" if check.checked_by else "")


def _planned(performance: Performance | None) -> str:
    """Core ML's own plan; empty for other runtimes, which choose no device."""
    plan = performance.compute_plan if performance else None
    return ", ".join(f"{device} {count:,}" for device, count in plan.devices) if plan else ""


def _memory(cost: Cost | None) -> str:
    if cost is None or cost.added_memory_mb is None:
        return NOT_MEASURED
    added = figure_text("added_memory_mb", cost.added_memory_mb)
    if cost.peak_memory_mb is None:
        return added
    return f"{added} / {figure_text('peak_memory_mb', cost.peak_memory_mb)}"


def _energy(energy: Energy | None) -> str:
    if energy is None:
        return NOT_MEASURED
    return f"{energy_text(energy)} ({'estimate: ' if energy.estimated else ''}{energy.source})"
