"""Operators of the Core ML evaluator that recurrent and indexing networks need, against torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgewright.export.mil_operators import OPERATORS, Arguments


def called(kind, results=1, **operands):
    given = {}
    for name, value in operands.items():
        values = value if isinstance(value, list) else [value]
        given[name] = [v if isinstance(v, (str, torch.Tensor)) else torch.as_tensor(v) for v in values]
    return OPERATORS[kind](Arguments(given, results))


@pytest.mark.parametrize("both", [False, True])
def test_lstm_has_its_gates_in_core_mls_order(both):
    layer = nn.LSTM(3, 4, bidirectional=both)
    x, start = torch.rand(5, 2, 3), [torch.rand(2 if both else 1, 2, 4) for _ in range(2)]

    def gates(name):
        enters, forgets, new, leaves = getattr(layer, name).detach().chunk(4)
        return torch.cat([enters, forgets, leaves, new])

    weights = {}
    for way, side in (("", ""), ("_reverse", "_back"))[: 2 if both else 1]:
        weights[f"weight_ih{side}"], weights[f"weight_hh{side}"] = (
            gates(f"weight_ih_l0{way}"),
            gates(f"weight_hh_l0{way}"),
        )
        weights[f"bias{side}"] = gates(f"bias_ih_l0{way}") + gates(f"bias_hh_l0{way}")
    state = {
        name: torch.cat(list(t), -1) if both else t[0]
        for name, t in zip(("initial_h", "initial_c"), start, strict=True)
    }
    direction = "bidirectional" if both else "forward"
    found = called("lstm", 3, x=x, direction=direction, output_sequence=True, **state, **weights)
    with torch.no_grad():
        expected, (hidden, cell) = layer(x, tuple(start))
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], torch.cat(list(hidden), -1))
    torch.testing.assert_close(found[2], torch.cat(list(cell), -1))


@pytest.mark.parametrize("mode", ["add", "update"])
def test_scatter_along_an_axis_of_slices(mode):
    data, updates = torch.zeros(2, 5, 3), torch.rand(2, 2, 3)
    found = called("scatter", data=data, indices=torch.tensor([4, -5]), updates=updates, axis=1, mode=mode)
    expected = np.zeros((2, 5, 3), np.float32)
    expected[:, 4], expected[:, 0] = updates[:, 0], updates[:, 1]
    np.testing.assert_array_equal(found.numpy(), expected)


def test_scatter_of_single_elements_and_of_indices():
    data, places = torch.zeros(2, 4), torch.tensor([[1, 1], [3, 0]])
    found = called("scatter_along_axis", data=data, indices=places, updates=torch.ones(2, 2), axis=1, mode="add")
    assert found.tolist() == [[0, 2, 0, 0], [1, 0, 0, 1]]
    nd = called(
        "scatter_nd", data=data, indices=torch.tensor([[0, 2], [1, 3]]), updates=torch.tensor([5.0, 6.0]), mode="add"
    )
    assert nd.tolist() == [[0, 0, 5, 0], [0, 0, 0, 6]]


def test_images_are_sampled_on_a_grid_and_by_a_matrix():
    x, theta = torch.rand(1, 2, 6, 5), torch.tensor([[[0.8, 0.1, 0.2], [-0.1, 0.9, 0.0]]])
    grid = functional.affine_grid(theta, [1, 2, 4, 3], align_corners=False)
    expected = functional.grid_sample(x, grid, align_corners=False)
    settings = {
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": 0.0,
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": False,
    }
    torch.testing.assert_close(called("resample", x=x, coordinates=grid, **settings), expected)
    sizes = {"output_height": 4, "output_width": 3}
    found = called("affine", x=x, transform_matrix=theta.reshape(1, 6), **sizes, **settings)
    torch.testing.assert_close(found, expected)
