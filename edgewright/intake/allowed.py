"""The functions and layers that an internal graph may hold: what the importer emits and the file format reads.

Runs in a child process: imports torch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgewright.intake.aten import SIZE_FUNCTIONS

__all__ = ["FUNCTIONS", "FUNCTION_NAMES", "LAYERS", "RECURRENT"]

_TORCH = """
abs acos acosh add all amax amin any argmax argmin argsort asin asinh atan atanh bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_to cat ceil chunk clamp clamp_min clamp_max clone
cos cosh cumprod cumsum det diagonal div einsum eq erf exp expm1 flatten flip floor floor_divide fmod full full_like
gather ge gt index_select isinf isnan le linspace log log1p log2 log_softmax logical_and logical_not logical_or
logical_xor logsumexp lt masked_fill matmul max maximum mean min minimum mm mul ne neg norm ones ones_like permute pow
prod reciprocal relu remainder repeat_interleave reshape roll round rsqrt scatter scatter_reduce select sigmoid sign
sin sinh softmax sort split sqrt square squeeze stack std sub sum swapaxes take_along_dim tan tanh tile topk transpose
tril triu true_divide unbind unflatten unsqueeze var where zeros zeros_like
"""
_FUNCTIONAL = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d batch_norm celu conv1d
conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d elu embedding gelu glu grid_sample group_norm
hardsigmoid hardswish hardtanh instance_norm interpolate layer_norm leaky_relu linear local_response_norm logsigmoid
max_pool1d max_pool2d max_pool3d mish normalize one_hot pad pixel_shuffle pixel_unshuffle prelu relu6 rms_norm
scaled_dot_product_attention selu silu softplus softsign threshold
"""
_TENSOR = "to expand size contiguous view"
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_LAYERS = """
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d
BatchNorm3d CELU Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Dropout Dropout2d ELU Embedding
Flatten GELU GRU GroupNorm Hardsigmoid Hardswish Hardtanh Identity InstanceNorm1d InstanceNorm2d InstanceNorm3d LSTM
LayerNorm LeakyReLU Linear LogSoftmax MaxPool1d MaxPool2d MaxPool3d Mish PReLU PixelShuffle PixelUnshuffle RMSNorm RNN
ReLU ReLU6 SELU SiLU Sigmoid Softmax Softplus Softsign Tanh Upsample
"""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"torch.{n}": getattr(torch, n) for n in _TORCH.split()},
    **{f"torch.nn.functional.{n}": getattr(functional, n) for n in _FUNCTIONAL.split()},
    **{f"torch.Tensor.{n}": getattr(torch.Tensor, n) for n in _TENSOR.split()},
    **SIZE_FUNCTIONS,
}
"""By the name that stands in the file. Each is pure: it computes on tensors and touches nothing else."""

# The first name wins where torch has two for one function, so that a file does not depend on the order of imports.
FUNCTION_NAMES: dict[Any, str] = {function: name for name, function in reversed(FUNCTIONS.items())}

LAYERS: dict[str, type[nn.Module]] = {n: getattr(nn, n) for n in _LAYERS.split()}
