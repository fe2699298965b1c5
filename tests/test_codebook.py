"""What codebooks refuse, and the exact values of their symbols."""

import math

import numpy as np
import pytest
import torch

from metaq.assign import values as values_of
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-50, -0.0])
def test_steps_that_are_none(step):
    with pytest.raises(InputError, match="positive finite float32, found"):
        UniformCodebook(step)


def test_a_step_is_a_float32():
    assert UniformCodebook(0.1).step == float(np.float32(0.1))
    assert UniformCodebook(0.1) == UniformCodebook(float(np.float32(0.1)))


@pytest.mark.parametrize("step", [0.1, 2.0**-149, 1e38, 1 / 3])
def test_uniform_values_are_float32_products(step):
    symbols = np.array([0, 1, -1, 3, 2**24 + 1, SYMBOL_LIMIT - 1, 1 - SYMBOL_LIMIT], np.int32)
    with np.errstate(over="ignore"):
        expected = np.float32(step) * symbols.astype(np.float32)
    values = values_of(torch.from_numpy(symbols), UniformCodebook(step))
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(values.numpy().view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize(
    ("levels", "origin", "message"),
    [
        ((), 0, "1 to 2"),
        (((0.0, 1.0),), 0, "1 to 2"),
        (tuple(range(2**20 + 1)), 0, "1 to 2"),
        ((1.0, 1.0), 0, "increasing"),
        ((1.0, 0.0), 0, "increasing"),
        ((1.0, 1.0 + 1e-12), 0, "increasing"),
        ((0.0, math.nan), 0, "finite"),
        ((0.0, 1e300), 0, "finite"),
        ((0.0, 1.0), 2, "0 to 1, found 2"),
        ((0.0, 1.0), -1, "0 to 1, found -1"),
    ],
)
def test_tables_that_are_none(levels, origin, message):
    with pytest.raises(InputError, match=message):
        TableCodebook(levels, origin)


def test_table_values():
    table = TableCodebook((-0.3, 0.0, 0.7), 1)
    values = values_of(torch.tensor([[-1, 0], [1, -1]], dtype=torch.int32), table)
    assert torch.equal(values, torch.tensor([[-0.3, 0.0], [0.7, -0.3]]))
    assert values_of(torch.empty(0, 3, dtype=torch.int32), table).shape == (0, 3)


@pytest.mark.parametrize("symbol", [-2, 2, 1 - SYMBOL_LIMIT, SYMBOL_LIMIT - 1])
def test_symbols_outside_the_table(symbol):
    with pytest.raises(InputError, match="expected -1 to 1"):
        values_of(torch.tensor([symbol], dtype=torch.int32), TableCodebook((-0.3, 0.0, 0.7), 1))


@pytest.mark.parametrize(("levels", "origin"), [([-2.0, -0.1, 0.5], 1), ([3.0], 0), ([1.0, 2.0], 0), ([-4.0, -2.0], 1)])
def test_the_origin_is_the_level_nearest_to_zero(levels, origin):
    assert TableCodebook.around_zero(levels).origin == origin
    assert TableCodebook.around_zero(torch.tensor(levels)) == TableCodebook(tuple(levels), origin)


@pytest.mark.parametrize("levels", [[], [1.0, 0.0], [math.nan]])
def test_around_zero_refuses_what_the_table_refuses(levels):
    with pytest.raises(InputError, match="codebook levels"):
        TableCodebook.around_zero(levels)


def test_integers_are_themselves():
    symbols = torch.tensor([-5, 0, 7], dtype=torch.int32)
    assert values_of(symbols, IntegerCodebook()) is symbols


def test_codebooks_are_keys():
    assert len({UniformCodebook(0.1), UniformCodebook(0.1), TableCodebook((0.0,), 0), IntegerCodebook()}) == 3
