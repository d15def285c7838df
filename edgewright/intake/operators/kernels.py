"""Support vector machines and distances to stored rows.

SVMClassifier and SVMRegressor follow the ai.onnx.ml specification and, where that leaves scores open, ONNX Runtime;
CDist is ONNX Runtime's own (com.microsoft), which skl2onnx writes for nearest neighbours.
"""

from collections.abc import Callable

import torch

from edgewright.intake.builder import Builder, Op, Operand, Result, operand, refuse
from edgewright.intake.operators.trees import label_of, post_transformed

__all__ = ["HANDLERS", "MICROSOFT_HANDLERS"]


def _decisions(b: Builder, op: Op, x: Operand, vectors: torch.Tensor, weights: torch.Tensor) -> Operand:
    """(N, F), (V, F) and (V, D) -> (N, D): the kernel of each row with each vector, weighted."""
    kind, _ = op.get("kernel_type", "LINEAR"), op.get("kernel_params")  # a linear kernel has parameters, and no use
    if kind == "LINEAR":
        # One dense layer: large weights that nearly cancel would leave nothing of products in 8 bits.
        return b.call(torch.matmul, x, (vectors.t().double() @ weights.double()).float())
    return b.call(torch.matmul, _kernel(b, op, x, vectors), weights)


def _kernel(b: Builder, op: Op, x: Operand, vectors: torch.Tensor) -> Operand:
    """(N, F) and (V, F) -> (N, V)."""
    gamma, offset, degree = op.get("kernel_params") or [1.0, 0.0, 3.0]
    kind = op.get("kernel_type")
    if kind == "RBF":
        # Differences first: the squares of large features would swallow small distances in float32.
        return b.call(torch.exp, b.call(torch.mul, _squared_distances(b, x, vectors), -gamma))
    products = b.call(torch.matmul, x, vectors.t().contiguous())
    scaled = b.call(torch.add, b.call(torch.mul, products, gamma), offset)
    if kind == "POLY":
        return b.call(torch.pow, scaled, degree)
    if kind == "SIGMOID":
        return b.call(torch.tanh, scaled)
    raise refuse(op, f"kernel {kind}")


def _squared_distances(b: Builder, x: Operand, vectors: torch.Tensor) -> Operand:
    apart = b.call(torch.sub, b.call(torch.unsqueeze, x, 1), vectors.unsqueeze(0))
    return b.call(torch.sum, b.call(torch.mul, apart, apart), [2])


def _features(b: Builder, op: Op) -> Operand:
    x = operand(op, 0)
    return x if b.dtype(x) == torch.float32 else b.call(torch.Tensor.to, x, torch.float32)


def svm_classifier(b: Builder, op: Op) -> Result:
    """SVMClassifier: a vote between each pair of classes, or the probabilities that Platt's sigmoids give for pairs."""
    x = _features(b, op)
    labels = op.get("classlabels_ints") or op.get("classlabels_strings")
    # libsvm counts vectors class by class; rho has one entry for each pair.
    per_class, rho = op.get("vectors_per_class"), op.get("rho")
    if not per_class:
        raise refuse(op, "linear coefficients without vectors")
    count = sum(per_class)
    vectors = torch.tensor(op.get("support_vectors"), dtype=torch.float32).reshape(count, -1)
    weights = _pair_weights(torch.tensor(op.get("coefficients"), dtype=torch.float32).reshape(-1, count), per_class)
    pairs = b.call(torch.add, _decisions(b, op, x, vectors, weights), torch.tensor(rho, dtype=torch.float32))
    if op.get("post_transform", "NONE") != "NONE":
        raise refuse(op, f"post_transform {op.get('post_transform')}")
    if op.get("prob_a"):
        slope, shift = (torch.tensor(op.get(k), dtype=torch.float32) for k in ("prob_a", "prob_b"))
        # libsvm's sigmoid: 1 / (1 + exp(A f + B)).
        won = b.call(torch.sigmoid, b.call(torch.neg, b.call(torch.add, b.call(torch.mul, pairs, slope), shift)))
        return _winner(b, op, pairs, len(labels)), _coupled(b, won, len(labels))
    if len(labels) == 2:
        # A positive decision is for the first class; the scores stand the other way round, as in ONNX Runtime.
        scores = b.call(torch.cat, [b.call(torch.neg, pairs), pairs], 1)
        return label_of(b, op, b.call(torch.neg, scores)), scores
    return _winner(b, op, pairs, len(labels)), pairs


def _pair_weights(coefficients: torch.Tensor, per_class: list[int]) -> torch.Tensor:
    """(V, pairs): the dual coefficients of libsvm, laid out so that one product serves all pairs."""
    starts = [sum(per_class[:i]) for i in range(len(per_class))]
    columns = []
    for i in range(len(per_class)):
        for j in range(i + 1, len(per_class)):
            column = torch.zeros(coefficients.shape[1])
            # Row j - 1 holds the coefficients of class i's vectors against class j, row i those of j's against i.
            of_i, of_j = (slice(starts[k], starts[k] + per_class[k]) for k in (i, j))
            column[of_i], column[of_j] = coefficients[j - 1, of_i], coefficients[i, of_j]
            columns.append(column)
    return torch.stack(columns, dim=1)


