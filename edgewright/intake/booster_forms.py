"""Boosters in the one form that onnxmltools converts rightly: trees that are summed, and what is made of the sum.

Runs in a child process.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgewright.errors import UnsupportedError

__all__ = ["Ending", "ended", "finished_xgboost", "plain_lightgbm", "plain_xgboost"]

# Objectives whose plain sum is the answer, under names that the converter does not know.
_AS_THEY_ARE = {"fair", "mape", "regression_l1", "lambdarank", "rank_xendcg"}


@dataclass(frozen=True)
class Ending:
    """What becomes of the trees' sum: ``transform`` is ONNX's for an ensemble, ``operators`` follow it."""

    transform: str | None = None
    operators: tuple[str, ...] = ()


def plain_xgboost(model: Any) -> Any:
    """A copy of an XGBoost model as trees of numbered features, each of which counts as it stands.

    Raises:
        UnsupportedError: it has no trees, or an objective whose answers are not scores.
    """
    kind = type(model).__name__
    booster = model.get_xgb_params().get("booster") or "gbtree"
    if booster not in {"gbtree", "dart"}:
        raise UnsupportedError(f"{kind} with booster {booster!r}; train it with 'gbtree'")
    if model.objective == "binary:logitraw":
        raise UnsupportedError(f"{kind} with the objective 'binary:logitraw'; train it with 'binary:logistic'")
    plain = copy.deepcopy(model)
    if booster == "dart":
        plain._Booster = _of_even_weight(plain.get_booster())
        plain.booster = "gbtree"
    inner = plain.get_booster()
    inner.feature_names = inner.feature_types = None  # the converter knows neither names nor booleans
    plain.missing = np.nan  # what else counts as such is replaced before the trees
    if kind == "XGBRanker":
        import xgboost

        plain.__class__ = xgboost.XGBRegressor  # its scores are values
    return plain


def _of_even_weight(booster: Any) -> Any:
    """DART's trees (Rashmi and Gilad-Bachrach 2015), with their weights in their leaves."""
    import xgboost

    text = json.loads(booster.save_raw("json").decode())
    dart = text["learner"]["gradient_booster"]
    model = dart["gbtree"]["model"]
    for tree, weight in zip(model["trees"], dart["weight_drop"], strict=True):
        for node, child in enumerate(tree["left_children"]):
            if child == -1:  # a leaf's value stands where others have their threshold
                tree["split_conditions"][node] *= weight
    text["learner"]["gradient_booster"] = {"name": "gbtree", "model": model}
    plain_booster = xgboost.Booster()
    plain_booster.load_model(bytearray(json.dumps(text).encode()))
    return plain_booster


def finished_xgboost(graph: onnx.ModelProto, model: Any) -> onnx.ModelProto:
    """The graph with what onnxmltools 1.16 leaves out after the trees."""
    if model.objective == "multi:softmax":
        return ended(graph, Ending("SOFTMAX"))
    if model.objective != "reg:logistic" or hasattr(model, "classes_"):
        return graph
    for node in graph.graph.node:  # the share that it starts from is a sum's start only as its logit
        for given in node.attribute:
            if given.name == "base_values":
                start = np.array(given.floats, dtype=np.float64)
                given.floats[:] = np.log(start / (1 - start)).tolist()
    return ended(graph, Ending(operators=("Sigmoid",)))


def plain_lightgbm(lines: Sequence[str], kind: str) -> tuple[list[str], Ending]:
    """LightGBM's model text with an objective that the converter knows, and what that one would leave out.

    Raises:
        UnsupportedError: the leaves are linear models.
    """
    if "is_linear=1" in lines:
        raise UnsupportedError(
            f"{kind} with linear_tree: ONNX knows no trees with linear models in their leaves; train it without"
        )
    changed, ending, scale = list(lines), Ending(), 1.0
    for i, line in enumerate(lines):
        if line.startswith("objective="):
            name, *options = line.removeprefix("objective=").split()
            given = dict(option.partition(":")[::2] for option in options)
            # The factor of a sigmoid moves into the leaves (`scale`): ONNX's has none.
            scale *= float(given.get("sigmoid", 1.0)) if name in {"binary", "multiclassova"} else 1.0
            ending = _ending(name, options)
            if name in _AS_THEY_ARE or ending.operators:
                changed[i] = "objective=regression"
    if "average_output" in lines:  # a forest's trees are averaged
        changed.remove("average_output")
        each = next(int(line.partition("=")[2]) for line in lines if line.startswith("num_tree_per_iteration="))
        # Every class has trees of its own, and is their mean.
        scale /= sum(line.startswith("Tree=") for line in lines) / each
    return [_scaled(line, scale) for line in changed], ending


def _ending(objective: str, options: Sequence[str]) -> Ending:
    match objective:
        case "multiclassova":
            return Ending("LOGISTIC")
        case "cross_entropy":
            return Ending(operators=("Sigmoid",))
        case "cross_entropy_lambda":
            return Ending(operators=("Softplus",))
        case _ if "sqrt" in options:
            return Ending(operators=("Square",))
    return Ending()


def _scaled(line: str, scale: float) -> str:
    key, _, values = line.partition("=")
    if key != "leaf_value" or scale == 1.0:
        return line
    return "leaf_value=" + " ".join(repr(float(value) * scale) for value in values.split())


def ended(graph: onnx.ModelProto, ending: Ending) -> onnx.ModelProto:
    """The graph with an ending after its trees; its first output keeps its name."""
    if ending.transform is not None:
        for node in graph.graph.node:
            for given in node.attribute:
                if given.name == "post_transform":
                    given.s = ending.transform.encode()
    for operator in ending.operators:
        name = graph.graph.output[0].name
        inner = f"{name}_before_{operator.lower()}"
        for node in graph.graph.node:
            node.output[:] = [inner if n == name else n for n in node.output]
        if operator == "Square":  # of the root that was trained on, with its sign
            graph.graph.node.append(helper.make_node("Abs", [inner], [f"{inner}_size"], name=f"{inner}_size"))
            graph.graph.node.append(helper.make_node("Mul", [inner, f"{inner}_size"], [name], name=f"{name}_ended"))
        else:
            graph.graph.node.append(helper.make_node(operator, [inner], [name], name=f"{name}_ended"))
        graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return graph
