import itertools
import math
from collections import Counter

import pytest
import torch

import metaq
from metaq.errors import InputError
from metaq.metrics import (
    digest,
    entropy_bits,
    entropy_of_order,
    relative_squared_error,
    tuple_entropy,
)


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([], 0.0), ([5], 0.0), ([7] * 9, 0.0), ([0, 1], 2.0), ([0, 1, 2, 3] * 4, 32.0), ([0, 0, 0, 1], 4 * 0.811278)],
)
def test_entropy(symbols, bits):
    tensor = torch.tensor(symbols, dtype=torch.int32)
    assert entropy_bits(tensor) == pytest.approx(bits)
    assert entropy_bits(tensor.reshape(-1, 1)) == pytest.approx(bits)


def test_relative_error():
    weights = torch.tensor([3.0, 4.0])
    assert relative_squared_error(weights, torch.tensor([3.0, 5.0])) == pytest.approx(1 / 25)
    assert relative_squared_error(weights, weights) == 0
    assert relative_squared_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_squared_error(torch.zeros(2), weights) == math.inf
    assert relative_squared_error(torch.zeros(0), torch.zeros(0)) == 0


def test_a_digest_tells_everything_apart():
    ones = torch.ones(2)
    states = [
        {},
        {"a": ones},
        {"b": ones},
        {"a": -ones},
        {"a": ones.reshape(2, 1)},
        {"a": ones.view(torch.int32)},
        {"a": torch.zeros(2)},
        {"a": -torch.zeros(2)},
        {"a": ones, "b": ones},
        {"b": ones, "a": ones},
        {"a": torch.empty(0)},
        {"a": torch.empty(0, 3)},
        {"a": torch.empty(0, dtype=torch.int8), "b": ones},
        {"a\0torch.int8\0(0,)\0b": ones},
        {"a\\x00torch.int8\\x00(0,)\\x00b": ones},
    ]
    assert len({digest(state) for state in states}) == len(states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.bool, torch.int64])
def test_a_digest_depends_on_values_only(dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    assert digest({"a": tensor}) == digest({"a": tensor.T.contiguous().T})


@pytest.mark.parametrize("order", [1, 2, 3, 7])
def test_tuple_entropy_counts_tuples(order):
    generator = torch.Generator().manual_seed(order)
    tensors = [torch.randint(-3, 4, size, generator=generator, dtype=torch.int32) for size in ((50,), (4, 9), (1,))]
    counts = Counter()
    for tensor in tensors:
        flat = tensor.reshape(-1).tolist()
        counts.update(tuple(flat[i : i + order]) for i in range(0, len(flat) - order + 1, order))
    total = counts.total()
    expected = -sum(c / total * math.log2(c / total) for c in counts.values()) / order
    assert tuple_entropy(tensors, order) == pytest.approx(expected)


def test_tuple_entropy_of_hardly_anything():
    assert tuple_entropy([], 2) == 0.0
    assert tuple_entropy([torch.tensor([1, 2, 3])], 4) == 0.0
    with pytest.raises(InputError, match="order: expected at least 1, found 0"):
        tuple_entropy([torch.tensor([1])], 0)


def test_longer_tuples_never_have_more_bits_a_weight():
    """From one order to its multiples: a run of two tuples costs at most what both cost alone."""
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).cumsum(0) / 8
    model = metaq.compress({"weight": weights}, step=0.5)
    entropies = [entropy_of_order(model, order) for order in (1, 2, 4, 8)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(entropies))
    assert entropies[-1] > 0
