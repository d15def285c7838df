"""The networks that `own_models` lists. Imports torch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

# The class names are the roster's; each has its point in one line.


def _block(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(24, 10)
        self.bias = nn.Parameter(torch.zeros(24))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t(), self.bias)


class TiedLanguageModel(nn.Module):
    """Input and output embeddings are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.layer = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32))
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embedding(input_ids)
        return self.head(x + self.layer(x))


class UsedTwice(nn.Module):
    """One block is called three times, with BatchNorm inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = _block(3, 16, 2), _block(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x.mean((2, 3)))


class Siamese(nn.Module):
    """Two inputs go through the same layers and are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(3, 8, 2), _block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.head(self.body(left)), self.head(self.body(right))
        return F.cosine_similarity(a, b).unsqueeze(1)


class TableAndImage(nn.Module):
    """Inputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(3, 8, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.table, self.head = nn.Linear(6, 8), nn.Linear(40, 3)

    def forward(self, picture: Tensor, table: Tensor) -> Any:
        return self.head(torch.cat([self.body(picture), torch.relu(self.table(table))], 1))


class TableWithCategories(nn.Module):
    """Numbers and categories: several embeddings beside standardized columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(7, 4), nn.Embedding(12, 4)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Any:
        embedded = [self.first(categories[:, 0]), self.second(categories[:, 1])]
        return self.head(torch.cat([self.norm(numbers), *embedded], 1))


class ManyHeads(nn.Module):
    """Three outputs of different rank."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(3, 16, 2), _block(16, 16, 2))
        self.mask, self.classes, self.box = nn.Conv2d(16, 2, 1), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        pooled = x.mean((2, 3))
        return self.classes(pooled), torch.sigmoid(self.box(pooled)), self.mask(x)


class NestedOutputs(nn.Module):
    """A dictionary with a tuple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.scale = nn.Linear(12, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x))
        return {"distribution": (self.mean(x), F.softplus(self.scale(x))), "hidden": x}


class Conv1dClassifier(nn.Module):
    """Accelerometer windows: convolutions and pools of one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(128, 6)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


class DilatedConv1d(nn.Module):
    """A temporal convolutional network: causal padding, growing dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4 if i == 0 else 8, 8, 3, dilation=2**i) for i in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(F.pad(x, (2 * 2**i, 0))))
        return self.head(x[:, :, -1])


class WaveNet(nn.Module):
    """Gated dilated convolutions with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(4))
        self.mixes = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(4))
        self.head = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x, skipped = self.stem(x), []
        for i, (gate, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            filtered, opened = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = mix(torch.tanh(filtered) * torch.sigmoid(opened))
            x = x + y
            skipped.append(y)
        return self.head(torch.relu(sum(skipped)))


class Conv3dClassifier(nn.Module):
    """Volumes: convolutions, norms and pools of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(8, 16, 3, stride=(1, 2, 2), padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


class _Recurrent(nn.Module):
    """(N, T, 8) through a recurrent layer, the last step to a head."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(x)[0][:, -1])


class LstmForward(_Recurrent):
    """Two layers, one direction."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(8, 16, 2, batch_first=True), 16)


class LstmBothWays(_Recurrent):
    """Two layers, both directions."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True), 24)


class LstmTimeFirst(nn.Module):
    """Time is the layer's first axis; the whole sequence is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(x.transpose(0, 1))[0]).transpose(0, 1)


class LstmProjected(_Recurrent):
    """The state is projected to fewer values."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(8, 16, batch_first=True, proj_size=6), 6)


class GruForward(_Recurrent):
    """One layer without biases."""

    def __init__(self) -> None:
        super().__init__(nn.GRU(8, 16, batch_first=True, bias=False), 16)


class GruBothWays(nn.Module):
    """Both directions, time first, and the last states as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(8, 12, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Any:
        states = self.layer(x.transpose(0, 1))[1]
        return self.head(torch.cat([states[0], states[1]], 1))


class RnnTanh(_Recurrent):
    """An Elman network."""

    def __init__(self) -> None:
        super().__init__(nn.RNN(8, 16, batch_first=True), 16)


class RnnReluBothWays(_Recurrent):
    """An Elman network of both directions with ReLU."""

    def __init__(self) -> None:
        super().__init__(nn.RNN(8, 12, batch_first=True, bidirectional=True, nonlinearity="relu"), 24)


class LstmWithState(nn.Module):
    """A stream: the state comes in and goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        y, (hidden, cell) = self.layer(x, (h.unsqueeze(0), c.unsqueeze(0)))
        return torch.sigmoid(self.head(y[:, -1])), hidden[0], cell[0]


class UnrolledCell(nn.Module):
    """A GRU cell in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Any:
        state = x.new_zeros(x.shape[0], 12)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class ConvLstm(nn.Module):
    """Gates by convolution over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Conv2d(1 + 8, 32, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Any:
        state = cell = x.new_zeros(x.shape[0], 8, 16, 16)
        for frame in x.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, state], 1)).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(state)


class SamePadding(nn.Module):
    """Stride 2 with TensorFlow's SAME padding, sizes known at the time of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 5, 2)])
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            pads: list[int] = []
            for size, kernel in zip(reversed(x.shape[2:]), reversed(layer.kernel_size), strict=True):
                pad = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
                pads += [pad // 2, pad - pad // 2]
            x = torch.relu(layer(F.pad(x, pads)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(self.norm(x), 1), 1))


class SamePaddingEven(SamePadding):
    """On even sizes, where SAME pads one side only."""


class ChunkAndSplit(nn.Module):
    """ShuffleNet's channel split and shuffle, and unequal splits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = _block(3, 16, 2), _block(8, 8), _block(8, 8)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        a, b = self.stem(x).chunk(2, 1)
        x = torch.cat([self.left(a), b + self.right(b)], 1)
        x = x.view(x.shape[0], 2, 8, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        first, second, third = x.split([4, 4, 8], 1)
        return self.head(torch.cat([first * second, second, third], 1).mean((2, 3)))


class CumulativeSum(nn.Module):
    """Running means and maxima along time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.layer(x))
        steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype).view(1, -1, 1)
        return self.head(torch.cat([x.cumsum(1) / steps, x.amax(1, keepdim=True).expand_as(x)], 2))


class RollAndFlip(nn.Module):
    """Cyclic shifts, flips and a pixel unshuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = _block(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        x = x + torch.roll(x, (2, -3), (2, 3)) + x.flip(3)
        x = F.pixel_unshuffle(x, 2)
        return self.head(self.block(x).mean((2, 3)))


class Concatenation(nn.Module):
    """Concatenated, stacked and interleaved inputs of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 6), nn.Linear(5, 6), nn.Linear(31, 2)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        a, b = torch.relu(self.a(x)), torch.relu(self.b(y))
        mixed = torch.stack([a, b, a * b], 2).flatten(1)
        return self.head(torch.cat([mixed, x, y], 1))


