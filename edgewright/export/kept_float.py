"""Fewer bits than a model bears: the operators that lose it stay float32, and the rest goes on."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edgewright.artifact import Artifact, Dataset, ImportedModel, Precision
from edgewright.errors import ConversionError, DisagreementError, UnsupportedError
from edgewright.export.declaration import Declared
from edgewright.export.declared import MIN_SNR_DB, checked
from edgewright.export.diagnosis_report import Culprit, Diagnosis, Place

__all__ = ["Converted", "Kept", "converted", "with_layers_only"]

# Each costs a conversion. A second one widens the first to what feeds it, and there may be another place behind it.
_ROUNDS = 4

# A third more than what a note calls noisy (`LOUD_SNR_DB`): the rows of a test may be worse than those looked at.
_POOR_SNR_DB = 15.0
# Half the error's power: for less, operators do not leave the 8 bits in which they are faster.
_MIN_GAIN_DB = 3.0
# What converters add to the names of values that they cast or quantize.
_ADDED = re.compile(
    r"(_(cast_to|cast|to)_fp(16|32)|_(Quantize|Dequantize)Linear(_(Input|Output))?|_dequant|_quantized"
    r"| \(before \w+\))+$"
)

Kept = frozenset[str]
"""Names of values and of nodes, as the float32 file has them; what gives or bears them stays float32."""


@dataclass(frozen=True)
class Converted:
    """A file, what it declares, the layers that stay float32 for its sake, and a note on each that says why.

    ``is_in_vain``: nothing is left of an output whatever stays float32, a note says so.
    """

    artifact: Artifact
    declared: Declared
    float_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    float_values: Kept = frozenset()
    is_in_vain: bool = False


@dataclass(frozen=True)
class _Round:
    float_values: Kept = frozenset()
    layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def converted(
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    make: Callable[[Kept], Artifact],
) -> Converted:
    """Make a file and check it; where it disagrees, make it again with the culprits in float32, a few times.

    Where nothing helps, a file of 8 bits or fewer is the first one, which a note says: its accuracy decides.

    Raises:
        DisagreementError: float32 disagrees, or float16 does whatever is kept.
    """
    last = _Round()
    original = make(last.float_values)
    try:
        return Converted(original, checked(model, original, dataset, precision))
    except DisagreementError as e:
        first = disagreement = e
    # float32 that disagrees is a defect of the conversion: nothing wider is left to keep.
    for _ in range(_ROUNDS if precision is not Precision.FLOAT32 else 0):
        wider = _wider(last, disagreement.diagnosis, precision)
        if wider is None:
            break
        last = wider
        try:
            artifact = make(last.float_values)
            declared = checked(model, artifact, dataset, precision)
            return Converted(artifact, declared, last.layers, last.notes, last.float_values)
        except DisagreementError as e:
            disagreement = e
        except UnsupportedError:  # nothing is left to be stored in fewer bits
            break
        except ConversionError as e:  # a converter may refuse this file, where it took the first one
            last = replace(last, notes=(*last.notes, f"such a file cannot be made: {e}"))
            break
    message = f"{first}; tried in vain: {'; '.join(last.notes)}" if last.notes else str(first)
    if precision in {Precision.FLOAT32, Precision.FLOAT16}:
        raise DisagreementError(message, first.exported, first.diagnosis) from first
    # That it disagrees is known by now: its tensors and notes are asked for.
    declared = checked(model, original, dataset, precision, is_judged=False)
    return Converted(original, declared, notes=(message,), is_in_vain=True)


def with_layers_only(
    done: Converted,
    model: ImportedModel,
    dataset: Dataset,
    precision: Precision,
    make: Callable[[Kept], Artifact],
    *,
    below_db: float = _POOR_SNR_DB,
) -> Converted:
    """Where 8 bits leave little (15 dB), the file that ``make`` gives instead, of which only convolutions and
    dense layers are in 8 bits, if its error is smaller by much."""
    before = done.declared.snr_db if done.declared.snr_db is not None else MIN_SNR_DB
    if before >= below_db:
        return done
    try:
        artifact = make(done.float_values)
        declared = checked(model, artifact, dataset, precision)
    except (ConversionError, UnsupportedError) as e:
        return replace(
            done, notes=(*done.notes, f"{precision} of convolutions and dense layers alone is no better: {e}")
        )
    if declared.snr_db is None or declared.snr_db < before + _MIN_GAIN_DB:
        return done
    note = (
        f"only convolutions and dense layers are in 8 bits: {declared.snr_db:.1f} dB of signal over the error,"
        f" {before:.1f} dB with the operators between them"
    )
    return replace(done, artifact=artifact, declared=declared, notes=(*done.notes, note), is_in_vain=False)


def _wider(last: _Round, diagnosis: object, precision: Precision) -> _Round | None:
    """What else must stay float32 by a diagnosis; None where it names nothing new."""
    # Where each operator is right by itself, none is worth keeping.
    if not isinstance(diagnosis, Diagnosis) or diagnosis.is_fusion:
        return None
    float_values, layers, notes = last.float_values, last.layers, last.notes
    for culprit in diagnosis.culprits:
        if not _acting(culprit.segment) <= float_values:
            float_values |= _names(culprit.segment)
            layers += (culprit.layer, *culprit.layers)
            notes += (_note(culprit, precision),)
        elif not _acting(culprit.before) <= float_values:  # it loses numbers that had not come to it whole
            float_values |= _names(culprit.before)
            notes += (f"what feeds layer '{culprit.layer}' stays float32 too: in {precision} it lost numbers before",)
    # Rounding that only adds up has no culprit; the layer that adds most stays float.
    worst = diagnosis.weakest
    if not diagnosis.culprits and worst is not None and _plain(worst.value) not in float_values:
        float_values |= {_plain(worst.value)}
        layers += (worst.layer,)
        lost = f"in {precision} it loses most, {worst.own_snr_db:.1f} dB are left"
        notes += (f"layer '{worst.layer}' ({worst.operator}) stays float32: {lost}",)
    return _Round(float_values, tuple(dict.fromkeys(layers)), notes) if float_values != last.float_values else None


def _acting(places: Sequence[Place]) -> Kept:
    """What changes numbers; where nothing does, numbers are lost as they are moved, before an operator in float32."""
    return Kept(_plain(place.value) for place in places if not place.moves) or _names(places)


def _names(places: Iterable[Place]) -> Kept:
    return Kept(name for place in places for name in (_plain(place.value), place.node) if name)


def _plain(name: str) -> str:
    return _ADDED.sub("", name)


def _note(culprit: Culprit, precision: Precision) -> str:
    operators = len(_acting(culprit.segment))
    others = f" and {operators - 1} operator{'s' if operators > 2 else ''} around it" if operators > 1 else ""
    return f"layer '{culprit.layer}' ({culprit.operator.kind}{others}) stays float32: in {precision}, {culprit.cause()}"
