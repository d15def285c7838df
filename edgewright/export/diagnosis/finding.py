"""An exported file against its reference, layer by layer, and the first operator that is wrong.

Runs in a child process.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from edgewright.artifact import Format
from edgewright.errors import UnsupportedError
from edgewright.export.diagnosis.alignment import Alignment
from edgewright.export.diagnosis.blame import blamed
from edgewright.export.diagnosis.computation import Computation, Operator, narrowest
from edgewright.export.diagnosis.noise import Run, output_noise
from edgewright.export.diagnosis.reference import Reference
from edgewright.export.diagnosis.search import Search, Swap
from edgewright.export.diagnosis.values import Difference, limit_of
from edgewright.export.diagnosis_report import Culprit, Diagnosis, Place
from edgewright.export.runs import Arrays

__all__ = ["computation_of", "find"]

_MAX_CULPRITS = 8
_AMPLIFIED_DB = 10.0
_MAX_BYTES = 1 << 28  # of the reference's values; two copies more are held of those of the file


def find(
    reference: tuple[Path, Format], exported: tuple[Path, Format], rows: Sequence[Arrays], outputs: Sequence[str]
) -> Diagnosis:
    """Compare on a few rows, each {input: (1, ...)} in the order of the model's inputs, the most telling first.

    Raises:
        UnsupportedError: a format, or an operator, that is not run here.
    """
    # One row first: how much its values take decides how many rows fit.
    origin = reference_of(*reference, rows[:1], outputs)
    room = int(_MAX_BYTES / max(1, sum(value.nbytes for value in origin.values.values())))
    if len(rows) > 1 and room > 1:
        origin = reference_of(*reference, rows[: min(len(rows), room)], outputs)
    taken = list(rows[: len(next(iter(origin.values.values())))])
    computation = computation_of(*exported, list(rows[0]), outputs)
    alignment = Alignment(origin, computation, taken)
    alignment.enter()
    alignment.advance(computation.operators)
    # In this order: what the search settles are matches that the run measures by.
    culprits, run = _culprits(alignment), Run(alignment)
    noise, dtype = output_noise(alignment, run.values, list(outputs)), narrowest(list(alignment.dtypes.values()))
    # Nothing is wrong by itself, and yet more is lost than the dtype explains.
    if not culprits and not all(limit_of(dtype).holds(Difference(one.snr_db, one.largest)) for one in noise):
        culprits = _amplifier(Search(alignment), run)
    return Diagnosis(dtype=dtype, layers=run.layers(), culprits=tuple(culprits), outputs=noise, rows=len(taken))


def reference_of(path: Path, form: Format, rows: Sequence[Arrays], outputs: Sequence[str]) -> Reference:
    match form:
        case Format.ONNX:
            from edgewright.export.diagnosis.onnx_reference import onnx_reference

            return onnx_reference(path, rows, outputs)
        case Format.TORCH_GRAPH:
            from edgewright.export.diagnosis.torch_reference import torch_reference

            return torch_reference(path, rows)
        case _:
            raise UnsupportedError(f"{form} files are not references: an imported ONNX file or a torch graph is")


def computation_of(path: Path, form: Format, inputs: Sequence[str], outputs: Sequence[str]) -> Computation:
    """An exported file, to be run operator by operator.

    Raises:
        UnsupportedError: a format, or an operator, that is not run here.
    """
    match form:
        case Format.ONNX:
            from edgewright.export.diagnosis.onnx_computation import OnnxComputation

            return OnnxComputation(path, inputs, outputs)
        case Format.TFLITE:
            from edgewright.export.diagnosis.tflite_computation import TfliteComputation

            return TfliteComputation(path, inputs, outputs)
        case Format.MLPACKAGE:
            from edgewright.export.diagnosis.mil_computation import MilComputation

            return MilComputation(path, inputs, outputs)
        case _:
            raise UnsupportedError(f"{form} files are not run here operator by operator")


def _culprits(alignment: Alignment) -> list[Culprit]:
    """One after the other: each is replaced by what is right, and the search goes on behind it."""
    culprits: list[Culprit] = []
    search = Search(alignment)
    while search.wrong_outputs and len(culprits) < _MAX_CULPRITS:
        swap = search.first()
        # No replacement helps, or no operator gives the value, as of an input.
        if swap is None or not search.between(swap.value):
            culprits.append(_unverified(search))
            break
        culprit = _named(search, swap)
        if (culprit.operator, culprit.layer) not in {(one.operator, one.layer) for one in culprits}:
            culprits.append(culprit)  # else another one that reads what it gives
        search = search.accept(swap)
    return culprits


def _named(search: Search, swap: Swap) -> Culprit:
    alignment, blame, own = search.alignment, blamed(search, swap), search.own(swap)
    reference, segment = alignment.reference, search.between(swap.value)
    # A value inside of a layer is called 'layer > kind number'; the layer is named.
    node = reference.node(blame.name.partition(" > ")[0])
    layers = dict.fromkeys(reference.node(name).layer for name in blame.layers if name in reference.prints)
    failures = (alignment.failures.get(operator.name) for operator in segment)
    return Culprit(
        operator=_place(blame.operator),
        layer=node.layer,
        kind=node.kind,
        dtype=alignment.dtypes[swap.value],
        snr_db=own.snr_db,
        largest=own.largest,
        verified=True,
        others=tuple(map(_place, blame.others)),
        layers=tuple(layer for layer in layers if layer != node.layer),
        segment=tuple(map(_place, segment)),
        before=tuple(map(_place, search.makers(segment))),
        failure=next((failure for failure in failures if failure), ""),
    )


def _amplifier(search: Search, run: Run) -> list[Culprit]:
    """The operator that makes most of the rounding that comes to it; none where it only adds up."""
    alignment, amplifier = search.alignment, run.amplified()
    if amplifier is None or amplifier.loss_db < _AMPLIFIED_DB:
        return []
    match = alignment.matches[amplifier.operator.name]
    node, makers = alignment.reference.node(match.names[0]), search.makers([amplifier.operator])
    levels = f"{amplifier.incoming_db:.1f} dB of signal over error come in, {amplifier.outgoing_db:.1f} dB go out"
    culprit = Culprit(
        operator=_place(amplifier.operator),
        layer=node.layer,
        kind=node.kind,
        dtype=alignment.dtypes[amplifier.operator.name],
        snr_db=match.own.snr_db,
        largest=match.own.largest,
        verified=False,
        segment=tuple(map(_place, (*makers, amplifier.operator))),
        before=tuple(map(_place, search.makers(makers))),
        failure=f"operator {_place(amplifier.operator)} is right, and makes more of the rounding before it: {levels}",
    )
    return [culprit]


def _unverified(search: Search) -> Culprit:
    """The first operator behind which nothing is found any more."""
    alignment, reference, astray = search.alignment, search.alignment.reference, search.astray
    first = next((operator for operator in astray if not operator.moves), astray[0] if astray else None)
    rests = [names for name in (first.reads if first else ()) for names in alignment.seen_from(name)]
    # What the reference computes next and the file does not have: it may be this or a later one.
    known = [n for n in reference.telling if n not in search.taken and reference.follows_all(n, rests)]
    value, wanted = next(iter(search.wrong_outputs.items()))
    node = reference.node(known[0] if known else wanted[0])
    operator = first or search.made_by.get(value)
    failures = (alignment.failures.get(operator.name) for operator in astray)
    return Culprit(
        operator=_place(operator) if operator is not None else Place(kind="input", value=value),
        layer=node.layer,
        kind=node.kind,
        dtype=alignment.dtypes.get(value, ""),
        snr_db=math.nan,
        largest=math.nan,
        verified=False,
        segment=tuple(map(_place, astray)),
        failure=next((failure for failure in failures if failure), ""),
    )


def _place(operator: Operator) -> Place:
    return Place(kind=operator.kind, value=operator.name, node=operator.node, moves=bool(operator.moves))
