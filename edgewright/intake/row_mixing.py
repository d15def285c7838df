"""Whether a model answers each row by itself: a device gives one row, what is validated gives many.

Statistics over the batch axis (BatchNorm in training mode, a mean over rows) make an answer depend on the rows beside
it; then nothing that is measured on many rows holds on the device. The source itself is asked, in its own framework.
No ML framework is imported here.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import UnsupportedError
from edgewright.failures import one_line
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = [
    "BATCHES",
    "LIMIT",
    "ROWS",
    "OutputArrays",
    "allowed_beside",
    "distances",
    "refuse_mixed_rows",
    "said_of_rounding",
    "tolerated_share",
]

OutputArrays = Sequence[NDArray[np.float64]]

ROWS = 256
BATCHES = (1, 2, 7)  # a size that was fixed on the way, and what mixes rows, shows itself
LIMIT = 1e-4  # largest difference over the largest magnitude, as for float exports
# Of a model's own float32 rounding: two kernels each stray by it, and the largest of a few numbers varies by half.
_ROUNDINGS = 3.0
_MOST = 1e-3  # beyond it too little is left of a comparison to tell a defect from rounding
_OF_ROUNDING = 0.1  # share of such a difference that other neighbours make up at most, where rounding is the cause
_STARTS = 4  # rows that are looked at beside others
_TIES = 0.01  # share of rows that may stand on the other side of a tree's float32 threshold


def refuse_mixed_rows(
    ask: Callable[[slice], OutputArrays],
    together: OutputArrays,
    outputs: Sequence[TensorSpec],
    *,
    batch: int = -1,
    float32_only: bool = False,
) -> tuple[str, ...]:
    """Ask a model for 1, 2 and 7 of its rows alone, and compare with what it says of them among many; what to say.

    Kernels for few rows round otherwise than those for many. A model that amplifies this is told from one that mixes
    its rows by other neighbours: beside them, in a batch of the same size, a row's answer stays as it is.

    Args:
        ask: the model's own answers to some of the rows, given to it at once.
        together: its answers to all rows, given to it `ROWS` at a time.
        outputs: what the answers are.
        batch: the number of rows that it takes, -1 where that is free. At 1 there is nothing beside a row.
        float32_only: whether ties may fall either way, as in `tolerated_share`.

    Raises:
        UnsupportedError: it answers otherwise, or fails on so few rows.
    """
    count = min(len(together[0]), ROWS)
    if batch == 1 or not count:
        return ()
    shares = [tolerated_share(t, float32_only=float32_only) for t in outputs]
    few = _pieces(count)
    far = _asked_in(few, ask, together)
    strict = [place for place, f in enumerate(far) if f.max() > LIMIT and not shares[place]]
    if not strict and any(f.max() > LIMIT for f in far):  # a tie may fall either way: many rows tell
        far = _asked_in([slice(row, row + 1) for row in range(count)], ask, together)
    mixed = strict or [place for place, f in enumerate(far) if float((f > LIMIT).mean()) > shares[place]]
    if not mixed:
        return ()
    # Asked once more as before: only a model that repeats itself can be told to mix rows.
    again = [distances(got, expected[:count]) for got, expected in zip(ask(slice(0, count)), together, strict=True)]
    if any(f.max() > LIMIT for f in again):
        raise UnsupportedError(
            f"the model answers the same {count} rows otherwise each time (largest relative difference "
            f"{max(float(f.max()) for f in again):.2g}, allowed {LIMIT:.0e}): it draws random numbers or keeps a "
            "state between calls; export it in eval mode, without either"
        )
    worst = max(mixed, key=lambda place: float(far[place].max()))
    name = f" in output '{outputs[worst].name}'" if len(outputs) > 1 else ""
    most = float(far[worst].max())
    # Ties and large differences are left out: there rounding is no explanation, or tells nothing.
    if not any(shares[place] for place in mixed) and most <= _MOST:
        moved = _moved_by_neighbours(ask, together, count, batch)
        if moved is not None and moved <= _OF_ROUNDING * min(float(far[place].max()) for place in mixed):
            return (
                f"the model answers a row otherwise{name} by up to {most:.2g} of its largest magnitude when given "
                f"alone than among many (limit {LIMIT:.0e}), and the same beside other rows: its own float32 rounding",
            )
    takes = f"the model takes {batch} rows at a time, and its" if batch > 0 else "the model's"
    raise UnsupportedError(
        f"{takes} answer to a row depends on the other rows of the batch: {int((far[worst] > LIMIT).sum())} of "
        f"{len(far[worst])} rows are answered otherwise{name} when given alone or in twos and sevens (largest "
        f"relative difference {most:.2g}, allowed {LIMIT:.0e}); a device gives one row at a time: "
        "export the model in eval mode (model.eval()), without statistics over the batch axis; loops and branches on "
        "the data need a batch of 1"
    )


def _moved_by_neighbours(
    ask: Callable[[slice], OutputArrays], together: OutputArrays, count: int, batch: int
) -> float | None:
    """How far the first row of a batch moves, over the largest magnitude, when the rows behind it are others.

    None where there are too few rows to tell.
    """
    sizes = (batch,) if batch > 0 else (*BATCHES[1:], count // 2)
    moved = None
    # The same first row in two batches of one size, once with the next rows behind it, once with every other one.
    for size in dict.fromkeys(size for size in sizes if size > 1):
        for start in range(min(_STARTS, count - 2 * size + 2)):
            beside = ask(slice(start, start + size)), ask(slice(start, start + 2 * size - 1, 2))
            far = [float(distances(b[:1], a[:1], w[:ROWS]).max()) for a, b, w in zip(*beside, together, strict=True)]
            moved = max(*far, moved or 0.0)
    return moved


def distances(
    got: NDArray[np.float64], expected: NDArray[np.float64], whole: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Of each row, the largest difference over the largest magnitude of all; NaN where both are NaN is none.

    ``whole`` is what has that magnitude, where ``expected`` is only a part of it.
    """
    whole = expected if whole is None else whole
    differs = got != expected
    with np.errstate(invalid="ignore"):  # two infinities of one sign are equal, and their difference is not a number
        apart = np.where(differs & ~(np.isnan(got) & np.isnan(expected)), np.abs(got - expected), 0.0)
    magnitude = float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0))
    # An infinity against a number is as far as can be.
    apart = np.where(np.isnan(apart), np.inf, apart)
    return np.asarray(apart.reshape(len(got), -1).max(axis=1, initial=0.0) / max(magnitude, 1e-12))


