"""The simil-knapsack against a linear-programming solver, the definition of a hull, and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from metaq.errors import InputError
from metaq.solvers import knapsack
from metaq.solvers.knapsack import Solution, _Grid, _hulls, _solve, hull, masses, multipliers, solve

DTYPES = [torch.float32, torch.float64]


def random_instance(seed, count):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(count, generator=generator, dtype=torch.float64).add(0.05).cumsum(0) - 1
    xi = torch.randn(count, generator=generator, dtype=torch.float64) * 5
    weights = levels[0] + torch.rand(7, generator=generator, dtype=torch.float64) * (levels[-1] - levels[0])
    return xi, levels, weights


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_agrees_with_a_general_solver(seed, count):
    xi, levels, weights = random_instance(seed, count)
    solution = solve(xi, levels, weights)
    constraints = np.stack([levels.numpy(), np.ones(count)])
    for index, weight in enumerate(weights.tolist()):
        optimum = linprog(xi.numpy(), A_eq=constraints, b_eq=[weight, 1.0], bounds=(0, None))
        assert optimum.status == 0
        assert float(solution.value[index]) == pytest.approx(optimum.fun, rel=1e-7, abs=1e-7)


@given(seed=st.integers(0, 10_000), count=st.integers(2, 64))
@settings(max_examples=60, deadline=None)
def test_solution_is_feasible_and_its_multiplier_is_a_supporting_slope(seed, count):
    xi, levels, weights = random_instance(seed, count)
    found = solve(xi, levels, weights)
    assert bool(((found.mass >= 0) & (found.mass <= 1)).all())
    torch.testing.assert_close(found.mass * levels[found.left] + (1 - found.mass) * levels[found.right], weights)
    # The line through (w, value) with the multiplier's slope lies on or below every point: optimality by duality.
    line = found.value[:, None] + found.multiplier[:, None] * (levels[None] - weights[:, None])
    assert bool((line <= xi[None] + 1e-9).all())


def test_multiplier_is_the_derivative_of_the_value():
    xi, levels, weights = random_instance(3, 12)
    found, small = solve(xi, levels, weights), 1e-7
    difference = (solve(xi, levels, weights + small).value - solve(xi, levels, weights - small).value) / (2 * small)
    torch.testing.assert_close(found.multiplier, difference, rtol=1e-5, atol=1e-5)


def test_outside_the_levels_the_weight_is_clipped_and_the_multiplier_is_zero():
    xi, levels = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([-1.0, 0.0, 1.0])
    found = solve(xi, levels, torch.tensor([-5.0, 7.0, -1.0, 1.0]))
    assert found.value.tolist() == [3.0, 2.0, 3.0, 2.0]
    assert found.multiplier.tolist() == [0.0, 0.0, -2.0, 1.0]


def test_expensive_levels_are_jumped_over():
    found = solve(torch.tensor([0.0, 9.0, 9.0, 3.0]), torch.arange(4.0), torch.tensor([1.5]))
    assert (int(found.left), int(found.right), float(found.mass)) == (0, 3, 0.5)
    assert float(found.multiplier) == 1.0


def test_a_batch_is_its_rows():
    xi = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    levels = torch.rand(9, 33, generator=torch.Generator().manual_seed(1)).add(0.1).cumsum(1)
    together = hull(xi, levels)
    for row in range(9):
        alone = hull(xi[row : row + 1], levels[row])
        assert torch.equal(together.slope[row], alone.slope[0])
        assert torch.equal(together.left[row], alone.left[0])
        assert torch.equal(together.right[row], alone.right[0])


def test_slopes_never_fall_along_a_hull():
    edges = hull(torch.randn(50, 64, generator=torch.Generator().manual_seed(2)), torch.arange(64.0))
    assert bool((edges.slope.diff(dim=1) >= -1e-12).all())


@pytest.mark.parametrize(
    ("xi", "levels"),
    [(torch.zeros(1), torch.zeros(1)), (torch.zeros(3), torch.zeros(2)), (torch.zeros(2), torch.zeros(2))],
)
def test_refuses_what_has_no_hull(xi, levels):
    with pytest.raises(InputError, match="levels"):
        solve(xi, levels, torch.zeros(1))


@given(seed=st.integers(0, 10_000), sets=st.integers(1, 5), count=st.integers(2, 40), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_chains_and_tensor_operations_find_the_same_hulls(seed, sets, count, ties):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randn(sets, count, generator=generator, dtype=torch.float64)
    points = torch.arange(count, dtype=torch.float64).expand(sets, count)
    costs = costs.round() if ties else costs
    chains, tensors = hull(costs, points), _hulls(costs, points)
    torch.testing.assert_close(chains.slope, tensors.slope)
    if not ties:
        assert torch.equal(chains.left, tensors.left)
        assert torch.equal(chains.right, tensors.right)


@given(count=st.integers(2, 300), first=st.floats(-1e3, 1e3), step=st.floats(1e-3, 1e3), dtype=st.sampled_from(DTYPES))
@settings(max_examples=80, deadline=None)
def test_equally_spaced_levels_give_the_cells_of_a_search(count, first, step, dtype):
    levels = (first + step * torch.arange(count, dtype=torch.float64)).to(dtype)
    points = levels.double()
    near = torch.tensor(torch.inf, dtype=torch.float64)
    weights = torch.cat([points, torch.nextafter(points, near), torch.nextafter(points, -near), points + 0.4 * step])
    found = solve(((points - points[0]) / step) ** 2, levels, weights)
    inside = weights.clamp(points[0], points[-1])
    cell = (torch.searchsorted(points, inside, right=True) - 1).clamp(0, count - 2)
    assert torch.equal(found.left, cell)
    assert bool(((found.mass >= 0) & (found.mass <= 1)).all())


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), is_even=st.booleans(), dtype=st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_the_native_kernel_and_tensor_operations_find_the_same_optima(seed, count, is_even, dtype):
    xi, levels, _ = random_instance(seed, count)
    levels = torch.linspace(-1, 2, count, dtype=torch.float64) if is_even else levels
    noise = torch.randn(5, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.cat([noise, levels.expand(5, count)], dim=1).to(dtype)
    native = solve(xi, levels, weights)
    tensors = Solution(*(torch.empty_like(part) for part in vars(native).values()))
    _solve(xi, _Grid(levels), hull(xi[None], levels), weights, tensors)
    assert torch.equal(native.left, tensors.left)
    assert torch.equal(native.right, tensors.right)
    torch.testing.assert_close(vars(native), vars(tensors))


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
def test_strange_weights_do_no_harm(strange):
    found = solve(torch.rand(6), torch.linspace(-1, 1, 6), torch.tensor([strange, 0.5]))
    assert float(found.multiplier[0]) == 0
    assert 0 <= int(found.left[0]) <= int(found.right[0]) <= 5


def test_multipliers_alone_are_those_of_the_solution():
    xi, levels, _ = random_instance(5, 20)
    weights = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)).transpose(0, 1) * 5
    found = multipliers(xi, levels, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, solve(xi, levels, weights).multiplier.float())


def test_masses_keep_the_weights_and_read_any_hull():
    xi, levels, _ = random_instance(6, 20)
    weights = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).double() * 5
    found, inside = masses(levels, weights), weights.clamp(levels[0], levels[-1])
    assert float(found.sum()) == pytest.approx(210)
    assert float(found @ levels) == pytest.approx(float(inside.sum()))
    hull_at_levels = solve(xi, levels, levels).value
    assert float(found @ hull_at_levels) == pytest.approx(float(solve(xi, levels, weights).value.sum()))


def test_pieces_make_no_difference(monkeypatch):
    xi, levels, _ = random_instance(7, 20)
    weights = torch.randn(100, generator=torch.Generator().manual_seed(0))
    whole = masses(levels, weights), multipliers(xi, levels, weights), solve(xi, levels, weights)
    monkeypatch.setattr(knapsack, "_SMALL_PIECE", 7)
    torch.testing.assert_close(masses(levels, weights), whole[0])
    assert torch.equal(multipliers(xi, levels, weights), whole[1])
    torch.testing.assert_close(vars(solve(xi, levels, weights)), vars(whole[2]))