class UNet(nn.Module):
    """Down, up by transposed convolution, and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _block(3, 8), _block(8, 16), _block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.join2, self.join1, self.head = _block(32, 16), _block(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        x = self.middle(F.max_pool2d(b, 2))
        x = self.join2(torch.cat([self.up2(x), b], 1))
        return self.head(self.join1(torch.cat([self.up1(x), a], 1)))


class Decoder(nn.Module):
    """A generator: a vector becomes an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 32 * 16)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Any:
        return self.body(self.stem(z).view(-1, 32, 4, 4))


class SuperResolution(nn.Module):
    """Pixel shuffle on top of a bilinear enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.pixel_shuffle(self.body(x), 2) + large


class GroupsAndDilation(nn.Module):
    """Depthwise, grouped, dilated and rectangular kernels; reflected and replicated borders."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=2, dilation=2), nn.ReLU6(),
            nn.Conv2d(12, 12, 5, 2, 2, groups=12), nn.Hardswish(),
            nn.Conv2d(12, 24, (1, 7), padding=(0, 3), groups=4, padding_mode="reflect"), nn.ReLU(),
            nn.Conv2d(24, 24, (7, 1), padding=(3, 0), groups=24, padding_mode="replicate"), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).amax((2, 3)))


class SqueezeExcite(nn.Module):
    """Channel attention by a pooled branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = _block(3, 16, 2), nn.Linear(16, 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head((x * self.gate(x)).mean((2, 3)))


class EveryActivation(nn.Module):
    """Activations, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        kinds = [
            nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"),
            nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softsign(), nn.Tanhshrink(), nn.Hardtanh(), nn.LogSigmoid(),
        ]  # fmt: skip
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in kinds)
        self.kinds, self.head = nn.ModuleList(kinds), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            x = x + kind(layer(x))
        return F.log_softmax(self.head(x), 1)


class EveryNorm(nn.Module):
    """Batch, group, instance and layer norms, and one of root mean squares."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(12), nn.GroupNorm(3, 12), nn.InstanceNorm2d(12, affine=True), nn.LayerNorm([12, 16, 16])]
        )
        self.last, self.head = nn.RMSNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for norm in self.norms:
            x = torch.relu(norm(x)) + 0.1 * x
        return self.head(self.last(F.local_response_norm(x, 3).mean((2, 3))))


class EveryPool(nn.Module):
    """Pools with ceilings, paddings, strides and powers; an adaptive one that does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 8)
        self.pools = nn.ModuleList([
            nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.LPPool2d(2, 2), nn.AdaptiveAvgPool2d(4), nn.AdaptiveMaxPool2d(3),
        ])  # fmt: skip
        self.head = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(torch.cat([pool(x).mean((2, 3)) for pool in self.pools], 1))


class TransformerEncoder(nn.Module):
    """torch's own encoder, with its fused path for inference."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
        self.position = nn.Parameter(torch.randn(1, 10, 32) * 0.1)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x + self.position)[:, 0])


class TransformerPair(nn.Module):
    """torch's own encoder and decoder with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, source: Tensor, target: Tensor) -> Any:
        return self.model(source, target, tgt_mask=self.causal, tgt_is_causal=True)


