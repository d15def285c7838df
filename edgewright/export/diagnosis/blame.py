"""Of the operators between two values, which one is wrong: the one that computes, or what was given to it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from edgewright.errors import ConversionError
from edgewright.export.diagnosis.alignment import Alignment
from edgewright.export.diagnosis.computation import Operator
from edgewright.export.diagnosis.search import Search, Swap
from edgewright.export.diagnosis.values import limit_of

__all__ = ["Blame", "blamed"]

_MAX_SOURCES = 24  # values that an operator may have been meant to read


@dataclass(frozen=True)
class Blame:
    """``operator`` is wrong; ``others`` take part and could not be told from it. It should have given the reference's
    ``name``, and ``layers`` are further values that it takes part in."""

    operator: Operator
    others: tuple[Operator, ...]
    name: str
    layers: tuple[str, ...]


def blamed(search: Search, swap: Swap) -> Blame:
    """Who is to blame for a value that was not what the swap says."""
    operators = search.between(swap.value)
    misled = _misled(search, swap, operators)
    if misled is not None:
        return misled
    acting = [operator for operator in operators if not operator.moves]
    return (_finer(search, swap, operators) if len(acting) > 1 else None) or _plain(search, swap)


def _plain(search: Search, swap: Swap) -> Blame:
    """The first of the operators that loses numbers to infinity or NaN, else the last that computes something."""
    operators = search.between(swap.value)
    acting = [operator for operator in operators if not operator.moves]
    lost = next((operator for operator in operators if _loses(search.alignment, operator)), None)
    operator = lost or (acting[-1] if acting else operators[-1])
    others = tuple(one for one in operators if one is not operator)
    if any(swap.name in names for names in search.alignment.frontier[swap.value]):
        # What should have been left as it is: it is the next layer that is computed wrongly.
        return Blame(operator, others, swap.proof, (swap.name,))
    return Blame(operator, others, swap.name, tuple(n for n in search.layers_between(swap.name) if n != swap.name))


def _loses(alignment: Alignment, operator: Operator) -> bool:
    """Whether an operator gives NaN or infinity though what it reads is finite."""
    return all(_is_finite(alignment, name) for name in operator.reads) and not _is_finite(alignment, operator.name)


def _is_finite(alignment: Alignment, name: str) -> bool:
    stack = alignment.stack(name, alignment.clean[name]) if name in alignment.clean else None
    return stack is None or bool(np.isfinite(stack).all())


def _misled(search: Search, swap: Swap, operators: list[Operator]) -> Blame | None:
    """The operators are right, and one of the values that they read is another than it should be, or lies in another
    order."""
    given = {name for operator in operators for name in operator.gives}
    reads = dict.fromkeys(name for operator in operators for name in operator.reads if name not in given)
    for value in reads:
        if value in search.alignment.matches:
            for suspect, chain in _sources(search, value, search.copies(swap.name)):
                if _mends(search, suspect, (*chain, *operators), swap):
                    return _of_source(search, suspect, chain, operators)
    return None


def _sources(search: Search, value: str, given: set[str]) -> Iterator[tuple[Swap, tuple[Operator, ...]]]:
    """What a value that is read could be meant to be, with the moves from it to where it is read.

    Not what is ``given`` in the end: an activation leaves what went through it before as it is.
    """
    at = search.alignment
    chain = _moves_to(search, value)
    # The order of the axes: what transposes is likelier to be wrong than what reshapes.
    for place in sorted(range(len(chain)), key=lambda i: (chain[i].moves != "order", i)):
        name, match = chain[place].name, at.matches[chain[place].name]
        stack = at.stack(name, at.clean[name])
        for layout in search.likely(stack, match.names[0]) if stack is not None else ():
            if layout is not match.layout:
                yield Swap(name, match.names[0], layout), tuple(chain[place + 1 :])
    match, stack = at.matches[value], at.stack(value, at.clean[value])
    sized = at.reference.by_size.get(stack.size, []) if stack is not None else []
    other = [name for name in sized if name not in match.names and name not in given]
    nowhere = [name for name in other if name not in search.taken]
    elsewhere = [name for name in other if name in search.taken]
    for name in (*nowhere[:_MAX_SOURCES], *elsewhere[-_MAX_SOURCES:]):
        for layout in search.likely(stack, name) if stack is not None else ():
            yield Swap(value, name, layout), ()


def _moves_to(search: Search, value: str) -> list[Operator]:
    """The operators that only moved a value to where it is, in order."""
    matches = search.alignment.matches
    chain: list[Operator] = []
    while True:
        operator = search.made_by.get(value)
        if operator is None or not operator.moves or len(operator.reads) != 1 or operator.reads[0] not in matches:
            return chain
        if set(matches[operator.reads[0]].names).isdisjoint(matches[value].names):
            return chain
        chain.insert(0, operator)
        value = operator.reads[0]


def _mends(search: Search, suspect: Swap, operators: tuple[Operator, ...], swap: Swap) -> bool:
    """Whether the operators give what the swap says once the value that they read is replaced."""
    at = search.alignment
    values = {**at.clean, suspect.value: at.given(suspect.value, suspect.name, suspect.layout)}
    try:
        for operator in operators:
            values |= at.compute(operator, values)
    # KeyError: it reads what an operator before it did not give, behind one that does not run.
    except (ConversionError, KeyError):
        return False
    stack = at.stack(swap.value, values[swap.value])
    if stack is None:
        return False
    arrangement = at.arrangement(stack, swap.name, limit_of(at.dtypes[swap.value])) if _tells(at, swap.name) else None
    return arrangement is not None or search.compared(swap.value, values[swap.value], swap.name) is not None


def _tells(alignment: Alignment, name: str) -> bool:
    return name in alignment.reference.prints


def _of_source(search: Search, suspect: Swap, chain: tuple[Operator, ...], operators: list[Operator]) -> Blame:
    at = search.alignment
    match, moves = at.matches[suspect.value], _moves_to(search, suspect.value)
    if suspect.name == match.names[0]:  # the right numbers in a wrong order: a reshape after it only shows that
        maker = next((operator for operator in reversed(moves) if operator.moves == "order"), moves[-1])
        return Blame(maker, chain, match.names[-1], ())
    if suspect.name in search.taken:  # it is computed somewhere, and something else is read
        own = list(takewhile(lambda operator: search.readers[operator.name] == 1, reversed(moves)))
        return Blame(own[-1] if own else operators[0], (), suspect.name, ())
    # It is computed nowhere: what should have made it stopped short of it.
    source = search.made_by.get(moves[0].reads[0] if moves else suspect.value)
    return Blame(source or operators[0], tuple(moves), suspect.name, ())


def _finer(search: Search, swap: Swap, operators: list[Operator]) -> Blame | None:
    """The same search with the values inside of the layers: the worst of what it finds between the operators."""
    at = search.alignment
    names = [name for name in search.layers_between(swap.name) if at.reference.node(name).kind != "input"]
    opened = at.reference.opened(names)
    # Nothing inside could be told, so the search would be the same again.
    if len(opened.nodes) == len(at.reference.nodes):
        return None
    inner = Search(at.again(opened, operators[0]))
    known, worst, lowest = {operator.name for operator in operators}, None, math.inf
    while swap.value not in inner.alignment.matches:
        inner_swap = inner.first()
        part = inner.between(inner_swap.value) if inner_swap is not None else []
        # Outside of these operators it is another defect, which the outer search comes to.
        if inner_swap is None or not {operator.name for operator in part} <= known:
            break
        own = inner.own(inner_swap).snr_db
        # A part that is all of them says no more than the outer search did.
        if own < lowest and len(part) < len(operators):
            lowest, worst = own, _plain(inner, inner_swap)
        inner = inner.accept(inner_swap)
    return worst
