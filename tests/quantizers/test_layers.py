"""A weight seen as matrices, and back."""

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.quantizers.layers import MatrixView, Weights


@pytest.mark.parametrize(
    ("shape", "groups", "rows", "columns", "is_transposed"),
    [
        ((6, 4), 1, 6, 4, False),
        ((6, 4), 3, 2, 4, False),
        ((4, 6), 1, 6, 4, True),
        ((5, 4, 6), 5, 6, 4, True),
        ((6, 2, 3, 3), 2, 3, 18, False),
    ],
)
def test_there_and_back(shape, groups, rows, columns, is_transposed):
    view = MatrixView("w", shape, groups, rows, columns, is_transposed)
    weight = torch.randn(shape, dtype=torch.bfloat16)
    matrices = view.matrices(weight)
    assert matrices.shape == (groups, rows, columns)
    assert matrices.dtype == torch.float32
    assert matrices.is_contiguous()
    assert torch.equal(view.weight(matrices).bfloat16(), weight)
    inputs = torch.randn(columns)
    if groups == 1:
        expected = inputs @ weight.float() if is_transposed else weight.float() @ inputs
        torch.testing.assert_close(matrices[0] @ inputs, expected)


def test_other_shapes_are_refused():
    view = MatrixView("w", (6, 4), 1, 6, 4, False)
    with pytest.raises(InputError, match=r"w: expected a weight of shape \(6, 4\), found \(4, 6\)"):
        view.matrices(torch.zeros(4, 6))
    with pytest.raises(InputError, match=r"w: expected matrices of shape \(1, 6, 4\), found \(6, 4\)"):
        view.weight(torch.zeros(6, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_parameters_are_found(dtype):
    packed, experts = nn.Parameter(torch.zeros(6, 2, dtype=dtype)), nn.Parameter(torch.zeros(3, 4, 5, dtype=dtype))
    weights = Weights([("packed", packed), ("experts", experts), ("bias", nn.Parameter(torch.zeros(3)))])
    assert list(weights.parameters) == ["packed", "experts"]
    blocks = [weights.matrix(part) for part in packed.chunk(3)]
    assert [(block.first, block.count) for block in blocks] == [(0, 1), (1, 1), (2, 1)]
    assert blocks[0].view == MatrixView("packed", (6, 2), 3, 2, 2, False)
    whole = weights.matrix(packed)
    assert (whole.first, whole.count, whole.view) == (0, 3, blocks[0].view)
    rest = weights.matrix(packed[2:])
    assert (rest.first, rest.count) == (1, 2)
    one = weights.matrix(experts[1].T)
    assert (one.first, one.count) == (1, 1)
    assert one.is_one_of_several
    assert one.view == MatrixView("experts", (3, 4, 5), 3, 5, 4, True)
    assert weights.matrix(experts.transpose(1, 2)).count == 3
    assert weights.matrix(torch.zeros(6, 2)) is None
    assert weights.matrix(packed.clone()) is None
    assert not weights.used_differently


def test_another_use_than_the_first():
    packed = nn.Parameter(torch.zeros(6, 2))
    weights = Weights([("packed", packed)])
    assert weights.matrix(packed).view.groups == 1
    assert weights.matrix(packed[:2]) is None
    assert weights.used_differently == {"packed"}
