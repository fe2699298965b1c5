"""Entropies of tuples and their gradients, against automatic differentiation, finite differences and enumeration."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.methods import hemp
from metaq.metrics import tuple_entropy
from metaq.solvers import tuple_entropy as solver
from metaq.solvers.tuple_entropy import Gradient

LEVELS = [torch.tensor([-1.5, -0.4, 0.1, 0.9, 2.0]).double(), torch.tensor([-1.0, 0.2, 1.3]).double()]


def layers(seed=0, sizes=((120,), (7, 9))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def brute_force(weights, levels, order):
    """H_n / n by (7) and (8) as they are written, a dictionary over ξ."""
    masses, count = {}, 0
    for tensor, table in zip(weights, levels, strict=True):
        points, flat = table.tolist(), tensor.reshape(-1).tolist()
        for first in range(0, len(flat) - order + 1, order):
            count += 1
            chances = []
            for weight in flat[first : first + order]:
                inside = min(max(weight, points[0]), points[-1])
                below = max(k for k in range(len(points) - 1) if points[k] <= inside)
                share = (inside - points[below]) / (points[below + 1] - points[below])
                chances.append({below: 1 - share, below + 1: share})
            for corner in itertools.product(*chances):
                mass = math.prod(chance[k] for chance, k in zip(chances, corner, strict=True))
                masses[corner] = masses.get(corner, 0.0) + mass
    return sum(m / count * (math.log2(count) - math.log2(m)) for m in masses.values() if m) / order


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_value_is_the_papers(order):
    found = hemp.entropy(layers(), LEVELS, order)
    assert float(found.bits_per_weight) == pytest.approx(brute_force(layers(), LEVELS, order), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_gradient_is_that_of_automatic_differentiation(order):
    weights = [tensor.requires_grad_() for tensor in layers()]
    (solver.value(solver.tuples(weights, LEVELS, order)) / order).backward()
    found = hemp.entropy([tensor.detach() for tensor in weights], LEVELS, order)
    for gradient, tensor in zip(found.gradient, weights, strict=True):
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-10, atol=1e-14)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_gradient_is_that_of_finite_differences(order):
    weights, step = layers(1), 1e-6
    found = hemp.entropy(weights, LEVELS, order)
    for tensor, gradient in zip(weights, found.gradient, strict=True):
        flat = tensor.reshape(-1)
        for index in range(0, len(flat), 7):
            values = []
            for side in (step, -step):
                flat[index] += side
                values.append(brute_force(weights, LEVELS, order))
                flat[index] -= side
            assert float(gradient.reshape(-1)[index]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_printed_gradient_is_equation_17(order):
    """n/(Δ ‖W‖₀) log2 of the ratio of products of P over the corners on either side, over n for bits per weight."""
    weights, levels = layers(2, ((24,),)), [LEVELS[1]]
    found = solver.tuples(weights, levels, order)
    keys, probabilities = solver._corners(found)
    masses = torch.zeros(3**order, dtype=torch.float64).index_add(0, keys.reshape(-1), probabilities.reshape(-1))
    logs = masses[keys].log2().reshape(-1, *[2] * order)
    printed = hemp.entropy(weights, levels, order, Gradient.PRINTED).gradient[0].reshape(-1, order)
    flat = weights[0].reshape(-1, order)
    for position in range(order):
        ratio = (logs.select(1 + position, 0) - logs.select(1 + position, 1)).reshape(len(flat), -1).sum(dim=1)
        spacing = levels[0].diff()[found.cells[:, position]]
        inside = (flat[:, position] >= levels[0][0]) & (flat[:, position] <= levels[0][-1])
        torch.testing.assert_close(printed[:, position], inside * ratio / spacing / 24)
    exact = hemp.entropy(weights, levels, order).gradient[0].reshape(-1, order)
    assert torch.allclose(exact, printed) == (order == 1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [2, 3, 16, 40])
@pytest.mark.parametrize("rule", Gradient)
def test_the_native_kernel_agrees(order, count, rule):
    generator = torch.Generator().manual_seed(count)
    weights = [torch.randn(501, generator=generator), torch.randn(3, 7, generator=generator), torch.zeros(1)]
    levels = [torch.randn(count, generator=generator).sort().values, torch.tensor([-0.5, 0.5]), torch.zeros(1)]
    found = hemp.entropy(weights, levels, order, rule)
    doubles = [[tensor.double() for tensor in tensors] for tensors in (weights, levels)]
    expected = hemp.entropy(*doubles, order, rule)
    assert float(found.bits_per_weight) == pytest.approx(float(expected.bits_per_weight), abs=1e-6)
    for gradient, exact in zip(found.gradient, expected.gradient, strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max() + 1e-9))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_dense_and_sparse_histograms_agree(order, monkeypatch):
    dense = hemp.entropy(layers(3), LEVELS, order)
    monkeypatch.setattr(solver, "DENSE_CELLS", 0)
    sparse = hemp.entropy(layers(3), LEVELS, order)
    assert float(sparse.bits_per_weight) == pytest.approx(float(dense.bits_per_weight), abs=1e-13)
    for one, other in zip(sparse.gradient, dense.gradient, strict=True):
        torch.testing.assert_close(one, other)


def test_many_levels_at_a_high_order_are_no_trouble():
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(-3, 3, 256)
    found = hemp.entropy(weights, levels, 4)
    assert 0 < float(found.bits_per_weight) <= math.log2(1000 * 16) / 4
    assert bool(torch.isfinite(found.gradient).all())


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(1, 4), st.integers(1, 9))
def test_on_the_levels_the_proxy_is_the_entropy(data, order, count):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    symbols = [
        torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=size, max_size=size))) for size in sizes
    ]
    levels = torch.linspace(-1, 2, count, dtype=torch.float64) ** 3
    found = hemp.entropy([levels[positions] for positions in symbols], [levels] * len(sizes), order)
    assert float(found.bits_per_weight) == pytest.approx(tuple_entropy(symbols, order), abs=1e-9)


def test_stationary_where_both_levels_are_evenly_filled():
    """(18)-(21): the derivative vanishes exactly where P(q-) = P(q+), with even others in the middle.

    That is where p(w_i -> q+) = (1 - K+ + K-) / 2: in (19) and (20) as printed, K+ and K- are the wrong way round.
    """
    levels = double([0.0, 1.0])
    assert hemp.entropy(double([0.0, 1.0, 0.0, 1.0, 0.5]), levels, 1).gradient.tolist() == pytest.approx([0.0] * 5)
    others = double([0.1, 0.7, 0.3])
    excess = float(others.sum() - (1 - others).sum())  # K+ - K-
    stationary = 0.5 * (1 - excess)  # which is p(w_i -> q+)
    assert 0 < stationary < 1
    gradient = hemp.entropy(torch.cat([others, double([stationary])]), levels, 1).gradient
    assert gradient.tolist() == pytest.approx([0.0] * 4, abs=1e-15)
    for elsewhere in (stationary - 0.1, 0.5 * (1 + excess)):
        moved = hemp.entropy(torch.cat([others, double([elsewhere])]), levels, 1).gradient
        assert bool((moved.abs() > 1e-3).all())


def test_the_bound_of_the_first_order_is_kept():
    """(22) and (23): no more than |log2 P(q-)/P(q+)| / (Δ ‖W‖₀), finite since w itself fills both levels."""
    weights = layers(5)[0]
    table = LEVELS[0]
    found = solver.tuples([weights], [table], 1)
    keys, probabilities = solver._corners(found)
    masses = torch.zeros(5, dtype=torch.float64).index_add(0, keys.reshape(-1), probabilities.reshape(-1))
    bound = (masses[keys[:, 0]] / masses[keys[:, 1]]).log2().abs() / (table.diff()[keys[:, 0]] * len(weights))
    gradient = hemp.entropy(weights, table, 1).gradient.abs()
    assert bool((gradient <= bound * (1 + 1e-12)).all())
    on_levels = hemp.entropy(table.clone(), table, 2).gradient
    assert bool(torch.isfinite(on_levels).all())
    least = -math.log2(solver.LEAST_MASS) + math.log2(len(weights))
    assert float(gradient.max()) <= least / (float(table.diff().min()) * len(weights))


@pytest.mark.parametrize("order", [1, 2])
def test_the_full_softmax_is_enumerated(order):
    weights, levels = layers(6, ((8,),)), [LEVELS[1]]
    masses = {}
    for run in weights[0].reshape(-1, order).tolist():
        bins = []
        for weight in run:
            terms = [math.exp(-abs(weight - level)) for level in levels[0].tolist()]
            bins.append([term / sum(terms) for term in terms])
        for corner in itertools.product(range(3), repeat=order):
            masses[corner] = masses.get(corner, 0.0) + math.prod(b[k] for b, k in zip(bins, corner, strict=True))
    count = 8 // order
    expected = sum(m / count * math.log2(count / m) for m in masses.values())
    assert float(solver.softmax_value(weights, levels, order)) == pytest.approx(expected, abs=1e-12)


def test_the_full_softmax_and_the_two_nearest_agree_on_where_to_go():
    """Far apart levels: (6) leaves nearly all mass to the two nearest, and the entropies fall together."""
    generator = torch.Generator().manual_seed(7)
    levels = [torch.tensor([-40.0, 0.0, 40.0]).double()]
    values = []
    for spread in (12.0, 6.0, 3.0):
        weights = [torch.randn(300, generator=generator, dtype=torch.float64) * spread]
        near = float(hemp.entropy(weights, levels, 1).bits_per_weight)
        values.append((near, float(solver.softmax_value(weights, levels, 1))))
    assert values == sorted(values, reverse=True)
    assert [far for _, far in values] == sorted((far for _, far in values), reverse=True)


@pytest.mark.parametrize("order", [0, -1, 100])
def test_orders_that_cannot_be_are_refused(order):
    with pytest.raises(InputError, match="order: expected at least 1"):
        hemp.entropy(torch.zeros(4), torch.tensor([0.0, 1.0, 2.0]), order)


def test_too_few_weights_for_a_tuple_have_no_entropy():
    found = hemp.entropy(torch.tensor([0.3]), torch.tensor([0.0, 1.0]), 2)
    assert float(found.bits_per_weight) == 0
    assert float(found.gradient) == 0
