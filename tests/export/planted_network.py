"""A small network with one of everything that conversions get wrong, in torch functions that a graph file may hold."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgewright.artifact import Precision
from edgewright.export import coreml, litert, onnx_runtime
from edgewright.export.converter import convert_in_child
from edgewright.export.runs import Arrays
from edgewright.intake import torch_graph
from edgewright_runtime.bundle.manifest import TensorSpec

ROWS = 4
HEADS, WIDTH, TOKENS = 2, 12, 16
_INPUTS = [TensorSpec("image", (-1, 3, 16, 16), "float32")]
_OUTPUTS = [TensorSpec("scores", (-1, 6), "float32")]


class Attention(nn.Module):
    """Without a module of torch's own, whose operators no converter would show."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        query, key, value = (self.heads(layer(normal)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(torch.matmul(query, torch.transpose(key, 2, 3)) * 0.9, dim=-1)
        mixed = torch.transpose(torch.matmul(weights, value), 1, 2)
        return x + self.out(torch.reshape(mixed, (-1, TOKENS, WIDTH)))

    def heads(self, x: Tensor) -> Tensor:
        return torch.transpose(torch.reshape(x, (-1, TOKENS, HEADS, WIDTH // HEADS)), 1, 2)


class Network(nn.Module):
    """Image (N, 3, 16, 16) to scores (N, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.wide, self.leaky = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.LeakyReLU(0.1)
        self.depth, self.depth_norm, self.rectify = (
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.point, self.swish, self.shrink = nn.Conv2d(16, WIDTH, 1), nn.Hardswish(), nn.MaxPool2d(2)
        self.attention = Attention()
        self.up, self.gelu, self.head = nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 6)

    def forward(self, image: Tensor) -> Tensor:
        stem = functional.relu6(self.stem_norm(self.stem(image)))
        depth = self.rectify(self.depth_norm(self.depth(self.leaky(self.wide(stem)))))
        joined = torch.cat([stem + depth, self.grow(self.pool(depth))], 1)
        spread = self.shrink(self.swish(self.point(joined)))
        mixed = self.attention(torch.transpose(torch.flatten(spread, 2), 1, 2))
        rest = torch.mean(mixed[:, 1:], 1) * 0.01
        unit = rest * torch.reciprocal(torch.sum(torch.abs(rest), 1, True))
        return self.head(self.gelu(self.up(unit * 20.0)) + unit)


def network() -> Network:
    """With weights and statistics as after training, so that each of them shows."""
    torch.manual_seed(11)
    made = Network().eval()
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.05, 0.2)
            if isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm)):
                layer.weight.uniform_(0.5, 2)
                layer.bias.normal_(0, 0.5)
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2)
    return made


def rows() -> list[Arrays]:
    """Such as the finder is given: one row each."""
    images = np.random.default_rng(5).normal(size=(ROWS, 3, 16, 16)).astype(np.float32)
    return [{"image": images[i : i + 1]} for i in range(ROWS)]


def exported(folder: Path) -> dict[str, Path]:
    """The graph's file and, made of it by each platform's converter, the float32 files."""
    graph = folder / "network.graph"
    torch_graph.save(fx.symbolic_trace(network()), graph)
    files = {
        "graph": graph,
        "android": folder / "network.tflite",
        "ios": folder / "network.mlpackage",
        "edge_device": folder / "network.onnx",
    }
    common = {"graph": graph, "inputs": _INPUTS}
    convert_in_child(partial(litert.convert, **common, path=files["android"]), what="LiteRT")
    texts = dict.fromkeys(("short_description", "author", "version"), "a test")
    apple = {"outputs": _OUTPUTS, "compute": Precision.FLOAT32, "description": texts, "path": files["ios"]}
    convert_in_child(partial(coreml.convert, **common, **apple), what="Core ML")
    plain = folder / "plain.onnx"
    convert_in_child(partial(onnx_runtime.convert, **common, outputs=["scores"], path=plain), what="ONNX")
    convert_in_child(partial(onnx_runtime.optimize, source=plain, path=files["edge_device"]), what="ONNX Runtime")
    return files
