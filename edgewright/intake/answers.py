"""What the true answers mean to a model: classes, matched by number or by text, or values. No ML framework is imported.

The task is decided from the model's output and the answers together:

- A classifier that names its classes: answers are matched with them, 10.0 with 10 and "10", never by their order.
- A network with several scores a row, and whole numbers as answers (also 3.0): a classification.
- A network with one output, and answers that are 0 and 1: a classification of two classes. Two other whole numbers or
  texts are refused: `labels` must say which of them a high output means.
- Anything else that fits: a regression.

``task`` and ``labels`` of the data file decide otherwise; what then does not fit is refused.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright_runtime.bundle.manifest import TensorSpec
from edgewright_runtime.bundle.number_text import number_in

__all__ = [
    "Answers",
    "answers_of_classifier",
    "answers_of_network",
    "answers_of_regressor",
    "is_unjudged",
    "single_score_threshold",
]

_SHOWN = 8


@dataclass(frozen=True)
class Answers:
    """The true answers (N,): positions in ``labels`` (int64), or values (float64) where that is None.

    ``decides`` is the place of the output that they are compared with. Where they are not ``known`` to mean that, they
    are for a metric of the user's own, (N, ...) as they stand in the file, or stand for none.
    """

    y: NDArray[Any]
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    decides: int = 0
    known: bool = True

    @property
    def task(self) -> ModelTask:
        """What the answers are."""
        if not self.known:
            return ModelTask.NONE
        return ModelTask.REGRESSION if self.labels is None else ModelTask.CLASSIFICATION


def answers_of_classifier(y: NDArray[Any], classes: NDArray[Any], spec: DataSpec) -> Answers:
    """The answers as positions among a classifier's own classes.

    Raises:
        InputError: an answer that is none of the classes, or the data file asks for a regression.
    """
    if spec.task is ModelTask.REGRESSION:
        raise InputError(f"{spec.path}: task: regression, but the model is a classifier of {len(classes)} classes")
    names = _names(spec, tuple(str(c) for c in classes))
    # Labels of the data file decide alone: they may be other words than the model's own.
    if spec.labels:
        return Answers(_positions(y, np.array(spec.labels, dtype=object), spec), names)
    places = _Places(classes, y.dtype)
    # Not np.unique, which sorts: a column of objects may hold texts and numbers.
    distinct = list(dict.fromkeys(y.tolist()))
    if all(v in places for v in distinct):
        return Answers(np.array([places[v] for v in y.tolist()], dtype=np.int64), names)
    if not _encoded_labels(distinct, classes):
        return Answers(_positions(y, classes, spec), names)  # which says what is wrong
    # LabelEncoder numbers texts by their order.
    ordered = sorted(distinct, key=str)
    pairs = ", ".join(f"{v} = {c}" for v, c in zip(ordered, classes, strict=True))
    place = {v: i for i, v in enumerate(ordered)}
    note = f"the model's classes are numbers; the target's texts were taken for them as LabelEncoder does: {pairs}"
    return Answers(np.array([place[v] for v in y.tolist()], dtype=np.int64), names, (note,))


def answers_of_regressor(y: NDArray[Any], kind: str, spec: DataSpec) -> Answers:
    """The answers as numbers; ``kind`` names the model.

    Raises:
        InputError: an answer that is not a number, or the data file asks for a classification.
    """
    if spec.task is ModelTask.CLASSIFICATION or spec.labels:
        raise InputError(f"{spec.path}: {_asked(spec)}, but a {kind} predicts values, not classes")
    return Answers(_values(y, spec.path), None)


def is_unjudged(spec: DataSpec) -> bool:
    """Whether the answers, if there are any, mean nothing to us: a metric of the user's own reads them, or nobody."""
    return spec.task is ModelTask.NONE or (spec.task is None and spec.metric is not None)


def answers_of_network(y: NDArray[Any], outputs: Sequence[TensorSpec], spec: DataSpec) -> Answers:
    """The answers as a network's output shows them: classes where it has a score for each, or one for two classes.

    Raises:
        InputError: the answers do not fit the output, or the task that the data file asks for.
    """
    if is_unjudged(spec):
        return Answers(y, None, known=False)
    decides = _deciding(y, outputs, spec)
    answers = _of_output(y, outputs[decides], spec)
    return dataclasses.replace(answers, decides=decides, notes=(*answers.notes, *_alike_note(outputs, decides)))


def _alike_note(outputs: Sequence[TensorSpec], decides: int) -> tuple[str, ...]:
    """Other outputs that the answers could be compared with as well."""
    shape = outputs[decides].shape[1:]
    alike = [f"'{t.name}'" for i, t in enumerate(outputs) if i != decides and t.shape[1:] == shape]
    if not alike:
        return ()
    return (
        f"accuracy is that of the output '{outputs[decides].name}', the first of its shape; {', '.join(alike)} "
        f"{'has' if len(alike) == 1 else 'have'} the same one and count for nothing there",
    )


