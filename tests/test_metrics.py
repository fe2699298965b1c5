import math

import pytest
import torch

from metaq.metrics import digest, entropy_bits, relative_squared_error


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
