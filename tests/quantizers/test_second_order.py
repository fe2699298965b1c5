"""Second-order quantization: its factors by least squares, its choices by hand, its bits against the bound."""

import math

import numpy as np
import pytest
import torch

from metaq import _native, coding
from metaq.errors import InputError
from metaq.quantizers.second_order import Scaling, States, aim, choose_scaling, feedback, optimism, quantize

PLAIN = Scaling(rows=False, columns=False)
MANY = torch.tensor([10**9])  # positions: moments are as they are


def moments(width, seed=0, samples=400, groups=1):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(groups, width, width, generator=generator)
    inputs = torch.randn(groups, samples, width, generator=generator) @ mixed
    return inputs.transpose(1, 2) @ inputs / samples


def damped(inputs):
    diagonal = inputs.double().diagonal(dim1=1, dim2=2)
    return inputs.double() + torch.diag_embed(0.01 * diagonal.mean(1, keepdim=True).expand_as(diagonal))


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_was_not_seen_counts_in_every_input_and_keeps_correlations():
    inputs = moments(5)
    inputs[:, 2], inputs[:, :, 2] = 0, 0
    diagonal = inputs[0].diagonal()
    energies = diagonal + 0.3 * diagonal.mean()
    factors = torch.where(diagonal > 0, (energies / diagonal.clamp_min(1e-9)).sqrt(), 1)
    raised = inputs * factors * factors[:, None]
    raised[0].diagonal().copy_(energies)
    found, expected = feedback(inputs, MANY, 0.3), feedback(raised, MANY)
    torch.testing.assert_close(found.shares, expected.shares)
    torch.testing.assert_close(found.costs, expected.costs, rtol=1e-5, atol=0)
    assert float(found.costs.min()) > 0.2 * float(diagonal.mean())


def test_shares_and_costs_are_those_of_least_squares():
    found = feedback(moments(7), MANY)
    hessian = damped(moments(7))[0][found.order][:, found.order]
    for j in range(7):
        moved = torch.linalg.solve(hessian[j + 1 :, j + 1 :], hessian[j + 1 :, j])
        torch.testing.assert_close(found.shares[0, j, j + 1 :].double(), -moved, rtol=1e-4, atol=1e-5)
        least = hessian[j, j] - hessian[j, j + 1 :] @ moved
        assert float(found.costs[0, j]) == pytest.approx(float(least), rel=1e-4)


def test_the_factor_is_that_of_the_inverse():
    inputs = moments(150, groups=2)
    found = feedback(inputs, torch.tensor([10**15, 10**15]))
    inverse = torch.linalg.inv(damped(inputs)[:, found.order][:, :, found.order])
    factor = torch.linalg.cholesky(inverse, upper=True)
    roots = factor.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found.costs, roots.square().reciprocal(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.shares, (factor / roots[:, :, None]).float(), rtol=1e-5, atol=1e-6)


def test_many_groups_are_decomposed_some_at_a_time():
    factors, inputs = torch.arange(1000, 2100), moments(64)
    found = feedback(inputs * factors[:, None, None], MANY.expand(1100))
    alone = feedback(inputs, MANY)
    torch.testing.assert_close(found.costs, alone.costs * factors[:, None], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.shares, alone.shares.expand_as(found.shares), rtol=0, atol=1e-3)


def test_few_inputs_tell_little_of_how_columns_belong_together():
    inputs = moments(6)
    strong, weak = (feedback(inputs, torch.tensor([count])).shares[0].triu(1).abs().sum() for count in (10**6, 2))
    assert weak < 0.2 * strong


@pytest.mark.parametrize("scaling", [PLAIN, Scaling(rows=False, columns=True), Scaling(rows=True, columns=True)])
@pytest.mark.parametrize(("groups", "rows", "columns"), [(1, 50, 70), (3, 8, 20), (30, 1, 9)])
@pytest.mark.parametrize("states", States)
def test_the_cost_is_that_of_the_errors(scaling, groups, rows, columns, states):
    weights, inputs = normal(groups, rows, columns), moments(columns, groups=groups)
    found = quantize(weights, feedback(inputs, MANY.expand(groups)), 0.7, 3.0, scaling, states)
    errors = (weights - found.values(groups)).double()
    cost = 3 * torch.einsum("grc,gcd,grd->", errors, damped(inputs), errors)
    assert found.cost == pytest.approx(float(cost), rel=1e-4)


