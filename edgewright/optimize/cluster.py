"""Weight sharing by k-means, as in Deep Compression (Han, Mao, Dally, arXiv 1510.00149): one codebook for a tensor, a
group of its output channels or the model, its values then fine-tuned by gradient. Runs in a child process: imports
torch.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import fx, nn

from edgewright.errors import UnsupportedError
from edgewright.optimize.fuse import fuse
from edgewright.optimize.kmeans import codebook
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import Tensors, TrainingRows, fit, weight_names
from edgewright.recipe import Cluster

__all__ = ["apply", "cluster"]

Share = tuple[int, torch.Tensor]


def apply(model: fx.GraphModule, params: Cluster, rows: TechniqueRows) -> fx.GraphModule:
    """See `cluster`."""
    return cluster(model, params, rows.training() if params.training else None)


def cluster(model: fx.GraphModule, params: Cluster, rows: TrainingRows | None) -> fx.GraphModule:
    """A copy of ``model`` whose weights take at most ``params.clusters`` values for each tensor, group or in all.

    BatchNorm is folded first. Weights that are zero stay zero, and zero is then one of the values.

    Raises:
        UnsupportedError: no linear or convolution layer, or training is asked for without rows.
    """
    # Folded by the exporter, a BatchNorm would multiply the shared values by another number in each channel.
    original, model = model, fuse(model)
    weights = {n: p for n, p in model.named_parameters() if n in set(weight_names(model))}
    if not weights:
        raise UnsupportedError("cluster: the network has no linear or convolution layer; leave this technique out")
    books: list[nn.Parameter] = []
    shared: dict[str, list[Share]] = {name: [] for name in weights}
    for parts in _groups(weights, params):
        values = np.concatenate([part.detach().numpy().ravel() for _, part in parts])
        book = _with_zero(values, params)
        for name, part in parts:
            shared[name].append((len(books), torch.from_numpy(_nearest(part.detach().numpy(), book))))
        # One parameter for each codebook: it learns from every weight that shares it.
        books.append(nn.Parameter(torch.from_numpy(book)))

    def value_of(number: int, index: torch.Tensor) -> torch.Tensor:
        # What was zero stays zero while the codebook learns.
        fixed = books[number].detach()
        return torch.where(fixed == 0, fixed, books[number])[index]

    def effective(parameters: Tensors) -> Tensors:
        # Parts were split along the first axis, so joined there they have the weight's own shape again.
        return parameters | {name: torch.cat([value_of(*part) for part in parts]) for name, parts in shared.items()}

    if params.training is None:
        with torch.no_grad():
            for name, value in effective({}).items():
                weights[name].copy_(value)
    elif rows is None:
        raise UnsupportedError("cluster: training needs training rows; give data, or set `training: null`")
    else:
        fit(model, rows, params.training, effective=effective, extra=books, teacher=original)
    return model


def _groups(weights: Mapping[str, torch.Tensor], params: Cluster) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The parts of weights, whole or split along their first axis, that share a codebook."""
    if params.scope == "model":
        yield list(weights.items())
        return
    for name, weight in weights.items():
        # The first axis is that of the output channels, in linear and convolution weights alike.
        for part in weight.split(params.group_channels if params.scope == "group" else len(weight)):
            yield [(name, part)]


def _with_zero(values: np.ndarray, params: Cluster) -> np.ndarray:
    held = values[values != 0]
    if len(held) == len(values):
        return codebook(values, params.clusters, params.start, params.seed)
    # One value is left for zero. K-means sees the others alone: many zeros would pull a mean towards them.
    means = codebook(held, params.clusters - 1, params.start, params.seed) if len(held) else np.zeros(0, np.float32)
    return np.unique(np.concatenate([means, np.zeros(1, np.float32)]))


def _nearest(weight: np.ndarray, book: np.ndarray) -> np.ndarray:
    # The nearest of sorted values changes at their midpoints.
    edges = (book[1:] + book[:-1]) / 2
    index = np.searchsorted(edges, weight)
    at = np.flatnonzero(book == 0)
    if len(at) and (weight == 0).any():
        # Zeros to zero; what else is nearest to it to the next value of its own sign, unless the codebook has none:
        # to change its sign would cost more than to lose it.
        lower, upper = max(int(at[0]) - 1, 0), min(int(at[0]) + 1, len(book) - 1)
        fell = (index == at[0]) & (weight != 0)
        index = np.where(fell, np.where(weight < 0, lower, upper), index)
        index = np.where(weight == 0, at[0], index)
    return np.asarray(index, dtype=np.int32)
