"""Attention whose masks are minus infinity, or what people write for it, on every platform and in every number."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import fx, nn
from torch.nn.functional import scaled_dot_product_attention

from edgewright.artifact import Precision
from edgewright.export.masks import BOUND, bound_masks, masking_nodes
from edgewright.profile import Platform
from tests.export.end_to_end import exported_answers, exported_outputs, largest_difference

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTH, PLACES = 32, 6


class Causal(nn.Module):
    """Two heads of queries for each of keys, a place sees what is before it."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.queries, self.keys = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 2)
        self.values, self.out = nn.Linear(WIDTH, WIDTH // 2), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        def heads(y, count):
            return y.unflatten(-1, (count, -1)).transpose(1, 2)

        q = heads(self.queries(x), 4)
        k, v = (heads(y, 2).repeat_interleave(2, 1) for y in (self.keys(x), self.values(x)))
        if self.by_hand:
            mask = torch.full((PLACES, PLACES), float("-inf")).triu(1)
            mixed = ((q @ k.mT) / 2 + mask).softmax(-1) @ v
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2)).flatten(1)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16, Precision.INT8])
@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "fused"])
def test_a_place_sees_only_what_is_before_it(by_hand, platform, precision, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(64, PLACES, WIDTH)).astype(np.float32)
    found, expected = exported_answers(Causal(by_hand=by_hand), rows, platform, precision, tmp_path)
    # Without the mask the answers are off by the whole of the largest; 8 bits alone leave one in twenty.
    limit = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 5e-3, Precision.INT8: 0.06}[precision]
    assert largest_difference(found, expected) <= limit


MASKS = {
    "subtracted": lambda scores, hidden: scores - 1e9 * hidden,
    "of a shifted window": lambda scores, hidden: scores + -100.0 * hidden,
    "added, infinite": lambda scores, hidden: scores + torch.where(hidden > 0, float("-inf"), 0.0),
    "multiplied": lambda scores, hidden: scores * (1 - hidden) - hidden * 1e9,
}
ENDS = {
    "softmax": lambda masked: masked.softmax(1).cumsum(1),
    "maximum": lambda masked: masked.amax(1),
    "log of a sum": lambda masked: masked.logsumexp(1),
    "sigmoid": lambda masked: masked.sigmoid(),
}


class Padded(nn.Module):
    """Scores of places, of which the row's first column hides some."""

    def __init__(self, mask: str, end: str) -> None:
        super().__init__()
        self.scores, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mask, self.end = MASKS[mask], ENDS[end]

    def forward(self, x):
        hidden = (x[:, :, :1] > 0).float()
        return self.out(self.end(self.mask(self.scores(x), hidden))).flatten(1)


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
@pytest.mark.parametrize(
    ("mask", "end"),
    [
        *((mask, "softmax") for mask in MASKS),
        ("subtracted", "maximum"),
        ("multiplied", "log of a sum"),
        ("subtracted", "sigmoid"),
    ],
)
def test_scores_beside_a_mask_keep_their_levels_in_8_bits(mask, end, platform, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(64, PLACES, WIDTH)).astype(np.float32)
    rows[:, :, 0] = np.sign(rows[:, :, 0])
    rows[:, 0, 0] = -1  # of each row one place is seen
    answers, expected = exported_answers(Padded(mask, end), rows, platform, Precision.INT8, tmp_path)
    noise, signal = np.square(answers - expected).sum(), np.square(expected - expected.mean(0)).sum()
    assert 10 * np.log10(signal / noise) > 20


def test_a_mask_that_is_subtracted_stays_float32_and_so_does_what_it_masks() -> None:
    network = onnx.parser.parse_graph("""
        g (float[N, 4] x, float[N, 4] hidden) => (float[N, 4] y)
        <float[1] far = {1e9}, float[1] scale = {2}> {
            [scaled] scores = Mul(x, scale)
            [mask] low = Mul(hidden, far)
            [masked] rest = Sub(scores, low)
            [end] weights = Softmax(rest)
            [after] y = Mul(weights, scale)
        }
    """)
    names, note = masking_nodes(onnx.helper.make_model(network), is_int8=True)
    assert names == ["mask", "masked", "end"]
    assert note.startswith("masks of 1e+09 stay float32, and 3 operators")


@pytest.mark.parametrize(
    "function",
    [
        lambda x, hidden: (x - 1e9 * hidden).softmax(1),
        lambda x, hidden: (x - 1_000_000_000 * (hidden > 0)).softmax(1),
        lambda x, hidden: (x - 1e9 * hidden).amax(1),
    ],
    ids=["softmax", "whole", "maximum"],
)
def test_a_mask_that_is_subtracted_is_bounded_in_half_precision(function) -> None:
    x, hidden = torch.randn(3, 4), torch.eye(3, 4)
    module = fx.symbolic_trace(function)
    expected = module(x, hidden)
    assert bound_masks(module) == f"masks of 1e+09 became {BOUND:g}: half precision has nothing beyond 65504"
    torch.testing.assert_close(module(x, hidden), expected)
    assert module.half()(x.half(), hidden.half()).isfinite().all()


def test_places_in_a_large_table_are_no_mask() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Buffer(torch.tensor([70_000, 3]))

        def forward(self, x):
            return torch.index_select(x, 1, self.places).softmax(1)

    module = fx.symbolic_trace(Places())
    assert bound_masks(module) == ""
    assert module.places.tolist() == [70_000, 3]


class Encoder(nn.Module):
    """A layer of torch's own, told by an input of truth values which places of a row are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True, norm_first=True)
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, ids, padding):
        seen = (~padding).unsqueeze(-1).float()
        return self.out((self.layer(self.words(ids), src_key_padding_mask=padding) * seen).sum(1) / seen.sum(1))


@pytest.mark.parametrize("platform", Platform)
def test_an_encoder_is_told_its_padding(platform, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows = {
        "ids": generator.integers(0, 20, size=(24, PLACES)),
        "padding": np.arange(PLACES) >= generator.integers(2, PLACES + 1, size=(24, 1)),
    }
    answers, expected = exported_outputs(Encoder(), rows, platform, Precision.FLOAT32, tmp_path)
    assert largest_difference(answers[0], expected[0]) < 1e-5
