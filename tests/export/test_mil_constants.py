"""Compressed weights of iOS 18: the examples of the operators' own documentation, and bits as a file packs them."""

import numpy as np
import torch

from edgewright.export.mil_operators.arguments import Arguments
from edgewright.export.mil_operators.constants import OPERATORS
from edgewright.export.mil_program import TensorDeclaration, _unpacked


def decoded(kind: str, **operands: object) -> list[list[float]] | list[torch.Tensor]:
    given = Arguments({name: [torch.as_tensor(value)] for name, value in operands.items()}, 1)
    found = OPERATORS[kind](given)
    return found if isinstance(found, list) else found.tolist()


def test_palette_for_each_group_of_rows():
    indices = torch.tensor([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2)
    lut = torch.tensor([1.0, 5.0, 9.0, 13.0, 2.0, 10.0, 18.0, 26.0]).reshape(2, 1, 4, 1)
    expected = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    assert decoded("constexpr_lut_to_dense", indices=indices, lut=lut) == expected


def test_palette_of_vectors_fills_the_axis_that_is_named():
    indices = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 0]]])
    a, b = [1, 2, 3], [4, 5, 6]
    lut = torch.tensor([a, b]).reshape(1, 1, 1, 2, 3)
    rows = decoded("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=1)
    assert rows[0] == [[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]]
    assert rows[1] == [[4, 4], [5, 5], [6, 6], [1, 1], [2, 2], [3, 3]]
    columns = decoded("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=2)
    assert columns == [[a + a, b + a], [b + b, a + a]]


MASK = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]])
INDICES = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0, 1])


def test_palette_of_the_nonzero_elements():
    lut = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    mask, values = decoded("constexpr_lut_to_sparse", indices_mask=MASK, indices_nonzero_data=INDICES, lut=lut)
    assert torch.equal(mask, MASK.bool())
    assert values.tolist() == [2, 3, 3, 2, 3, 3, 2, 2, 3]
    dense = decoded("constexpr_sparse_to_dense", mask=mask, nonzero_data=values)
    assert dense[2] == [0, 3, 2, 0, 2, 0]


def test_palette_of_vectors_of_the_nonzero_elements():
    lut = torch.tensor([[2.0, 2.0], [3.0, 3.0]]).reshape(1, 1, 2, 2)
    mask, values = decoded(
        "constexpr_lut_to_sparse", indices_mask=MASK, indices_nonzero_data=INDICES, lut=lut, vector_axis=0
    )
    assert torch.equal(mask, MASK.bool().repeat_interleave(2, 0))
    dense = decoded("constexpr_sparse_to_dense", mask=mask, nonzero_data=values)
    assert dense[0] == dense[1] == [2, 3, 0, 0, 0, 0]
    assert dense[4] == dense[5] == [0, 3, 2, 0, 2, 0]


def test_blocks_have_scales_and_offsets_of_their_own():
    data = torch.arange(8, dtype=torch.int8).reshape(2, 4)
    scale, offset = torch.tensor([[1.0, 10.0], [2.0, 0.5]]), torch.tensor([[0, 1], [4, -2]], dtype=torch.int8)
    expected = [[0, 1, 10, 20], [0, 2, 4, 4.5]]
    assert decoded("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=offset) == expected
    mask = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]])
    kept, values = decoded(
        "constexpr_sparse_blockwise_shift_scale",
        data_mask=mask, nonzero_data=data[mask.bool()], scale=scale, offset=offset,
    )  # fmt: skip
    assert torch.equal(kept, mask.bool())
    assert values.tolist() == [0, 10, 2, 4.5]


def test_elements_of_less_than_a_byte_are_packed_from_the_lowest_bit():
    assert _unpacked(b"\x21\x43", TensorDeclaration("x", "UINT4", (2, 2))).tolist() == [[1, 2], [3, 4]]
    assert _unpacked(b"\xf8\x07", TensorDeclaration("x", "INT4", (3,))).tolist() == [-8, -1, 7]
    assert _unpacked(bytes([0b11_010_001, 0b0000_0_101]), TensorDeclaration("x", "UINT3", (4,))).tolist() == [
        1,
        2,
        7,
        2,
    ]
    assert _unpacked(b"\x05", TensorDeclaration("x", "UINT1", (4,))).tolist() == [1, 0, 1, 0]
    assert _unpacked(b"\x05", TensorDeclaration("x", "UINT1", (4,))).dtype == np.uint8