def _coupled(b: Builder, won: Operand, classes: int) -> Operand:
    """Probabilities of classes (N, classes) from those of pairs: libsvm's iteration with its own end.

    Wu, Lin and Weng, "Probability Estimates for Multi-class Classification by Pairwise Coupling", JMLR 2004,
    algorithm 2. Each row stops when its error is below 0.005 / classes.
    """
    # libsvm's own bounds, so that no probability is 0 or 1.
    won = b.call(torch.clamp, won, 1e-7, 1 - 1e-7)
    quadratic = _coupling(b, won, classes)
    # Begins with equal shares; the zeros of a row of Q give them the batch's size.
    shares: Operand = b.call(torch.add, b.call(torch.mul, b.call(torch.select, quadratic, 1, 0), 0.0), 1 / classes)
    for _ in range(_ROUNDS):
        gradient = b.call(torch.squeeze, b.call(torch.matmul, quadratic, b.call(torch.unsqueeze, shares, 2)), 2)
        value = b.call(torch.sum, b.call(torch.mul, shares, gradient), [1], True)
        error = b.call(torch.amax, b.call(torch.abs, b.call(torch.sub, gradient, value)), [1], True)
        going = b.call(torch.ge, error, 0.005 / classes)
        shares = b.call(torch.where, going, _round(b, quadratic, shares, gradient, value, classes), shares)
    return shares


_ROUNDS = 8
"""libsvm allows 100; no row of iris, wine, breast cancer and digits, nor of random pairs, took more than 5."""


def _coupling(b: Builder, won: Operand, classes: int) -> Operand:
    """(N, pairs) -> Q (N, classes, classes): the sum of r_ji^2 over j on the diagonal, else -r_ji r_ij."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    # `rest` makes r_ji = 1 - r_ij of the negative one.
    placed, rest = torch.zeros((len(pairs), classes, classes)), torch.zeros((classes, classes))
    for pair, (i, j) in enumerate(pairs):
        placed[pair, i, j], placed[pair, j, i], rest[j, i] = 1, -1, 1
    flat = b.call(torch.matmul, won, placed.reshape(len(pairs), -1))
    r = b.call(torch.add, b.call(torch.reshape, flat, [-1, classes, classes]), rest)
    products = b.call(torch.mul, b.call(torch.transpose, r, 1, 2), r)
    squares = b.call(torch.sum, b.call(torch.mul, r, r), [1])
    return b.call(torch.sub, b.call(torch.mul, b.call(torch.unsqueeze, squares, 2), torch.eye(classes)), products)


def _round(b: Builder, quadratic: Operand, shares: Operand, gradient: Operand, value: Operand, classes: int) -> Operand:
    """Each class's share in turn, by the step that is best for it alone."""
    for place in range(classes):
        row = b.call(torch.select, quadratic, 1, place)
        own, slope = (b.call(torch.unsqueeze, b.call(torch.select, t, 1, place), 1) for t in (row, gradient))
        step = b.call(torch.div, b.call(torch.sub, value, slope), own)
        # The sum of the shares after the step, by which all are divided.
        grown = b.call(torch.add, step, 1.0)
        here = torch.eye(classes)[place : place + 1]
        shares = b.call(torch.div, b.call(torch.add, shares, b.call(torch.mul, step, here)), grown)
        change = b.call(torch.mul, step, b.call(torch.add, b.call(torch.mul, step, own), b.call(torch.mul, slope, 2.0)))
        value = b.call(torch.div, b.call(torch.add, value, change), b.call(torch.mul, grown, grown))
        gradient = b.call(torch.div, b.call(torch.add, gradient, b.call(torch.mul, step, row)), grown)
    return shares


def _winner(b: Builder, op: Op, pairs: Operand, classes: int) -> Operand:
    """The class with the most votes, the first among equals."""
    chosen = torch.zeros((2, len(op.get("rho")), classes))
    positions = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    for pair, (i, j) in enumerate(positions):
        chosen[0, pair, i], chosen[1, pair, j] = 1, 1
    # A decision above 0 is a vote for the first class of the pair.
    won = b.call(torch.Tensor.to, b.call(torch.gt, pairs, 0.0), torch.float32)
    lost = b.call(torch.sub, 1.0, won)
    votes = b.call(torch.add, b.call(torch.matmul, won, chosen[0]), b.call(torch.matmul, lost, chosen[1]))
    return label_of(b, op, votes)


def svm_regressor(b: Builder, op: Op) -> Result:
    """SVMRegressor; ``one_class`` gives the sign of the decision."""
    x = _features(b, op)
    count = op.get("n_supports", 0)
    coefficients = torch.tensor(op.get("coefficients"), dtype=torch.float32)
    if count:
        vectors = torch.tensor(op.get("support_vectors"), dtype=torch.float32).reshape(count, -1)
        total = _decisions(b, op, x, vectors, coefficients.reshape(count, 1))
    else:
        # Without support vectors the coefficients are those of a linear model.
        total = b.call(torch.matmul, x, coefficients.reshape(-1, 1))
    total = b.call(torch.add, total, float(op.get("rho")[0]))
    if op.get("one_class", 0):
        one = torch.ones(())
        return b.call(torch.where, b.call(torch.gt, total, 0.0), one, -one)
    return post_transformed(b, op, total)


def pairwise_distances(b: Builder, op: Op) -> Result:
    """CDist: euclidean or squared euclidean distances, (N, F) and (V, F) -> (N, V)."""
    vectors = operand(op, 1)
    if not isinstance(vectors, torch.Tensor):
        raise refuse(op, "rows that are computed")
    squared = _squared_distances(b, operand(op, 0), vectors)
    match op.get("metric", "sqeuclidean"):
        case "sqeuclidean":
            return squared
        case "euclidean":
            return b.call(torch.sqrt, squared)
        case metric:
            raise refuse(op, f"metric {metric}")


Handler = Callable[[Builder, Op], Result]

HANDLERS: dict[str, Handler] = {"SVMClassifier": svm_classifier, "SVMRegressor": svm_regressor}
MICROSOFT_HANDLERS: dict[str, Handler] = {"CDist": pairwise_distances}