def _deciding(y: NDArray[Any], outputs: Sequence[TensorSpec], spec: DataSpec) -> int:
    """The place of the output that the answers are compared with: of several, the first with a score for each class."""
    numbers = None if spec.task is ModelTask.REGRESSION or not len(y) else _whole(y)
    if len(outputs) == 1 or numbers is None:
        return 0
    # More than one column, even where all answers are 0: one column is a score, not one for each class.
    scores = {i: t.shape[1] for i, t in enumerate(outputs) if len(t.shape) == 2 and t.shape[1] > max(numbers.max(), 1)}
    # Exactly as many scores as classes; a wider output may be an embedding.
    exact = (place for place, classes in scores.items() if classes == numbers.max() + 1)
    return next(exact, next(iter(scores), 0))


def _of_output(y: NDArray[Any], output: TensorSpec, spec: DataSpec) -> Answers:
    width = int(np.prod(output.shape[1:])) if len(output.shape) > 1 else 1
    # Axes of size 1 do not count: (N, 10, 1, 1) are ten scores a row, (N, 4, 10) four answers.
    if width != max(output.shape[1:], default=1):
        raise InputError(f"{spec.path}: one answer for each row, but the output has the shape {list(output.shape)}")
    if width > 1:
        return _of_scores(y, width, spec)
    return _of_one_output(y, spec)


def single_score_threshold(scores: NDArray[np.float64]) -> float:
    """Above which value of a network's one output the second class is meant: 0.5 for probabilities, 0 for logits."""
    return 0.5 if scores.min(initial=0) >= 0 and scores.max(initial=0) <= 1 else 0.0


def _of_scores(y: NDArray[Any], width: int, spec: DataSpec) -> Answers:
    if spec.task is ModelTask.REGRESSION:
        raise InputError(f"{spec.path}: task: regression of one value a row, but the model gives {width} values a row")
    names = _names(spec, tuple(str(i) for i in range(width)))
    if spec.labels:
        return Answers(_positions(y, np.array(spec.labels, dtype=object), spec), names)
    numbers = _whole(y)
    if numbers is None:
        answer = next(v for v in y.tolist() if not _is_whole(v))
        what = "is text" if isinstance(answer, str) else "is not a class number"
        raise InputError(
            f"{spec.path}: the answer {answer!r} {what}, but the model has scores for the classes 0-{width - 1}: give "
            "class numbers, or name the classes in the order of the scores: labels: [...] in the data file"
        )
    if numbers.min() < 0 or numbers.max() >= width:
        raise InputError(
            f"{spec.path}: classes {numbers.min()}-{numbers.max()} but the model has scores for 0-{width - 1}"
        )
    note = (
        (f"the answers are whole numbers written as {y.dtype}; with {width} scores a row they are taken for classes",)
        if y.dtype.kind == "f"
        else ()
    )
    return Answers(numbers, names, note)


def _of_one_output(y: NDArray[Any], spec: DataSpec) -> Answers:
    if spec.labels:
        return Answers(_positions(y, np.array(spec.labels, dtype=object), spec), _names(spec, ("0", "1")))
    numbers = _whole(y)
    distinct_answers = set() if numbers is None else set(np.unique(numbers).tolist())
    # 0 and 1 need no names: a high output means 1.
    if spec.task is None and distinct_answers != {0, 1}:
        _refuse_two_others(y, spec)
    if spec.task is ModelTask.REGRESSION or (spec.task is None and distinct_answers != {0, 1}):
        return Answers(_values(y, spec.path), None)
    # A subset: where the task is written, the rows may happen to hold one class alone.
    if numbers is None or not distinct_answers <= {0, 1}:
        raise InputError(
            f"{spec.path}: task: classification with one output a row needs the answers 0 and 1, found "
            f"{_some(list(dict.fromkeys(y.tolist())))}; name two other ones in their order: labels: [first, second]"
        )
    note = "one output a row and the answers 0 and 1: a classification of two classes"
    return Answers(numbers, ("0", "1"), () if spec.task else (f"{note}; task: regression says otherwise",))


def _refuse_two_others(y: NDArray[Any], spec: DataSpec) -> None:
    """Two whole numbers or texts, as -1 and 1, or no and yes, are classes that nobody has named, not values."""
    two = list(dict.fromkeys(y.tolist()))
    if len(two) != 2 or not all(isinstance(v, str) or _is_whole(v) for v in two):
        return
    two.sort(key=lambda v: (isinstance(v, str), v))  # a text and a number have no order between them
    written = [f"'{v}'" if isinstance(v, str) else str(int(v)) for v in two]
    values = "" if any(isinstance(v, str) for v in two) else ", or `task: regression` where they are values"
    raise InputError(
        f"{spec.path}: the answers are {written[0]} and {written[1]}, and the model has one output a row: write "
        f"`labels: [{', '.join(written)}]` in the data file, the class that a high output means last{values}"
    )


