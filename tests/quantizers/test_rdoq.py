"""Rate-distortion quantization: the greedy optimum by brute force, the bits it reports, what it is worth."""

import math

import pytest
import torch

from metaq import coding
from metaq.assign import nearest
from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.quantizers import rdoq, trellis

UNIT = UniformCodebook(1.0)


def laplacian(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return scale * sign * torch.empty(shape).exponential_(generator=generator)


def code_length(symbols):
    """In bits, of integers in one dimension."""
    return rdoq.quantize({"w": torch.tensor(symbols, dtype=torch.float32)}, UNIT, rate_weight=0)[1]


@pytest.mark.parametrize("rate_weight", [0.05, 0.3])
def test_each_choice_is_the_best_given_those_before(rate_weight):
    weights = torch.cat([torch.zeros(8), laplacian(25, scale=1.5).clamp(-4.9, 4.9)])  # larger ones share classes
    chosen = rdoq.quantize({"w": weights}, UNIT, rate_weight)[0]["w"].tolist()
    assert chosen != nearest(weights, UNIT).tolist()
    for i in range(8, len(chosen)):
        value = float(weights[i])
        costs = {k: (value - k) ** 2 + rate_weight * code_length([*chosen[:i], k]) for k in range(-6, 7)}
        assert costs[chosen[i]] <= min(costs.values()) + 1e-6


def test_without_a_rate_symbols_are_the_nearest_and_bits_those_of_the_coder():
    state = {"a": laplacian(40, 30, 3, 3, scale=2.0), "b": laplacian(50, 20, seed=1), "c": torch.empty(0, 3)}
    for rate_weight in (0.0, 0.2):
        symbols, bits = rdoq.quantize(state, UniformCodebook(0.5), rate_weight)
        blocks = [symbols["a"].numpy().reshape(40, 30, 9), symbols["b"].numpy().reshape(50, 20, 1)]
        assert abs(8 * len(coding.by_name("mixing").encode(blocks)) - bits) < 0.001 * bits + 16
        if rate_weight == 0:
            assert all(torch.equal(symbols[name], nearest(state[name], UniformCodebook(0.5))) for name in state)


def test_fewer_bits_at_equal_error():
    weights = laplacian(200, 200)

    def at(step, rate_weight):
        symbols, bits = rdoq.quantize({"w": weights}, UniformCodebook(step), rate_weight)
        return float((weights - step * symbols["w"]).square().sum()), bits

    error, bits = at(2.0, 0.0)
    chosen_error, chosen_bits = at(1.7, 0.12)
    assert chosen_error <= error
    assert chosen_bits < 0.995 * bits


def test_importance():
    weights = laplacian(60, 60)
    importance = torch.full((60, 60), 1e6)
    importance[30:] = 0
    chosen = rdoq.quantize({"w": weights}, UNIT, 1.0, {"w": importance})[0]["w"]
    assert torch.equal(chosen[:30], nearest(weights[:30], UNIT))
    free = (weights[30:].abs() > 0.5).float().mean()
    assert float((chosen[30:] != 0).float().mean()) < 0.5 * free


def test_symbols_that_are_mostly_not_zero():
    weights = torch.where(torch.rand(50, 50, generator=torch.Generator().manual_seed(0)) < 0.8, -3.0, laplacian(50, 50))
    symbols, bits = rdoq.quantize({"w": weights}, UNIT, 0.1)
    assert abs(8 * len(coding.by_name("mixing").encode([symbols["w"].numpy()[:, :, None]])) - bits) < 0.001 * bits + 16
    assert float((symbols["w"] - weights).abs().max()) < 3


def test_symbols_of_a_trellis_are_taken_as_they_are():
    symbols = trellis.quantize({"w": laplacian(40, 40, scale=4.0)}, UNIT)
    found, _ = rdoq.quantize({"w": symbols["w"].float()}, UNIT, 0)
    assert torch.equal(found["w"], symbols["w"])


def test_huge_weights():
    weights = torch.tensor([[2.0**30 - 100, -(2.0**30) + 100], [0.0, 0.0]])
    assert torch.equal(rdoq.quantize({"w": weights}, UNIT)[0]["w"], weights.int())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"w": torch.tensor([[math.nan]])}}, "'w': weights: expected finite"),
        ({"weights": {"w": torch.tensor([[2.0**31]])}}, "'w': weights: expected less than"),
        ({"rate_weight": -1.0}, "rate weight: expected a finite number of at least 0, found -1"),
        ({"rate_weight": math.nan}, "rate weight"),
        ({"importance": {"w": torch.ones(2)}}, r"importance of 'w': expected shape \(2, 2\), found \(2,\)"),
        ({"importance": {"w": -torch.ones(2, 2)}}, "importance of 'w': expected finite numbers of at least 0"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        rdoq.quantize(**{"weights": {"w": torch.ones(2, 2)}, "codebook": UNIT, **arguments})