class MultiheadCross(nn.Module):
    """Cross-attention that also returns its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, query: Tensor, memory: Tensor) -> Any:
        return self.attention(query, memory, memory)


class PointNet(nn.Module):
    """Points share their layers; a maximum over the set."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1))
        self.transform, self.head = nn.Linear(32, 9), nn.Linear(32, 4)

    def forward(self, points: Tensor) -> Any:
        turned = self.transform(self.points(points).amax(2)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.points(torch.bmm(turned, points)).amax(2))


class GraphNetwork(nn.Module):
    """Two graph convolutions with a normalized adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Any:
        scale = adjacency.sum(2).rsqrt()
        norm = scale.unsqueeze(2) * adjacency * scale.unsqueeze(1)
        return norm @ self.second(torch.relu(norm @ self.first(nodes)))


class MelSpectrogram(nn.Module):
    """A Fourier transform by convolution, a filter bank, a logarithm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(128) / 128
        waves = 2 * torch.pi * torch.arange(33).unsqueeze(1) * time
        window = torch.hann_window(128)
        self.register_buffer("basis", torch.cat([torch.cos(waves) * window, torch.sin(waves) * window]).unsqueeze(1))
        self.bank, self.head = nn.Parameter(torch.rand(16, 33)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        real, imaginary = F.conv1d(x.unsqueeze(1), self.basis, stride=64).chunk(2, 1)
        mel = self.bank @ (real.square() + imaginary.square())
        return self.head(torch.log(mel + 1e-3).mean(2))


class SquashedCapsules(nn.Module):
    """Capsules with one step of routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 9, 4)
        self.weight = nn.Parameter(torch.randn(4, 144, 8, 6) * 0.1)

    def forward(self, x: Tensor) -> Any:
        x = self._squashed(torch.relu(self.stem(x)).view(x.shape[0], 8, 144).transpose(1, 2))
        votes = torch.einsum("nij,kijm->nkim", x, self.weight)
        agreed = (votes * votes.mean(2, keepdim=True)).sum(3, keepdim=True).softmax(1)
        return torch.linalg.vector_norm(self._squashed((agreed * votes).sum(2)), dim=2)

    @staticmethod
    def _squashed(x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return x * square / ((1 + square) * torch.sqrt(square + 1e-6))


class MixtureOfExperts(nn.Module):
    """Dense gating over four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(16, 4), nn.ModuleList(nn.Linear(16, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(1)
        return (torch.stack([expert(x) for expert in self.experts], 1) * weights.unsqueeze(2)).sum(1)


class EinsumBilinear(nn.Module):
    """Contractions in Einstein's notation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5, 8) * 0.2)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        turned = torch.einsum("nti,iko->ntko", x, self.weight)
        return torch.einsum("ntko,nto->nk", turned, y), torch.einsum("nti,nsi->nts", x, y)


class GridSampler(nn.Module):
    """A spatial transformer: an affine grid and bilinear sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.locate, self.body = nn.Linear(3, 6), nn.Sequential(_block(3, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.register_buffer("identity", torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))

    def forward(self, x: Tensor) -> Any:
        turned = 0.1 * self.locate(x.mean((2, 3))).view(-1, 2, 3) + self.identity
        grid = F.affine_grid(turned, [x.shape[0], 3, 24, 24], align_corners=False)
        return self.body(F.grid_sample(x, grid, align_corners=False))


class NormalizedEmbedding(nn.Module):
    """A face or speaker embedding of length one, by a clamped power mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(_block(3, 16, 2), _block(16, 32, 2)), nn.Linear(32, 16)
        self.power = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).clamp(min=1e-6).pow(self.power).mean((2, 3)).pow(1 / self.power)
        return F.normalize(self.head(x))


class MaskedMean(nn.Module):
    """A mean over as many steps as a length says; masked softmax pooling beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.score, self.head = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(32, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        x = torch.relu(self.layer(x))
        kept = torch.arange(x.shape[1]).unsqueeze(0) < lengths
        mean = (x * kept.unsqueeze(2)).sum(1) / lengths.clamp(min=1)
        weights = self.score(x).squeeze(2).masked_fill(~kept, float("-inf")).softmax(1)
        return self.head(torch.cat([mean, (x * weights.unsqueeze(2)).sum(1)], 1))


class TopKGate(nn.Module):
    """The three greatest values, their places, and a gather by them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(12, 12), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        values, places = self.layer(x).topk(3, 1)
        return self.head(torch.cat([values, x.gather(1, places)], 1))


class ScaledInput(nn.Module):
    """Pixels 0-255 are normalized inside the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([123.7, 116.3, 103.5]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([58.4, 57.1, 57.4]).view(1, 3, 1, 1))
        self.body, self.head = nn.Sequential(_block(3, 8, 2), _block(8, 16, 2)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body((x - self.mean) / self.scale).mean((2, 3))).softmax(1)


class DenseWithSpectrogram(nn.Module):
    """Keyword spotting: depthwise-separable convolutions over a spectrogram with one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 16, 2)
        self.body = nn.Sequential(_block(16, 16, groups=16), nn.Conv2d(16, 24, 1), nn.ReLU(), _block(24, 24, groups=24))
        self.head = nn.Linear(24 * 16 * 12, 6)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(self.stem(x)).flatten(1))
