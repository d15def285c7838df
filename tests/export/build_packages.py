"""Run by itself: small torch modules to saved Core ML packages, each with torch's own answer beside it.

One process for all of them, since importing coremltools is what costs.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

for unneeded in ("tensorflow", "sklearn", "xgboost", "libsvm"):
    sys.modules[unneeded] = None  # type: ignore[assignment]

import coremltools as ct  # noqa: E402 - after the frameworks that it must not find
import coremltools.optimize.coreml as compression  # noqa: E402

del sys.modules["sklearn"]  # its k-means is imported when it is asked for
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

Tensor = torch.Tensor


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


IMAGE, ROW = (1, 4, 8, 8), (1, 6)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "activations": (
        lambda x: functional.gelu(x) + functional.silu(x) + functional.elu(x) + functional.softplus(x),
        ROW,
    ),
    "gelu_tanh": (lambda x: functional.gelu(x, approximate="tanh"), ROW),
    "leaky": (lambda x: functional.leaky_relu(x, 0.2) + functional.relu6(3 * x) + functional.hardsigmoid(x), ROW),
    "hardswish": (functional.hardswish, ROW),
    "arithmetic": (lambda x: (x.abs() + 1).sqrt() - (x * x + 1).rsqrt() + torch.exp(x) / (2 + torch.tanh(x)), ROW),
    "logarithm": (lambda x: torch.log(x.abs() + 0.5) + (x.abs() + 1) ** 1.5, ROW),
    "trigonometry": (lambda x: torch.sin(x) + torch.cos(x) + torch.atan(x) + torch.erf(x), ROW),
    "rounding": (lambda x: torch.floor(3 * x) + torch.ceil(3 * x) + torch.round(3 * x) + torch.sign(x), ROW),
    "comparison": (lambda x: torch.where(torch.logical_or((x > 0) & (x <= 0.5), x < -1), x, -x), ROW),
    "missing": (lambda x: torch.where(torch.isnan(x / x.clamp(min=0)), torch.tensor(9.0), x), ROW),
    "integers": (lambda x: ((x * 10).to(torch.int32) // 3 + (x * 10).to(torch.int32) % 4).float(), ROW),
    "softmax": (lambda x: torch.softmax(x, 1) + torch.log_softmax(x, 1), ROW),
    "reductions": (lambda x: x.mean((2, 3)) + x.amax((2, 3)) + x.sum((2, 3)) - x.amin((2, 3)), IMAGE),
    "norms": (lambda x: x.norm(dim=1) + torch.logsumexp(x, 1), ROW),
    "variance": (lambda x: x.var(1) + x.std(1), ROW),
    "argmax": (lambda x: x.argmax(1).float() + x.argmin(1).float(), ROW),
    "cumulative": (lambda x: x.cumsum(1), ROW),
    "slices": (lambda x: x[:, 1:3, ::2, -4:] + x[:, :2, 1::2, 2:6], IMAGE),
    "flip": (lambda x: x.flip(3) + x.transpose(2, 3), IMAGE),
    "concat": (lambda x: torch.cat([x, x * 2, torch.zeros_like(x)], 1), IMAGE),
    "stack": (lambda x: torch.stack([x, x + 1], 2).reshape(1, -1, 8), IMAGE),
    "split": (lambda x: torch.split(x, [1, 3], 1)[1] * torch.chunk(x, 4, 1)[0], IMAGE),
    "tile": (lambda x: x.tile(2, 3) + x.repeat(1, 3).unsqueeze(0).squeeze(0), ROW),
    "gather": (lambda x: x[:, torch.tensor([3, 0, 0, 5])] + torch.gather(x, 1, torch.tensor([[1, 1, 2, 4]])), ROW),
    "embedding": (lambda x: functional.embedding((x.abs() * 3).to(torch.int64).clamp(max=4), torch.eye(5)), ROW),
    "topk": (lambda x: x.topk(3, 1).values + x.sort(1, descending=True).values[:, :3], ROW),
    "padding": (lambda x: functional.pad(x, (1, 2, 0, 1), value=0.5), IMAGE),
    "reflection": (lambda x: functional.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    "replication": (lambda x: functional.pad(x, (1, 2, 0, 1), mode="replicate"), IMAGE),
    "max_pool": (lambda x: functional.max_pool2d(x, 3, 2, 1), IMAGE),
    "avg_pool": (lambda x: functional.avg_pool2d(x, 3, 2, 1), IMAGE),
    "avg_pool_counting": (lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    "ceil_pool": (lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True), IMAGE),
    "ceil_padded_pool": (lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    "adaptive": (lambda x: functional.adaptive_avg_pool2d(x, 1) + functional.adaptive_avg_pool2d(x, 4).sum(), IMAGE),
    "nearest": (lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"), IMAGE),
    "bilinear": (lambda x: functional.interpolate(x, size=(13, 5), mode="bilinear", align_corners=False), IMAGE),
    "bilinear_aligned": (lambda x: functional.interpolate(x, size=(13, 5), mode="bilinear", align_corners=True), IMAGE),
    "shuffle": (lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 4), IMAGE),
    "matmul": (lambda x: (x @ x.transpose(2, 3)).softmax(-1) @ x, IMAGE),
    "einsum": (lambda x: torch.einsum("bchw,bcwk->bchk", x, x), IMAGE),
    "normalize": (lambda x: functional.normalize(x, dim=1), IMAGE),
    "attention": (lambda x: functional.scaled_dot_product_attention(x, x * 2, x + 1), IMAGE),
    "triangle": (lambda x: x.tril() + x.triu(1), IMAGE),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), IMAGE),
    "conv_same": (lambda: nn.Conv2d(4, 6, 4, padding="same"), IMAGE),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Hardswish()),
        IMAGE,
    ),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2), (1, 4, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "transposed_groups": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), IMAGE),
    "batch_norm": (lambda: nn.BatchNorm2d(4), IMAGE),
    "group_norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "instance_norm": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGE),
    "layer_norm": (lambda: nn.LayerNorm(8), IMAGE),
    "prelu": (lambda: nn.PReLU(4), IMAGE),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2, bias=False)), ROW),
}
WEIGHTS = 40, 32  # rows and columns of the layers that are compressed


def levels(kind: str) -> Tensor:
    """Weights that a scheme stores without loss, so what is read back must be equal."""
    random = torch.Generator().manual_seed(5)
    if kind == "linear":
        steps = torch.randint(-127, 128, WEIGHTS, generator=random)
        steps[:, 0] = 127
        return steps * 2.0 ** -torch.arange(6, 11).repeat(8).reshape(-1, 1)
    if kind.startswith("palette"):
        palette = torch.linspace(-1, 1, 2 ** int(kind.removeprefix("palette")))
        return palette[torch.randint(len(palette), WEIGHTS, generator=random)]
    return torch.randn(WEIGHTS, generator=random) * (torch.rand(WEIGHTS, generator=random) > 0.6)


def compressed(model: ct.models.MLModel, kind: str) -> ct.models.MLModel:
    if kind == "linear":
        operator = compression.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        return compression.linear_quantize_weights(model, compression.OptimizationConfig(operator))
    if kind.startswith("palette"):
        operator = compression.OpPalettizerConfig(mode="unique", weight_threshold=0)
        return compression.palettize_weights(model, compression.OptimizationConfig(operator))
    pruner = compression.OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.1, weight_threshold=0)
    return compression.prune_weights(model, compression.OptimizationConfig(pruner))


def ios18(kind: str) -> Callable[[ct.models.MLModel], ct.models.MLModel]:
    """How coremltools compresses for iOS 18: blocks, groups, vectors."""
    quantizer = {"mode": "linear_symmetric", "granularity": "per_block", "block_size": 8, "weight_threshold": 0}
    grouped = {"granularity": "per_grouped_channel", "group_size": 8, "weight_threshold": 0}

    def of(config: object) -> compression.OptimizationConfig:
        return compression.OptimizationConfig(config)

    def palette(**options: object) -> compression.OptimizationConfig:
        return of(compression.OpPalettizerConfig(mode="kmeans", **{"weight_threshold": 0, **options}))

    def linear(model: ct.models.MLModel, dtype: str, mode: str) -> ct.models.MLModel:
        config = of(compression.OpLinearQuantizerConfig(**{**quantizer, "dtype": dtype, "mode": mode}))
        return compression.linear_quantize_weights(model, config)

    return {
        "block_int4": lambda m: linear(m, "int4", "linear_symmetric"),
        "block_uint4": lambda m: linear(m, "uint4", "linear"),
        "block_int8": lambda m: linear(m, "int8", "linear_symmetric"),
        "grouped_palette": lambda m: compression.palettize_weights(m, palette(nbits=2, **grouped)),
        "palette3": lambda m: compression.palettize_weights(m, palette(nbits=3)),
        "vector_palette": lambda m: compression.palettize_weights(m, palette(nbits=4, cluster_dim=4)),
    }[kind]


IOS18 = (
    "block_int4", "block_uint4", "block_int8", "grouped_palette", "palette3", "vector_palette",
)  # fmt: skip


def save_ios18(kind: str, folder: Path) -> None:
    """A layer compressed, and the same decompressed by coremltools itself: both must give the same answer."""
    torch.manual_seed(17)
    module = nn.Linear(WEIGHTS[1], WEIGHTS[0]).eval()
    rows = torch.randn(2, 1, WEIGHTS[1])
    model = ct.convert(
        torch.jit.trace(module, rows[0], check_trace=False),
        inputs=[ct.TensorType("x", shape=(1, WEIGHTS[1]))],
        outputs=[ct.TensorType("y", dtype=np.float32)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    small = ios18(kind)(model)
    small.save(str(folder / f"ios18_{kind}.mlpackage"))
    compression.decompress_weights(small).save(str(folder / f"ios18_{kind}_dense.mlpackage"))
    np.save(folder / f"ios18_{kind}.npy", rows.numpy())


def save(name: str, module: nn.Module, shape: tuple[int, ...], folder: Path, scheme: str | None = None) -> None:
    torch.manual_seed(11)
    module = module.eval()
    rows = torch.randn(3, *shape)
    with torch.no_grad():
        traced = torch.jit.trace(module, rows[0], check_trace=False)
        expected = torch.stack([module(row) for row in rows])
    for precision in ("FLOAT32",) if scheme else ("FLOAT32", "FLOAT16"):
        model = ct.convert(
            traced,
            inputs=[ct.TensorType("x", shape=shape)],
            outputs=[ct.TensorType("y", dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=getattr(ct.precision, precision),
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
        model = compressed(model, scheme) if scheme else model
        model.save(str(folder / f"{name}.{precision}.mlpackage"))
    np.savez(folder / f"{name}.npz", x=rows.numpy(), y=expected.numpy())


def main(folder: Path) -> None:
    failures = {}
    cases = [(name, Of(function), shape, None) for name, (function, shape) in FUNCTIONS.items()]
    for name, (layer, shape) in LAYERS.items():
        torch.manual_seed(13)
        cases.append((name, layer(), shape, None))
    for scheme in ("linear", "palette1", "palette2", "palette4", "palette6", "palette8", "sparse"):
        module = nn.Linear(WEIGHTS[1], WEIGHTS[0])
        module.weight.data = levels(scheme)
        cases.append((f"compressed_{scheme}", module, (1, WEIGHTS[1]), scheme))
    for name, module, shape, scheme in cases:
        try:
            save(name, module, shape, folder, scheme)
        except Exception as e:
            failures[name] = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    for kind in IOS18:
        try:
            save_ios18(kind, folder)
        except Exception as e:
            failures[f"ios18_{kind}"] = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    (folder / "failures.json").write_text(json.dumps(failures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