@pytest.mark.parametrize("scaling", [PLAIN, Scaling(rows=True, columns=True)])
def test_outputs_with_costs_of_their_own(scaling):
    weights, inputs = normal(2, 60, 30), moments(30, groups=2)
    outputs = torch.exp2(torch.arange(120) % 9).double()
    found = quantize(weights, feedback(inputs, MANY.expand(2)), 2.0, outputs, scaling)
    errors = (weights - found.values(2)).double()
    by_row = torch.einsum("grc,gcd,grd->gr", errors, damped(inputs), errors).flatten()
    assert found.cost == pytest.approx(float((outputs * by_row).sum()), rel=1e-4)
    assert by_row[outputs == 256].mean() < 0.3 * by_row[outputs == 1].mean()
    alike = quantize(weights, feedback(inputs, MANY.expand(2)), 0.7, torch.full((120,), 3.0), scaling)
    assert torch.equal(alike.symbols, quantize(weights, feedback(inputs, MANY.expand(2)), 0.7, 3.0, scaling).symbols)


def test_columns_move_as_those_before_them_miss():
    """Of one column at a time by the native quantizer, all by hand."""
    weights, shares = 3 * normal(5, 6), normal(6, 6, seed=2).triu(1)
    by_hand, symbols = weights.T.contiguous(), []
    quantizer = _native.ColumnQuantizer(0.0, 8)
    for j in range(6):
        alone, error = np.zeros((1, 5), np.int32), np.zeros((1, 5), np.float32)
        one = np.ones((1, 5), np.float32)
        levels = np.zeros(5, np.float32)
        quantizer.quantize(
            by_hand[j : j + 1].numpy(), np.zeros((1, 1, 1), np.float32), one[0, :1], one, levels, alone, error, 1e9
        )
        symbols.append(torch.from_numpy(alone[0]))
        by_hand[j + 1 :] -= shares[j, j + 1 :, None] * torch.from_numpy(error[0])
    together, errors = np.zeros((6, 5), np.int32), np.zeros((6, 5), np.float32)
    ones, of_rows = np.ones((6, 5), np.float32), np.zeros(5, np.float32)
    _native.ColumnQuantizer(0.0, 8).quantize(
        weights.T.contiguous().numpy(), shares[None].numpy(), ones[:, 0].copy(), ones, of_rows, together, errors, 1e9
    )
    assert torch.equal(torch.from_numpy(together), torch.stack(symbols))


def test_free_symbols_are_the_nearest_without_a_rate():
    weights = 3 * normal(1, 5, 6)
    found = quantize(weights, feedback(1e-9 * torch.eye(6)[None], MANY), 1e9, 1.0, PLAIN, States.FREE)
    assert not found.symbols.any()
    fine = quantize(weights, feedback(torch.eye(6)[None], MANY), 1e-3, 1.0, PLAIN, States.FREE)
    torch.testing.assert_close(fine.values(1), weights, atol=2e-3, rtol=0)


@pytest.mark.parametrize("coder", ["adaptive", "mixing"])
def test_near_the_bound_at_three_bits(coder):
    """Gaussian weights with inputs of any moments: bits above what information theory asks for at the same error."""
    rows, columns = 500, 160
    spectrum = torch.exp(torch.linspace(2, -2, columns, dtype=torch.float64))
    basis = torch.linalg.qr(normal(columns, columns).double())[0]
    inputs = ((basis * spectrum) @ basis.T)[None].float()
    weights, found = normal(1, rows, columns), feedback(inputs, MANY)
    result = quantize(weights, found, 0.25, 1.0, Scaling(rows=False, columns=True))
    errors = (weights - result.values(1))[0].double()
    cost = float(((errors @ inputs[0].double()) * errors).mean(0).sum()) / columns
    bits = result.bits(coder) / weights.numel()
    low, high = 1e-9, 1e3  # the water level by bisection
    for _ in range(100):
        level = math.sqrt(low * high)
        low, high = (level, high) if float(spectrum.clamp(max=level).mean()) < cost else (low, level)
    bound = float((0.5 * (spectrum / level).clamp(min=1).log2()).mean())
    assert 2.5 < bits < 3.5
    assert bits < bound + 0.17


def test_scales_are_taken_where_they_pay():
    found = feedback(torch.diag(torch.exp(normal(40)))[None], MANY)
    assert choose_scaling(normal(1, 400, 40), found, 0.2, 1.0).columns
    assert not choose_scaling(normal(1, 2, 40), found, 0.2, 1.0).columns
    assert not choose_scaling(normal(1, 400, 40), feedback(torch.eye(40)[None], MANY), 0.3, 1.0).columns
    assert choose_scaling(normal(1, 400, 40), found, 0.2, torch.exp(3 * normal(400)).double()).rows
    assert not choose_scaling(normal(1, 400, 40), found, 0.2, torch.ones(400)).rows


