"""What a fitted model does with each column of its table: a model over numbers in its place, and what feeds it.

Every step that takes text, or that looks up what a cell holds, is replaced by its table (`tabulated`), every vectorizer
by its weights (`term_weights`). What is left takes a matrix of ``features``, one for each `Use` of a column: a column
that serves as number in one place and as category in another has two. Runs in a child process: imports scikit-learn.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.intake.category_splits import opened_up, wants_categories
from edgewright.intake.column_steps import Picked
from edgewright.intake.decision_threshold import decides_at_threshold, inner_classifier
from edgewright.intake.tables import is_blank
from edgewright.intake.tabulated import ColumnTable, leading_encoders, tabulate
from edgewright.intake.term_weights import is_vectorizer, term_weights, terms_of, words_of
from edgewright_runtime.bundle.manifest import Words

__all__ = ["Use", "UsedColumns", "columns_used", "takes_texts"]

_PARTS = ("estimators_", "calibrated_classifiers_", "regressor_")


@dataclass(frozen=True)
class Use:
    """One way in which a column comes in; ``words`` and ``terms`` are of texts."""

    column: str
    kind: str  # as of `edgewright_runtime.bundle.manifest.Column`
    words: Words | None = None
    terms: tuple[tuple[str, int], ...] = ()

    @property
    def width(self) -> int:
        """How many features it is."""
        return len(self.terms) if self.kind == "text" else 1


@dataclass(frozen=True)
class UsedColumns:
    """A model over a matrix of features, the uses that these are in their order, and the tables of each category.

    ``first_step`` names what takes a number first, for messages. ``categorical`` are the columns that the model wants
    as pandas' categories.
    """

    model: Any
    uses: tuple[Use, ...]
    tables: Mapping[str, Sequence[ColumnTable]]
    first_step: Mapping[str, str]
    categorical: tuple[str, ...]


def columns_used(estimator: Any, names: Sequence[str], frame: Any, *, named: bool) -> UsedColumns:
    """Rewrite a model that was fitted on the columns ``names``.

    ``frame`` shows of which kind they are; ``named``: it was fitted on such a frame, else on a bare array.

    Raises:
        UnsupportedError: text comes to a part that is not an encoder of single columns.
    """
    walk = _Walk(frame, named)
    # A copy: the walk puts tables and matrices in the place of fitted parts.
    model, uses = walk.model(copy.deepcopy(estimator), tuple(names))
    ordered = sorted(uses, key=lambda use: names.index(use.column))  # as the table has them
    return UsedColumns(
        _picking(model, uses, ordered), tuple(ordered), walk.tables, walk.first_step, tuple(walk.categorical)
    )


def takes_texts(estimator: Any) -> bool:
    """Whether a vectorizer stands where the data come in, and takes a list of texts."""
    if hasattr(estimator, "best_estimator_"):
        return takes_texts(estimator.best_estimator_)
    if hasattr(estimator, "steps"):
        return takes_texts(estimator.steps[0][1])
    if hasattr(estimator, "transformer_list"):
        return takes_texts(estimator.transformer_list[0][1])
    return is_vectorizer(estimator) or any(takes_texts(part) for _, part in _parts_of(estimator))


@dataclass
class _Walk:
    """Goes through a model from where the table comes in; each method returns what is left, and the uses it takes."""

    frame: Any
    named: bool
    tables: dict[str, list[ColumnTable]] = field(default_factory=dict)
    first_step: dict[str, str] = field(default_factory=dict)
    categorical: dict[str, None] = field(default_factory=dict)

    def model(self, estimator: Any, names: tuple[str, ...]) -> tuple[Any, list[Use]]:
        """Any fitted model or transformer that takes the named columns."""
        if hasattr(estimator, "best_estimator_"):
            return self.model(estimator.best_estimator_, names)
        steps = _steps(estimator)
        if not steps:
            return estimator, self._numbers(names, "passthrough")
        first, rest = steps[0], steps[1:]
        # LightGBM and histogram boosting compare pandas' codes: such columns must come as categories.
        if wants_categories(estimator):
            encoded = (chosen for _, part, chosen in first.transformers_ if hasattr(part, "categories_"))
            self.categorical.update((names[i], None) for chosen in encoded for i in chosen)
        if hasattr(first, "transformers_"):
            first, uses = self._columns(first, names)
            return _chain([first, *rest]), uses
        if hasattr(first, "transformer_list"):
            first, uses = self._union(first, names)
            return _chain([first, *rest]), uses
        if is_vectorizer(first):
            return _chain([term_weights(first), *rest]), [self._text(first, names)]
        count = leading_encoders(steps)
        if count:
            encoder = tabulate(steps[:count], self._given(names), names)
            for name, table in zip(names, encoder.tables, strict=True):
                self.tables.setdefault(name, []).append(table)
            return _chain([encoder, *steps[count:]]), [Use(name, "category") for name in names]
        if not rest and (decides_at_threshold(first) or any(hasattr(first, part) for part in _PARTS)):
            return self._parts(first, names)
        return estimator, self._numbers(names, type(first).__name__)

    def _numbers(self, names: Iterable[str], step: str) -> list[Use]:
        self.first_step.update(dict.fromkeys(names, step))
        return [Use(name, "number") for name in names]

    def _text(self, step: Any, names: tuple[str, ...]) -> Use:
        if len(names) != 1:
            raise UnsupportedError(f"{type(step).__name__} over {len(names)} columns; it takes one column of texts")
        return Use(names[0], "text", words_of(step), terms_of(step))

    def _columns(self, transformer: Any, names: tuple[str, ...]) -> tuple[Any, list[Use]]:
        """A ColumnTransformer: each part takes its columns by their number among all uses."""
        fitted_on = tuple(str(n) for n in getattr(transformer, "feature_names_in_", names))
        parts, all_uses = [], list[Use]()
        for name, part, chosen in transformer.transformers_:
            columns = tuple(_chosen(chosen, fitted_on))
            if (isinstance(part, str) and part == "drop") or not columns:
                continue
            step, uses = (part, self._numbers(columns, name)) if isinstance(part, str) else self.model(part, columns)
            # Compared as a whole: a column is one use as number, another one as category.
            all_uses += [use for use in uses if use not in all_uses]
            parts.append((name, step, uses))
        transformer.transformers_ = [(name, step, _places(uses, all_uses)) for name, step, uses in parts]
        return transformer, all_uses

    def _union(self, union: Any, names: tuple[str, ...]) -> tuple[Any, list[Use]]:
        parts = [(name, *self.model(part, names)) for name, part in union.transformer_list if part != "drop"]
        all_uses = list(dict.fromkeys(use for _, _, uses in parts for use in uses))
        union.transformer_list = [(name, _picking(part, uses, all_uses)) for name, part, uses in parts]
        return union, all_uses

    def _parts(self, estimator: Any, names: tuple[str, ...]) -> tuple[Any, list[Use]]:
        """A model made of models, each of which gets the table."""
        parts = [(place, *self.model(part, names)) for place, part in _parts_of(estimator)]
        all_uses = list(dict.fromkeys(use for _, _, uses in parts for use in uses))
        # Numbers alone: nothing was replaced, and scikit-learn's own converter takes the whole.
        if all(use.kind == "number" for use in all_uses):
            return estimator, self._numbers(names, type(estimator).__name__)
        # passthrough hands the raw table to the final estimator, beside the answers of the parts.
        if getattr(estimator, "passthrough", False):
            raise UnsupportedError(f"{type(estimator).__name__} with passthrough over text; encode the text before it")
        for place, part, uses in parts:
            _put(estimator, place, _picking(part, uses, all_uses))
        return estimator, all_uses

    def _given(self, names: Sequence[str]) -> Any:
        """Cells by column as what the steps were fitted on."""
        import pandas as pd

        def given(cells: Sequence[Sequence[Any]]) -> Any:
            if not self.named:
                # An object array filled at once would take rows of equal length for a further axis.
                rows = np.empty((len(cells[0]), len(cells)), dtype=object)
                rows[:] = list(zip(*cells, strict=True))
                return rows
            columns = {}
            for name, values in zip(names, cells, strict=True):
                kind = self.frame[name].dtype
                if isinstance(kind, pd.CategoricalDtype):
                    # A value that is not a category becomes NaN in pandas; asked as unknown, it must stay a value.
                    more = [v for v in dict.fromkeys(values) if v not in kind.categories and not is_blank(v)]
                    columns[name] = pd.Series(pd.Categorical(values, categories=[*kind.categories, *more]))
                else:  # of numbers, what is asked need not be whole, or of two values
                    columns[name] = pd.Series(values, dtype=None if kind.kind in "iufb" else kind)
            return pd.DataFrame(columns)

        return given


def _steps(estimator: Any) -> list[Any]:
    """A chain of steps, the last of which may be a model; one that encodes the table itself is opened up."""
    steps = [estimator]
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
    return opened_up(steps[0]) if len(steps) == 1 else steps


def _chain(steps: Sequence[Any]) -> Any:
    from sklearn.pipeline import Pipeline

    return steps[0] if len(steps) == 1 else Pipeline([(f"step{i}", step) for i, step in enumerate(steps)])


def _places(uses: Sequence[Use], among: Sequence[Use]) -> list[int]:
    """The numbers of the features that are these uses."""
    start, first = 0, dict[Use, int]()
    for use in among:
        first[use] = start
        start += use.width
    return [first[use] + i for use in uses for i in range(use.width)]


def _picking(model: Any, uses: Sequence[Use], among: Sequence[Use]) -> Any:
    """The model over the features of ``among``, of which it takes those of ``uses``."""
    places = _places(uses, among)
    if places == list(range(sum(use.width for use in among))):
        return model
    steps = _steps(model)
    if hasattr(steps[0], "transformers_"):
        # A ColumnTransformer picks by itself: its numbers are counted anew instead of adding a step.
        for i, (name, part, chosen) in enumerate(steps[0].transformers_):
            steps[0].transformers_[i] = (name, part, [places[c] for c in chosen])
        return _chain(steps)
    return _chain([Picked(places), *steps])


def _chosen(chosen: Any, names: Sequence[str]) -> list[str]:
    if isinstance(chosen, (str, int, np.integer)):
        chosen = [chosen]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):  # by name, the last one too
            first = 0 if chosen.start is None else names.index(chosen.start)
            last = len(names) if chosen.stop is None else names.index(chosen.stop) + 1
            return list(names[first : last : chosen.step])
        return list(names[chosen])
    picked = list(chosen)
    if picked and isinstance(picked[0], (bool, np.bool_)):
        # A mask: True is an int, too, and would pick column 1.
        return [n for n, keep in zip(names, picked, strict=True) if keep]
    return [c if isinstance(c, str) else names[int(c)] for c in picked]


def _parts_of(estimator: Any) -> Iterator[tuple[tuple[str, int], Any]]:
    """The fitted models that another one is made of, and where each stands."""
    if type(estimator).__name__.startswith(("Voting", "Stacking", "OneVsRest")):
        for i, part in enumerate(estimator.estimators_):
            yield ("estimators_", i), part
    for i, fold in enumerate(getattr(estimator, "calibrated_classifiers_", [])):
        yield ("calibrated_classifiers_", i), fold.estimator
    if decides_at_threshold(estimator):
        yield ("estimator_" if hasattr(estimator, "estimator_") else "estimator", 0), inner_classifier(estimator)
    if hasattr(estimator, "regressor_"):
        yield ("regressor_", 0), estimator.regressor_


def _put(estimator: Any, place: tuple[str, int], part: Any) -> None:
    name, i = place
    if name in {"regressor_", "estimator_", "estimator"}:
        setattr(estimator, name, part)
    elif name == "calibrated_classifiers_":
        estimator.calibrated_classifiers_[i].estimator = part
    else:
        estimator.estimators_[i] = part
