"""Loops of an ONNX model that never end: found in the graph, else stopped as they run. In a child: imports onnx."""

import math
from collections.abc import Iterable, Iterator, Mapping
from threading import Timer
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgewright.errors import UnsupportedError
from edgewright.intake.onnx_nodes import constant_value
from edgewright.intake.onnx_tensors import array_of

__all__ = ["limit_s", "refuse_endless_loops", "run_within"]

_LIMIT_S = 60.0
_MAX_ROUNDS = 10**6  # of an empty body, some seconds

Constants = Mapping[str, NDArray[np.generic]]


def refuse_endless_loops(model: onnx.ModelProto, what: str) -> None:
    """Refuse a model with a Loop whose constants say that it never ends, or goes round more than a million times.

    The rounds of a Loop within another are multiplied. A Loop that data ends is left to `run_within`.

    Raises:
        UnsupportedError: it has one.
    """
    # Also bodies of functions, which are inlined only later; of those no outer constant is known.
    for nodes, known in [(model.graph.node, _held(model.graph)), *((f.node, {}) for f in model.functions)]:
        for node, rounds in _loops(nodes, known):
            if rounds > _MAX_ROUNDS:
                fault = "never ends" if math.isinf(rounds) else f"goes round {rounds:,.0f} times"
                raise UnsupportedError(
                    f"{what}: Loop '{node.name or node.output[0]}' {fault}, by its own constants and those of the "
                    f"loops around it; up to {_MAX_ROUNDS:,} rounds are taken: give it a trip count or a condition "
                    "that ends it"
                )


def limit_s(model: onnx.ModelProto) -> float | None:
    """How long one call of a model may take whose loops end by its data; None where it has none."""
    # With no constants known every Loop is found, whatever its rounds.
    every = [model.graph.node, *(f.node for f in model.functions)]
    return _LIMIT_S if any(True for nodes in every for _ in _loops(nodes, {})) else None


def run_within(session: Any, feeds: Mapping[str, NDArray[Any]], seconds: float | None) -> list[Any]:
    """ONNX Runtime's answers.

    Raises:
        UnsupportedError: none after so many seconds; names the operator that it was at.
    """
    import onnxruntime

    # Without a loop a call ends by itself; ONNX Runtime looks at `terminate` between operators.
    if seconds is None:
        return list(session.run(None, feeds))

    options = onnxruntime.RunOptions()
    timer = Timer(seconds, setattr, (options, "terminate", True))
    # Daemonic, so that a process which ends meanwhile does not wait for it.
    timer.daemon = True
    timer.start()
    try:
        return list(session.run(None, feeds, options))
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        if not options.terminate:
            raise
        # The message holds "... while running Loop node. Name:'...' Status Message: ...".
        where = str(e).partition("while running ")[2].partition(" Status Message")[0].rstrip(". ") or "the model"
        raise UnsupportedError(
            f"no end after {seconds:g} s in {where}: a Loop needs a trip count or a condition that ends it on any data"
        ) from e
    finally:
        timer.cancel()


def _loops(
    nodes: Iterable[onnx.NodeProto], outer: Constants, around: float = 1
) -> Iterator[tuple[onnx.NodeProto, Any]]:
    """Each Loop with how often its body runs in all; what constants do not tell counts as once."""
    known = dict(outer)
    for node in nodes:
        value = constant_value(node, known)
        if value is not None:
            known[node.output[0]] = value
        rounds = around
        if node.op_type == "Loop" and node.domain in {"", "ai.onnx"}:
            rounds *= _rounds(node, known)
            yield node, rounds
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                # What a body reads from outside is known there, too; its own names come last and so overrule.
                yield from _loops(inner.node, {**known, **_held(inner), **_told_to_go_on(inner)}, rounds)


def _rounds(node: onnx.NodeProto, known: Constants) -> float:
    """How often a Loop goes round, infinite where nothing ends it; 1 where constants do not tell."""
    # Left out, the trip count is infinite, and the condition true: both are optional in ONNX.
    most, going = _scalar(node, 0, known, math.inf), _scalar(node, 1, known, 1.0)
    if going == 0.0 or (most is not None and most <= 0):
        return 0.0
    body = next((a.g for a in node.attribute if a.name == "body"), None)
    if going is None or body is None or not _goes_on(body, known):
        return 1.0
    # A trip count that data give counts as once here: `run_within` stops it if it does not end.
    return 1.0 if most is None else most


def _scalar(node: onnx.NodeProto, place: int, known: Constants, left_out: float) -> float | None:
    """An input that is a single number; None where data decide it."""
    name = node.input[place] if len(node.input) > place else ""
    if not name:
        return left_out
    value = known.get(name)
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])


def _goes_on(body: onnx.GraphProto, outer: Constants) -> bool:
    """Whether a body that was told to go on always says so: its condition is a constant, or the one it was given."""
    known = {**outer, **_held(body), **_told_to_go_on(body)}
    for node in body.node:
        value = constant_value(node, known)
        if value is not None:
            known[node.output[0]] = value
    condition = known.get(body.output[0].name) if body.output else None
    return condition is not None and bool(condition.all())


def _told_to_go_on(body: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """The condition that a Loop gives its body: it is true whenever the body runs."""
    return {body.input[1].name: np.asarray(True)} if len(body.input) > 1 else {}


def _held(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Initializers of one number."""
    return {i.name: array_of(i) for i in graph.initializer if math.prod(i.dims) == 1}