def test_the_aim_is_that_of_least_squares():
    generator = torch.Generator().manual_seed(3)
    weights, exact = normal(4, 6), torch.randn(3000, 6, generator=generator, dtype=torch.float64)
    seen = exact + 0.5 * torch.randn(3000, 6, generator=generator, dtype=torch.float64)
    inputs, cross = seen.T @ seen / 3000, (exact - seen).T @ seen / 3000
    found = aim(weights[None], inputs[None], cross[None], MANY)[0]
    best = torch.linalg.lstsq(seen, exact @ weights.double().T).solution.T
    torch.testing.assert_close(found, best.float(), atol=0.02, rtol=0.02)
    assert torch.equal(aim(weights[None], inputs[None], 0 * cross[None], MANY)[0], weights)


def test_optimism_is_what_errors_cost_elsewhere():
    few = torch.cat([moments(24, seed=seed, samples=40) for seed in (3, 4)])  # of unlike inputs
    halves = few[:, None] + 0.05 * moments(24, samples=4000)
    positions, weights = torch.tensor([40]), normal(1, 3000, 24)
    costs = torch.zeros(2, 2)
    for half, inputs in enumerate(halves):
        found = quantize(weights, feedback(inputs, positions), 0.01, 1.0, PLAIN, States.FREE)
        errors = (weights - found.values(1))[0]
        for other, seen in enumerate(halves):
            costs[half, other] = ((errors @ seen[0]) * errors).sum()
    expected = (costs[0, 1] * costs[1, 0] / (costs[0, 0] * costs[1, 1])).sqrt()
    assert expected > 1.5
    assert optimism(halves, positions) == pytest.approx(float(expected), rel=0.05)


def test_there_is_no_optimism_where_halves_agree_or_one_is_empty():
    inputs = moments(6)
    assert optimism(torch.stack((inputs, 3 * inputs)), MANY) == pytest.approx(1)
    assert optimism(torch.stack((inputs, 0 * inputs)), MANY) == 1


def test_groups_that_have_seen_nothing_are_not_lost():
    inputs = torch.stack([torch.eye(3), 3 * torch.eye(3), torch.zeros(3, 3), torch.eye(3)])
    costs = feedback(inputs, torch.tensor([10**6, 3 * 10**6, 0, 10**6])).costs
    torch.testing.assert_close(costs[2], costs[0] / 8, rtol=1e-3, atol=0)
    alone = feedback(inputs[:1], MANY).costs
    torch.testing.assert_close(costs[:1], alone, rtol=1e-3, atol=0)


def test_dead_inputs_do_no_harm():
    found = feedback(torch.zeros(1, 3, 3), torch.tensor([0]))
    assert torch.equal(found.shares[0], torch.eye(3))
    assert bool(torch.isfinite(quantize(normal(1, 4, 3), found, 1.0, 1.0, PLAIN).values(1)).all())
    inputs = moments(5)
    inputs[:, 2] = inputs[:, :, 2] = 0
    found = feedback(inputs, MANY)
    assert bool(torch.isfinite(quantize(normal(1, 4, 5), found, 0.1, 1.0, PLAIN).values(1)).all())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(1, 2, 3), r"found shape \(1, 2, 3\)"),
        (torch.full((1, 2, 2), torch.nan), "square matrices of finite numbers"),
        (torch.tensor([[[1.0, 5.0], [5.0, 1.0]]]), "negative eigenvalues"),
        (torch.tensor([[[-1.0, 0.0], [0.0, 1.0]]]), "negative one on the diagonal"),
    ],
)
def test_no_second_moments(inputs, message):
    with pytest.raises(InputError, match=message):
        feedback(inputs, MANY)


@pytest.mark.parametrize(("scale", "message"), [(math.nan, "NaN or infinity"), (1e30, r"less than 2\^28 steps")])
def test_weights_that_have_no_level(scale, message):
    with pytest.raises(InputError, match=message):
        quantize(scale * torch.ones(1, 2, 2), feedback(torch.eye(2)[None], MANY), 1e-3, 1.0, PLAIN)


def test_symbols_are_dependent_down_the_columns():
    found = quantize(normal(1, 200, 30), feedback(moments(30), MANY), 0.5, 1.0, PLAIN)
    block = np.ascontiguousarray(found.symbols.numpy().T[:, :, None])
    assert _native.are_dependent(block)
    assert len(coding.by_name("mixing").encode([block])) * 8 < found.bits("rans")