def allowed_beside(rounding: float, limit: float = LIMIT) -> float:
    """The largest relative difference of a model whose float32 answers lie ``rounding`` from its float64 ones.

    The fixed limit stands where that is enough, and where three times the rounding would tell nothing any more.
    """
    own = _ROUNDINGS * rounding
    return own if limit < own <= _MOST else limit


def said_of_rounding(rounding: float, limit: float) -> str:
    """What a result says of a model that is judged by its own rounding, or that is beyond that, too."""
    allowed = allowed_beside(rounding, limit)
    if allowed > limit:
        return f"the model's own float32 rounding is {rounding:.2g} against float64, so {allowed:.2g} is allowed"
    return f"the model's own float32 rounding is {rounding:.2g} against float64"


def tolerated_share(tensor: TensorSpec, *, float32_only: bool) -> float:
    """The share of rows that may differ: whole numbers and trees decide at a threshold, which rounding may cross."""
    return _TIES if float32_only or np.issubdtype(np.dtype(tensor.dtype), np.integer) else 0.0


def _pieces(count: int) -> list[slice]:
    starts = [sum(BATCHES[:place]) for place in range(len(BATCHES))]
    return [slice(at, min(at + n, count)) for at, n in zip(starts, BATCHES, strict=True) if at < count]


def _asked_in(pieces: Sequence[slice], ask: Callable[[slice], OutputArrays], together: OutputArrays) -> OutputArrays:
    """For each output the distance of each row from what is said of it among many."""
    output_parts: list[list[NDArray[np.float64]]] = [[] for _ in together]
    for piece in pieces:
        size = piece.stop - piece.start
        try:
            answers = ask(piece)
        except Exception as e:  # a framework's errors share no base
            raise UnsupportedError(
                f"the model answers {min(len(together[0]), ROWS)} rows at once, but fails on {size}, and a device "
                f"gives one row at a time: {one_line(e, 200)}"
            ) from e
        for parts, got, whole in zip(output_parts, answers, together, strict=True):
            # A squeeze without an axis drops the batch of 1.
            if got.shape != whole[piece].shape:
                raise UnsupportedError(
                    f"the model returns {got.shape} for {size} rows that are {whole[piece].shape} among many: keep "
                    "the batch axis for any number of rows (no squeeze without an axis)"
                )
            parts.append(got)
    return [
        distances(np.concatenate(parts), whole[: sum(map(len, parts))], whole[:ROWS])
        for parts, whole in zip(output_parts, together, strict=True)
    ]
