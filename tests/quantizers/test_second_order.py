"""Error feedback: its factors by least squares, its choices by hand, what it is worth."""

import pytest
import torch

from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.quantizers import rdoq
from metaq.quantizers.second_order import feedback


def moments(width, seed=0, samples=400):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return inputs.T @ inputs / samples


def damped(inputs):
    return inputs.double() + 0.01 * inputs.double().diagonal().mean() * torch.eye(len(inputs), dtype=torch.float64)


def test_shares_and_costs_are_those_of_least_squares():
    hessian = damped(moments(7))
    found = feedback(moments(7))
    for j in range(7):
        rest = hessian[j + 1 :, j + 1 :]
        moved = torch.linalg.solve(rest, hessian[j + 1 :, j]) if j < 6 else torch.zeros(0, dtype=torch.float64)
        torch.testing.assert_close(found.shares[j, j + 1 :].double(), -moved, rtol=1e-4, atol=1e-5)
        least = hessian[j, j] - hessian[j, j + 1 :] @ moved
        assert float(found.costs[j]) == pytest.approx(float(least), rel=1e-4)


def test_rows_are_rounded_from_left_to_right():
    weights, inputs = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), moments(6)
    shares = feedback(inputs).shares
    chosen = rdoq.quantize({"w": weights}, UniformCodebook(1.0), 0.0, feedback={"w": shares})[0]["w"]
    for row, symbols in zip(weights.clone(), chosen, strict=True):
        for j in range(6):
            assert int(symbols[j]) == round(float(row[j]))
            row[j + 1 :] -= (row[j] - symbols[j]) * shares[j, j + 1 :]


@pytest.mark.parametrize("rate_weight", [0.0, 0.1])
def test_outputs_err_less(rate_weight):
    weights, inputs = torch.randn(60, 40, generator=torch.Generator().manual_seed(2)), moments(40, seed=3)
    found = feedback(inputs)
    importance = (found.costs / found.costs.mean()).expand(60, 40)

    def output_error(symbols):
        missed = weights - 0.4 * symbols
        return float(((missed @ inputs) * missed).sum())

    book = UniformCodebook(0.4)
    plain, plain_bits = rdoq.quantize({"w": weights}, book, rate_weight)
    better, bits = rdoq.quantize({"w": weights}, book, rate_weight, {"w": importance}, {"w": found.shares})
    assert output_error(better["w"]) < 0.6 * output_error(plain["w"])
    assert bits < 1.1 * plain_bits


def test_filters_take_their_rows_as_patches():
    weights, shares = torch.randn(4, 3, 2, 2), feedback(moments(12)).shares
    book = UniformCodebook(0.5)
    as_filters = rdoq.quantize({"w": weights}, book, 0.0, feedback={"w": shares})[0]["w"]
    as_matrix = rdoq.quantize({"w": weights.reshape(4, 12)}, book, 0.0, feedback={"w": shares})[0]["w"]
    assert torch.equal(as_filters.reshape(4, 12), as_matrix)


def test_dead_inputs_do_no_harm():
    found = feedback(torch.zeros(3, 3))
    assert torch.equal(found.shares, torch.eye(3))
    assert bool(torch.isfinite(found.costs).all())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 3), r"found shape \(2, 3\)"),
        (torch.full((2, 2), torch.nan), "square matrix of finite numbers"),
        (torch.tensor([[1.0, 5.0], [5.0, 1.0]]), "negative eigenvalues"),
    ],
)
def test_what_it_refuses(inputs, message):
    with pytest.raises(InputError, match=message):
        feedback(inputs)


def test_what_quantizing_refuses():
    weights = {"w": torch.zeros(2, 3)}
    with pytest.raises(InputError, match=r"feedback of 'w': expected shape \(3, 3\), found \(2, 2\)"):
        rdoq.quantize(weights, UniformCodebook(1.0), feedback={"w": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="feedback of 'w': expected finite"):
        rdoq.quantize(weights, UniformCodebook(1.0), feedback={"w": torch.full((3, 3), torch.inf)})
