"""Nearest levels, against a search over all of them."""

import math

import pytest
import torch

from metaq.assign import check_symbols, nearest, reconstruct, symbol_range
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError

TABLE = TableCodebook((-1.5, -0.25, 0.0, 0.5, 2.0), 2)


def weights(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_level_is_nearer(dtype):
    values = weights(40, 5).to(dtype)
    distances = (values.double().unsqueeze(-1) - torch.from_numpy(TABLE.table).double()).abs()
    symbols = nearest(values, TABLE)
    assert symbols.dtype == torch.int32
    assert symbols.shape == values.shape
    chosen = distances.gather(-1, (symbols + TABLE.origin).long().unsqueeze(-1)).squeeze(-1)
    assert torch.equal(chosen, distances.min(-1).values)


def test_no_multiple_is_nearer():
    values, codebook = weights(1000), UniformCodebook(0.3)
    error = (values - reconstruct(nearest(values, codebook), codebook, torch.float64)).abs()
    assert float(error.max()) <= 0.15 + 1e-7


def test_ties():
    assert nearest(torch.tensor([-0.125, 0.25, 1.25]), TABLE).tolist() == [-1, 0, 1]
    assert nearest(torch.tensor([0.25, 0.75, -0.25, -0.75]), UniformCodebook(0.5)).tolist() == [0, 2, 0, -2]


@pytest.mark.parametrize("codebook", [TABLE, UniformCodebook(0.3), TableCodebook((0.7,), 0), IntegerCodebook()])
@pytest.mark.parametrize(
    "view",
    [lambda t: t.T, lambda t: t[::2, 1::2], lambda t: t[0, 0], lambda t: t[:0], lambda t: t.requires_grad_()],
    ids=["transposed", "strided", "scalar", "empty", "with a gradient"],
)
def test_views_and_edges(codebook, view):
    values = view(weights(6, 4))
    symbols = nearest(values, codebook)
    assert torch.equal(symbols, nearest(values.detach().clone(memory_format=torch.contiguous_format), codebook))
    assert symbols.shape == values.shape


@pytest.mark.parametrize("codebook", [TABLE, UniformCodebook(0.3), IntegerCodebook()], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_level_for_what_is_not_finite(codebook, value):
    with pytest.raises(InputError, match="finite"):
        nearest(torch.tensor([0.0, value]), codebook)


@pytest.mark.parametrize(
    ("value", "codebook"),
    [
        (torch.tensor([1.0]), UniformCodebook(2.0**-30)),
        (torch.tensor([-1e30]), UniformCodebook(1e-9)),
        (torch.tensor([2**40]), IntegerCodebook()),
        (torch.tensor([-(2**63)]), IntegerCodebook()),
    ],
)
def test_no_symbol_that_far_from_zero(value, codebook):
    with pytest.raises(InputError, match=r"less than 2\^30 steps"):
        nearest(value, codebook)


def test_the_farthest_symbol():
    assert nearest(torch.tensor([2**30 - 1]), IntegerCodebook()).tolist() == [SYMBOL_LIMIT - 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_are_rounded_once_from_float32(dtype):
    symbols = torch.arange(-200, 200, dtype=torch.int32)
    expected = (symbols.float() * torch.tensor(0.1)).to(dtype)
    assert torch.equal(reconstruct(symbols, UniformCodebook(0.1), dtype), expected)


@pytest.mark.parametrize(
    ("codebook", "dtype", "expected"),
    [
        (UniformCodebook(1.0), torch.float32, (1 - SYMBOL_LIMIT, SYMBOL_LIMIT - 1)),
        (TABLE, torch.float16, (-2, 2)),
        (IntegerCodebook(), torch.bool, (0, 1)),
        (IntegerCodebook(), torch.uint8, (0, 255)),
        (IntegerCodebook(), torch.int16, (-32768, 32767)),
        (IntegerCodebook(), torch.int32, (1 - SYMBOL_LIMIT, SYMBOL_LIMIT - 1)),
        (IntegerCodebook(), torch.int64, (1 - SYMBOL_LIMIT, SYMBOL_LIMIT - 1)),
    ],
    ids=str,
)
def test_ranges_of_symbols(codebook, dtype, expected):
    assert symbol_range(codebook, dtype) == expected
    check_symbols(torch.tensor(expected, dtype=torch.int32), codebook, dtype)
    check_symbols(torch.empty(0, dtype=torch.int32), codebook, dtype)
    for outside in (expected[0] - 1, expected[1] + 1, -(2**31)):
        with pytest.raises(InputError, match="symbols: expected"):
            check_symbols(torch.tensor([0, outside], dtype=torch.int32), codebook, dtype)
