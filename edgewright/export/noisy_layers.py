"""Where int8 leaves a model in noise, the layers that bring most of it stay in float, as few as it takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, CarriedNoise, Dataset, ImportedModel, ModelTask, Precision
from edgewright.child import deferred
from edgewright.errors import ConversionError, UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declaration import LOUD_SNR_DB
from edgewright.export.declared import MIN_SNR_DB, checked
from edgewright.export.kept_float import Converted, Kept
from edgewright.export.refusal import unsupported_precision

if TYPE_CHECKING:
    from edgewright.optimize.carried_noise import noisiest_layers
else:
    noisiest_layers = deferred("edgewright.optimize.carried_noise:noisiest_layers")

__all__ = ["AIM_DB", "Way", "is_noisy", "refuse_noise", "with_noisy_layers_float"]

AIM_DB = LOUD_SNR_DB + 1.0
"""What is looked for: rows of a test may be worse than those looked at."""
_FLOOR_DB = 3.0
"""Half the output's power is error: no accuracy that is measured on rows speaks for such a file."""
_TRIES = 4  # each costs a conversion
_STEP_DB = 6.0  # how much less noise than before the layers left in int8 are to bring by each further try
_WORTH = 0.8  # of the size in float; a larger file does not pay for what it loses


@dataclass(frozen=True)
class Way:
    """What int8 leaves in float: names of values, layers of the torch graph, and, if ``layers_only``, whatever is not
    a convolution or dense layer."""

    float_values: Kept = frozenset()
    layers: tuple[str, ...] = ()
    layers_only: bool = False


def with_noisy_layers_float(
    done: Converted,
    model: ImportedModel,
    dataset: Dataset,
    make: Callable[[Way], Artifact],
    *,
    float_bytes: int,
    is_layers_only: bool | None = None,
    weights_only: bool = False,
) -> Converted:
    """A file of int8 with 11 dB of signal over the error, in the place of one that has less.

    Args:
        done: the file of all layers, checked.
        model: what it was made of.
        dataset: holds the calibration rows on which layers are measured.
        make: makes a file.
        float_bytes: the size of the file in float.
        is_layers_only: whether ``done`` is; None: the platform has int8 in layers alone anyway.
        weights_only: int8 leaves the layers' inputs as they are.
    """
    before = _snr_of(done)
    if before is None or not is_noisy(done) or model.graph is None:
        return done
    inputs = [spec.name for spec in model.inputs]
    job = partial(noisiest_layers, model.graph.path, dataset.artifact.path, inputs, weights_only=weights_only)
    try:
        noise = convert_in_child(
            job, returns=list[CarriedNoise], what=f"measuring the noise of {model.name}'s layers in int8"
        ).value
    except (ConversionError, UnsupportedError) as e:
        return replace(done, notes=(*done.notes, f"which layers bring the noise of int8 was not found: {e}"))
    # The best is kept, not the last: more layers in float do not always bring less noise.
    best, tried = done, list[str]()
    for way in _ways(noise, before, done.float_values, is_layers_only=is_layers_only):
        attempt = _tried(way, model, dataset, make, float_bytes)
        tried.append(
            f"{_said(way, noise)}: {attempt if isinstance(attempt, str) else f'{_snr_of(attempt) or 0.0:.1f} dB'}"
        )
        if isinstance(attempt, str):
            continue
        if (_snr_of(attempt) or MIN_SNR_DB) > (_snr_of(best) or MIN_SNR_DB):
            # A layer may be in both lists, and is named once.
            layers = tuple(dict.fromkeys((*done.float_layers, *way.layers)))
            note = f"{tried[-1]} of signal over the error of int8, {before:.1f} dB without"
            best = replace(attempt, float_layers=layers, notes=(*done.notes, note), float_values=done.float_values)
        if (_snr_of(best) or MIN_SNR_DB) >= AIM_DB:
            return best
    return replace(best, notes=(*best.notes, f"{AIM_DB:.0f} dB were not reached: {'; '.join(tried)}"))