def _names(spec: DataSpec, own: tuple[str, ...]) -> tuple[str, ...]:
    if spec.labels and len(spec.labels) != len(own):
        raise InputError(f"{spec.path}: labels names {len(spec.labels)} classes, the model has {len(own)}")
    return spec.labels or own


def _positions(y: NDArray[Any], classes: NDArray[Any], spec: DataSpec) -> NDArray[np.int64]:
    places = _Places(classes, y.dtype)
    unknown = sorted({str(v) for v in y.tolist() if v not in places})
    if unknown:
        held = _some([f"'{v}'" for v in unknown])
        hint = "" if spec.labels else "; name the answers in the order of the classes: labels: [...] in the data file"
        raise InputError(f"{spec.path}: the target holds {held}, but the model knows {_some(classes)}{hint}")
    return np.array([places[v] for v in y.tolist()], dtype=np.int64)


class _Places(Mapping[Any, int]):
    """Where a class stands, looked up by number where class and answer are numbers, else by text."""

    def __init__(self, classes: Iterable[Any], dtype: np.dtype[Any]) -> None:
        self._narrow = dtype == np.float32  # 0.1 in float32 is another number than the class 0.1
        self._texts: dict[str, int] = {}
        self._numbers: dict[float, int] = {}
        spoken: dict[float, list[int]] = {}
        for place, value in enumerate(classes):
            number = None if isinstance(value, str) else self._number(value)
            self._texts.setdefault(str(value), place)
            if number is not None:
                self._numbers.setdefault(number, place)
            # A class that is a text may spell a number, "10", and so be meant by it.
            elif (meant := self._number(value)) is not None:
                spoken.setdefault(meant, []).append(place)
        # "1" and "01" are two classes: a number names neither.
        self._numbers = {n: p[0] for n, p in spoken.items() if len(p) == 1} | self._numbers

    def __getitem__(self, value: Any) -> int:
        if isinstance(value, str):
            for text in (value, value.strip()):
                if text in self._texts:
                    return self._texts[text]
        number = self._number(value)
        # NaN is not a key, so that `in` is false of what is neither text nor number.
        return self._numbers[number if number is not None else float("nan")]

    def __iter__(self) -> Any:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def _number(self, value: Any) -> float | None:
        try:
            number = number_in(value) if isinstance(value, str) else value
            return float(np.float32(number)) if self._narrow else float(number)
        except (TypeError, ValueError):
            return None


def _encoded_labels(answers: Sequence[Any], classes: NDArray[Any]) -> bool:
    """Whether texts can be meant by the numbers that LabelEncoder gives them: as many, and 0, 1, 2, ..., or a boolean.

    Numbers are never matched by their order: 3, 4, 5 may be 0, 1, 2 or another model's classes.
    """
    numbered = classes.dtype.kind in "iufb" and [float(c) for c in classes] == list(range(len(classes)))
    texts = all(isinstance(v, str) and _Places([v], np.dtype(object))._number(v) is None for v in answers)
    return numbered and texts and len(answers) == len(classes)


def _whole(y: NDArray[Any]) -> NDArray[np.int64] | None:
    """Whole numbers, however they are written; None where an answer is none."""
    return np.array([int(v) for v in y.tolist()], dtype=np.int64) if all(map(_is_whole, y.tolist())) else None


def _is_whole(value: Any) -> bool:
    """Whether it may be the number of a class: no fraction, and within int64. Beyond that every float is whole."""
    return not isinstance(value, str) and -(2**63) <= value < 2**63 and value == int(value)


def _values(y: NDArray[Any], path: Path) -> NDArray[np.float64]:
    targets = np.empty(len(y), dtype=np.float64)
    for row, value in enumerate(y.tolist()):
        try:
            targets[row] = number_in(value) if isinstance(value, str) else float(value)
        except (TypeError, ValueError) as e:
            raise InputError(f"{path}: the target in row {row} is {value!r}; a regressor needs numbers") from e
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets))[0])
        raise InputError(f"{path}: the target in row {row} is {targets[row]}; a regressor needs finite numbers")
    return targets


def _some(values: Sequence[Any] | NDArray[Any]) -> str:
    return ", ".join(str(v) for v in values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")


def _asked(spec: DataSpec) -> str:
    return "task: classification" if spec.task else "labels are given"
