"""Pairs of files as two versions of a bundle hold them, from a seed: reports, models, and whatever else differs."""

import json
import random
from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["pair"]


def pair(seed: int) -> tuple[str, bytes, bytes]:
    """A file's name, and two versions of its content."""
    chance = random.Random(seed)
    make = chance.choice(_KINDS)
    return make(chance)


def _report(chance: random.Random, most: int = 40) -> bytes:
    notes = ["not measured", "by this machine", "on a board by default"]
    rows = [
        {
            "name": f"layer_{i}",
            "latency_ms": chance.gauss(1, 0.3),
            "share": chance.random(),
            "note": chance.choice(notes),
        }
        for i in range(chance.randrange(2, most))
    ]
    times = [chance.random() for _ in range(chance.randrange(5, 4 * most))]
    return json.dumps({"digest": chance.randbytes(32).hex(), "rows": rows, "times": times}, indent=1).encode()


def _reports(chance: random.Random) -> tuple[str, bytes, bytes]:
    return "report.json", _report(chance), _report(chance)


def _edited(chance: random.Random) -> tuple[str, bytes, bytes]:
    """Blocks cut out, doubled, moved, overwritten: what a patch has steps for."""
    base = b"".join(chance.choice([chance.randbytes(n), bytes([n]) * n, b"ab" * n]) for n in range(1, 30))
    new = base
    for _ in range(chance.randrange(8)):
        a, b = sorted(chance.randrange(len(new) + 1) for _ in range(2))
        new = chance.choice(
            [
                new[:a] + new[b:],
                new[:b] + new[a:b] + new[b:],
                new[a:b] + new[:a] + new[b:],
                new[:a] + chance.randbytes(min(b - a, 60)) + new[b:],
                new[:a] + new[a:b][::-1] + new[b:],
            ]
        )
        new = new[:4000] or b"x"
    return "tokens.txt", base, new


def _unrelated(chance: random.Random) -> tuple[str, bytes, bytes]:
    return "golden.npz", *(chance.randbytes(chance.choice([0, 1, 2, 7, 100, 900])) for _ in range(2))  # type: ignore[return-value]


def _repeats(chance: random.Random) -> tuple[str, bytes, bytes]:
    parts = [chance.randbytes(chance.randrange(1, 25)) for _ in range(4)]
    base, new = (b"".join(chance.choice(parts) for _ in range(chance.randrange(1, 90))) for _ in range(2))
    return "labels.txt", base, new


def _models(chance: random.Random) -> tuple[str, bytes, bytes]:
    """Tensors that stay, move a little, change shape, come and go."""
    numbers = np.random.default_rng(chance.randrange(1 << 30))
    names = [f"w{i}" for i in range(chance.randrange(1, 5))]
    kinds = {name: chance.choice(["float32", "float16", "int8", "int64"]) for name in names}
    old = {name: (8 * numbers.normal(size=(chance.randrange(4, 40), 8))).astype(kinds[name]) for name in names}
    new = {}
    for name, array in old.items():
        change = chance.randrange(5)
        if change == 0:
            continue
        moved = array if change == 1 else (array * 1.01 + chance.randrange(2)).astype(array.dtype)
        new[name if change < 4 else f"{name}b"] = moved if change < 3 else moved[: chance.randrange(1, len(moved) + 1)]
    return "m.onnx", _model(old, "one"), _model(new, chance.choice(["one", "another name"]))


def _model(weights: dict[str, np.ndarray], name: str) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, name, [value], [], [numpy_helper.from_array(w, n) for n, w in weights.items()])
    return bytes(helper.make_model(graph).SerializeToString())


_KINDS: list[Callable[[random.Random], tuple[str, bytes, bytes]]] = [_reports, _edited, _unrelated, _repeats, _models]
