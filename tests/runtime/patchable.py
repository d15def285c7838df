"""Bundles whose models are large enough for a patch to be worth something."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgewright.artifact import Format
from edgewright.package import Bundle
from edgewright_runtime.bundle.manifest import Column, Preprocessing
from tests.bundles import COLUMNS, Parts, dataset, report, softmax, table_parts, table_rows

__all__ = ["bundle", "mlp"]

HIDDEN = 400


def mlp(path: Path, *, tuned: float = 0.0, extra: bool = False, seed: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Writes 3 -> HIDDEN -> 3 with softmax; ``tuned`` moves every weight a little, ``extra`` adds a layer."""
    chance, moved = np.random.default_rng(seed), np.random.default_rng(99)
    first, last = (chance.normal(size=s).astype(np.float32) for s in ((3, HIDDEN), (HIDDEN, 3)))
    middle = np.eye(HIDDEN, dtype=np.float32)
    first, last = (w + (tuned * moved.normal(size=w.shape)).astype(np.float32) for w in (first, last))
    names = ["x", "h0", "h1", *(["h2"] if extra else []), "logits"]
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"]), helper.make_node("Tanh", ["h0"], ["h1"])]
    weights = {"first": first, "last": last}
    if extra:
        nodes.append(helper.make_node("MatMul", ["h1", "middle"], ["h2"]))
        weights["middle"] = middle
    nodes.append(helper.make_node("MatMul", [names[-2], "last"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=1))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return lambda x: softmax(np.tanh(x @ first) @ last)


def bundle(folder: Path, *, columns: tuple[Column, ...] = COLUMNS, **options: Any) -> Bundle:
    """A bundle of `mlp`, its rows encoded by ``columns``."""
    parts: Parts = table_parts(folder)
    answers = mlp(folder / "churn.onnx", **options)
    artifact = parts.store.put(folder / "churn.onnx", Format.ONNX)
    x = table_rows()
    return Parts(
        model=parts.model.model_copy(
            update={"source": artifact, "onnx": artifact, "preprocessing": Preprocessing(columns=columns)}
        ),
        dataset=dataset(parts.store, folder, x, answers(x)),
        exported=parts.exported.model_copy(update={"artifact": artifact}),
        report=report(artifact),
        device=parts.device,
        store=parts.store,
    ).build()
