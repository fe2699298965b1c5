"""The perspective regulariser against brute force, a general solver and finite differences."""

import math

import cvxpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.solvers import perspective
from metaq.solvers.perspective import Costs

LEVELS = torch.tensor([-1.4, -0.8, -0.4, 0.3, 0.7, 1.3], dtype=torch.float64)


def example(seed, size=40):
    generator = torch.Generator().manual_seed(seed)
    weights = (0.5 * torch.randn(size, generator=generator, dtype=torch.float64)).clamp(-1.4, 1.3)
    numbers = (2 * torch.rand(3, generator=generator) + 0.1).tolist()
    return weights, Costs(*numbers, least_count=1e-6)


def by_general_solver(weights, costs):
    share = cvxpy.Variable((len(weights), len(LEVELS)), nonneg=True)
    present = cvxpy.sum(share, axis=1)
    magnitude = sum(cvxpy.quad_over_lin(float(weight), present[i]) for i, weight in enumerate(weights))
    entropy = -cvxpy.sum(cvxpy.entr(cvxpy.sum(share, axis=0))) / math.log(2)
    objective = costs.magnitude * magnitude + costs.presence * cvxpy.sum(present) + costs.spread * entropy
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [share @ LEVELS.numpy() == weights.numpy(), present <= 1])
    problem.solve(solver=cvxpy.CLARABEL)
    return problem.value


@pytest.mark.parametrize("seed", range(3))
def test_value_is_that_of_a_general_solver(seed):
    weights, costs = example(seed)
    found = perspective.solve(weights, LEVELS, costs, iterations=200, tolerance=1e-9)
    assert found.gap <= 1e-6 * abs(found.value)
    assert found.value == pytest.approx(by_general_solver(weights, costs), rel=1e-5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_the_bound_is_one_and_starting_from_the_optimum_ends_at_once(seed):
    weights, costs = example(seed)
    rough = perspective.solve(weights, LEVELS, costs, iterations=3)
    fine = perspective.solve(weights, LEVELS, costs, iterations=300, tolerance=1e-8)
    assert rough.value - rough.gap <= fine.value + 1e-9 * abs(fine.value)
    assert fine.value <= rough.value + 1e-9 * abs(rough.value)
    again = perspective.solve(weights, LEVELS, costs, fine.prices, iterations=300, tolerance=1e-3)
    assert again.iterations <= 12


def test_multipliers_are_the_derivative():
    weights, costs = example(3)
    tight = {"iterations": 400, "tolerance": 1e-11}
    found = perspective.solve(weights, LEVELS, costs, **tight)
    multipliers = perspective.multipliers(found.prices, weights, LEVELS, costs)
    step = 1e-4
    for index in (0, 5, 11, 17):
        values = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[index] += sign * step
            values.append(perspective.solve(moved, LEVELS, costs, **tight).value)
        assert float(multipliers[index]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2, abs=1e-2)


@given(seed=st.integers(0, 1000), weight=st.floats(-1.4, 1.3))
@settings(max_examples=60, deadline=None)
def test_a_weight_pays_the_least_at_given_prices(seed, weight):
    """The closed form against every pair of levels and many shares."""
    _, costs = example(seed)
    prices = 4 * torch.rand(len(LEVELS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2
    at = perspective._Problem(torch.tensor([weight]), LEVELS, costs).tangent(prices)
    ours = at.cost + float(prices @ at.counts)
    best = math.inf if weight else 0.0
    for share in torch.linspace(1e-3, 1, 400).tolist():
        place = weight / share
        for i, left in enumerate(LEVELS.tolist()):
            for j, right in enumerate(LEVELS.tolist()):
                if left <= place <= right and left < right:
                    mass = (right - place) / (right - left)
                    price = mass * float(prices[i]) + (1 - mass) * float(prices[j])
                    best = min(best, costs.magnitude * weight**2 / share + share * (costs.presence + price))
    assert ours <= best + 1e-6
    assert ours >= best - 0.02 * (1 + abs(best)) or best == math.inf


def test_refuses_what_makes_no_sense():
    with pytest.raises(InputError, match="both sides of zero"):
        perspective.solve(torch.ones(3), torch.tensor([0.0, 1.0]), Costs())
    with pytest.raises(InputError, match="spread"):
        Costs(spread=0.0)
    with pytest.raises(InputError, match="presence"):
        Costs(presence=-1.0)
