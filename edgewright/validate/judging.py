"""How right a file is: by its true answers, by a metric, or by its source's answers alone."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import ImportedModel, Metric, ModelTask
from edgewright.child import run_in_child
from edgewright.data import NAMED_METRICS
from edgewright.measurement import Accuracy, AccuracyDrop, ClassAccuracy, Interval
from edgewright.statistics.accuracy import RowAnswers, accuracy_of, compare_accuracy, per_class
from edgewright.statistics.class_metrics import CLASSES, SCORES
from edgewright.statistics.fidelity import fidelity_drop, fidelity_of
from edgewright.statistics.metric import MetricFigures, judged_by
from edgewright.store import Store
from edgewright.validate.decision import Decision
from edgewright.validate.rows import HeldOut
from edgewright_runtime.bench.run import write_arrays

__all__ = ["Judgement", "answers_in", "judged", "truth_in"]

Arrays = Mapping[str, NDArray[np.float64]]


class Judgement(NamedTuple):
    """The source's figure, and, where the file's outputs are known, its own and what it loses."""

    source: Accuracy
    accuracy: Accuracy | None = None
    drop: AccuracyDrop | None = None
    per_class: tuple[ClassAccuracy, ...] = ()


def judged(
    model: ImportedModel, held_out: HeldOut, decision: Decision | None, outputs: Arrays | None, timeout_s: float
) -> Judgement:
    """``outputs`` are the file's own (N, ...) by name, None where nothing here runs it.

    Raises:
        InputError: no rows, true answers that never vary, or a metric that fails.
    """
    by_answers = None if model.task is ModelTask.NONE else _by_answers(model, held_out, decision, outputs)
    # A metric of the user's own decides; the classes are shown beside it where they are known.
    if model.metric is not None:
        own = _by_metric(model.metric, held_out, decision, outputs, timeout_s)
        return own if by_answers is None else own._replace(per_class=by_answers.per_class)
    return by_answers or _by_source(held_out, outputs)


def truth_in(model: ImportedModel, held_out: HeldOut) -> RowAnswers:
    """The true answers: class indices (N,), or numbers."""
    if model.task is ModelTask.CLASSIFICATION:
        return held_out.truth.astype(np.int64)
    return held_out.truth.astype(np.float64)


def answers_in(
    model: ImportedModel,
    outputs: Arrays,
    decision: Decision | None,
    predicted: NDArray[np.int64] | None = None,
) -> RowAnswers:
    """Class indices (N,), those the source itself gave where they are known; or a regressor's numbers."""
    if decision is None:
        return outputs[next((s.name for s in model.outputs if s.name in outputs), next(iter(outputs)))]
    return decision.classes(outputs) if predicted is None else predicted.astype(np.int64)


def _by_answers(
    model: ImportedModel, held_out: HeldOut, decision: Decision | None, outputs: Arrays | None
) -> Judgement:
    truth, source = truth_in(model, held_out), answers_in(model, held_out.reference, decision, held_out.predicted)
    before = accuracy_of(model.task, truth, source)
    if outputs is None:
        return Judgement(before)
    answers = answers_in(model, outputs, decision)
    return Judgement(
        before,
        accuracy_of(model.task, truth, answers),
        compare_accuracy(model.task, truth, source, answers),
        per_class(truth, source, answers, model.labels) if decision else (),
    )


def _by_source(held_out: HeldOut, outputs: Arrays | None) -> Judgement:
    before = fidelity_of(held_out.reference, held_out.reference)
    if outputs is None:
        return Judgement(before)
    return Judgement(before, fidelity_of(held_out.reference, outputs), fidelity_drop(held_out.reference, outputs))


def _by_metric(
    metric: Metric, held_out: HeldOut, decision: Decision | None, outputs: Arrays | None, timeout_s: float
) -> Judgement:
    named = NAMED_METRICS.get(metric.name)
    of_classes = decision if named is not None and named.task is ModelTask.CLASSIFICATION else None
    with Store().workspace() as scratch:
        files = [scratch / f"{name}.npz" for name in ("reference", "outputs", "answers")]
        write_arrays(files[0], _decided(of_classes, held_out.reference))
        write_arrays(files[2], {"y": held_out.truth})
        if outputs is not None:
            write_arrays(files[1], _decided(of_classes, outputs))
        # In a child: a function of the user's own may hang, or crash.
        job = partial(judged_by, metric, files[0], files[1] if outputs is not None else None, files[2])
        what = f"judging by the metric {metric.name}"
        figures = run_in_child(job, returns=MetricFigures, what=what, timeout_s=timeout_s).value
    source = _accuracy(metric, figures.source, held_out.count)
    if figures.candidate is None or figures.loss is None or figures.p_value is None:
        return Judgement(source)
    drop = AccuracyDrop(
        percent=100 * figures.loss.value,
        low_percent=100 * figures.loss.low,
        high_percent=100 * figures.loss.high,
        p_value=figures.p_value,
        test=f"paired bootstrap of {metric.name}",
        unit="percent of the source's",
    )
    return Judgement(source, _accuracy(metric, figures.candidate, held_out.count), drop)


def _decided(decision: Decision | None, outputs: Arrays) -> Arrays:
    """What metrics of classes read: scores (N, C), unless the model answers with the class alone, and classes (N,)."""
    if decision is None:
        return outputs
    classes = {CLASSES: decision.classes(outputs).astype(np.float64)}
    return classes if decision.is_class else {SCORES: decision.scores(outputs), **classes}


def _accuracy(metric: Metric, interval: Interval, rows: int) -> Accuracy:
    return Accuracy(metric=metric.name, rows=rows, **interval.model_dump())
