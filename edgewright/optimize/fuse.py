"""Fold BatchNorm into the layer before it (Jacob et al., arXiv 1712.05877, section 3.2). Imports torch."""

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgewright.optimize.rows import TechniqueRows
from edgewright.recipe import Fuse

__all__ = ["apply", "fuse"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def apply(model: fx.GraphModule, params: Fuse, rows: TechniqueRows) -> fx.GraphModule:
    """See `fuse`."""
    return fuse(model)


def fuse(model: fx.GraphModule) -> fx.GraphModule:
    """A copy in eval mode without the BatchNorms that directly follow a linear or convolution layer, and without
    layers that nothing uses. The outputs are the same, up to rounding."""
    # Eval mode: what is folded are the running statistics.
    model = copy.deepcopy(model).eval()
    for node in list(model.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        # Another reader of the layer's output would then see it normalized.
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, layer = model.get_submodule(str(node.target)), model.get_submodule(str(before.target))
        # Without running statistics a batch's own are used in eval mode too: nothing is constant.
        if not isinstance(norm, _NORMS) or norm.running_mean is None or _shared(model, before):
            continue
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            folded: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            folded = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        model.set_submodule(str(before.target), folded)
        node.replace_all_uses_with(before)
        model.graph.erase_node(node)
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


def _shared(model: fx.GraphModule, node: fx.Node) -> bool:
    return len([n for n in model.graph.nodes if n.op == "call_module" and n.target == node.target]) > 1