def is_noisy(done: Converted) -> bool:
    """Whether less of the signal is left than is looked for."""
    snr_db = _snr_of(done)
    return snr_db is not None and snr_db < AIM_DB


def refuse_noise(done: Converted, model: ImportedModel) -> None:
    """Refuse an int8 file in whose answers too little is left of the model's.

    Raises:
        UnsupportedError: below 3 dB of signal over the error; where no accuracy will be measured that could speak for
            the file, below 10 dB.
    """
    snr_db = _snr_of(done)
    is_judged = model.task is not ModelTask.NONE
    limit = _FLOOR_DB if is_judged else LOUD_SNR_DB
    if snr_db is None or snr_db >= limit:
        return
    tried = "; ".join(done.notes)
    rule = f"{limit:.0f} dB are the least" + ("" if is_judged else " where the data has no answers to measure accuracy")
    raise unsupported_precision(
        model.name,
        Precision.INT8,
        f"int8 leaves {snr_db:.1f} dB of signal over its error ({rule}); use float32, or train_int8 before quantize"
        + (f"; tried: {tried}" if tried else ""),
    )


def _snr_of(done: Converted) -> float | None:
    """None where it was not measured."""
    return MIN_SNR_DB if done.is_in_vain else done.declared.snr_db


def _ways(noise: list[CarriedNoise], before_db: float, float_values: Kept, *, is_layers_only: bool | None) -> list[Way]:
    """More layers in float each time, and from the second on layers only where the platform has that."""
    total = sum(one.noise for one in noise)
    # The estimate is to first order and of single layers. Where the whole file was measured noisier than their sum,
    # the aim falls by the same factor; a file that is better than its estimate does not raise it.
    aimed = 10 ** (-AIM_DB / 10) / max(1.0, 10 ** (-before_db / 10) / total)
    counts = [_min_count(noise, aimed * 10 ** (-_STEP_DB / 10 * step)) for step in range(_TRIES)]
    modes = [bool(is_layers_only)] * _TRIES
    # The noise may come from between the layers: the first count is tried with and without int8 there.
    if is_layers_only is False:
        counts, modes = [counts[0], *counts[:-1]], [False, *[True] * (_TRIES - 1)]
    chosen = dict.fromkeys(zip(counts, modes, strict=True))
    # With every layer in float there would be no int8 file left.
    return [Way(float_values, tuple(one.layer for one in noise[:n]), mode) for n, mode in chosen if n < len(noise)]


def _min_count(noise: list[CarriedNoise], limit: float) -> int:
    """How many of the first layers leave no more noise than that to the others."""
    remaining = sum(one.noise for one in noise)
    for count, one in enumerate(noise):
        if remaining <= limit:
            return count
        remaining -= one.noise
    return len(noise)


def _tried(
    way: Way, model: ImportedModel, dataset: Dataset, make: Callable[[Way], Artifact], float_bytes: int
) -> Converted | str:
    """The file; or why there is none, or none worth having."""
    try:
        artifact = make(way)
        if artifact.size_bytes > _WORTH * float_bytes:
            return f"{artifact.size_bytes / float_bytes:.0%} of the size in float"
        # No limit here: a noisy attempt is to be compared with the others, not to end the search.
        return Converted(artifact, checked(model, artifact, dataset, Precision.INT8, min_snr_db=-math.inf))
    except (ConversionError, UnsupportedError) as e:
        return str(e)


def _said(way: Way, noise: list[CarriedNoise]) -> str:
    numbers = sum(one.numbers for one in noise[: len(way.layers)]) / sum(one.numbers for one in noise)
    named = ", ".join(f"'{name}'" for name in way.layers[:3])
    more = f" and {len(way.layers) - 3} more" if len(way.layers) > 3 else ""
    layers = f"{len(way.layers)} of {len(noise)} layers ({named}{more}; {numbers:.1%} of the weights)"
    between = " and what is between layers" if way.layers_only else ""
    return f"{layers}{between} in float"
