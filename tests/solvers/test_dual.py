"""The dual against a general solver, finite differences, its own definition, and what concave duals must obey."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.solvers import dual, general, knapsack, simplex_qp
from metaq.solvers.convex_regression import kinks, project
from metaq.solvers.dual_problem import pose

METHODS = {
    "diminishing steps": (dual.diminishing_steps, dual.DiminishingSteps(tolerance=1e-6)),
    "FISTA": (dual.fista, dual.Fista()),
    "bundle": (dual.proximal_bundle, dual.ProximalBundle()),
    "Newton": (dual.newton, dual.Newton()),
}
PUBLISHED = {
    "diminishing steps": (dual.diminishing_steps, dual.DiminishingSteps(rule=dual.Rule.PUBLISHED, iterations=40)),
    "relative steps": (dual.diminishing_steps, dual.DiminishingSteps(rule=dual.Rule.RELATIVE, iterations=40)),
    "FISTA": (dual.fista, dual.Fista(rule=dual.Rule.PUBLISHED, iterations=40, zeta=100)),
    "bundle": (dual.proximal_bundle, dual.ProximalBundle(rule=dual.Rule.PUBLISHED, iterations=40, zeta=20)),
}
methods = pytest.mark.parametrize("method", METHODS)
every_method = pytest.mark.parametrize(("solve", "options"), [*METHODS.values(), *PUBLISHED.values()])


def random_instance(seed, size=24, count=6):
    """Weights of three kinds, by the seed: even; crowded at the ends, with many kinks at the optimum; at one end."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(count, generator=generator, dtype=torch.float64).add(0.1).cumsum(0) - 1
    share = torch.rand(size, generator=generator, dtype=torch.float64)
    share = (share, share.mul(math.pi).cos().add(1).div(2), share**3)[seed % 3]
    return levels[0] + share * (levels[-1] - levels[0]), levels


@pytest.fixture(scope="module")
def large():
    return torch.cos(torch.rand(44_000, generator=torch.Generator().manual_seed(0)) * math.pi), torch.linspace(
        -1, 1, 64
    )


@methods
@pytest.mark.parametrize("seed", range(9))
def test_agrees_with_a_general_solver(method, seed):
    weights, levels = random_instance(seed)
    expected = general.regulariser(weights, levels)
    solve, options = METHODS[method]
    found = solve(weights, levels, None, options)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    assert found.primal == pytest.approx(expected.value, rel=1e-6)
    assert found.status is dual.Status.CONVERGED


def test_multipliers_agree_with_a_general_solver():
    weights, levels = random_instance(4)
    expected, found = general.regulariser(weights, levels), dual.newton(weights, levels)
    torch.testing.assert_close(found.multipliers, expected.multipliers, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.xi, expected.xi, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.counts, expected.counts, rtol=1e-4, atol=1e-4)


def test_methods_agree_on_a_large_instance(large):
    values = [
        solve(*large, None, options).value
        for name, (solve, options) in METHODS.items()
        if name != "bundle"  # its aggregated cuts need some hundred steps for these 64 levels
    ]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-6)
    assert dual.proximal_bundle(*large, None, dual.ProximalBundle(iterations=60)).value == pytest.approx(
        values[0], rel=1e-4
    )


@pytest.mark.parametrize("seed", range(6))
def test_multipliers_are_the_derivative_of_the_optimum(seed):
    weights, levels = random_instance(seed)
    options, relative = dual.Newton(tolerance=1e-12), 1e-5
    found = dual.newton(weights, levels, None, options).multipliers
    # Where a weight lies on a level the optimum has a kink, and a difference across it is no derivative.
    smooth = (weights[:, None] - levels).abs().min(dim=1).values > 10 * relative
    assert int(smooth.sum()) >= 15
    for index in smooth.nonzero().flatten().tolist()[::4]:
        shift = torch.zeros_like(weights)
        shift[index] = relative
        higher = dual.newton(weights + shift, levels, None, options).value
        lower = dual.newton(weights - shift, levels, None, options).value
        assert float(found[index]) == pytest.approx((higher - lower) / (2 * relative), rel=1e-3, abs=1e-3)


def test_multipliers_are_zero_outside_the_levels_and_of_the_weights_dtype():
    weights, levels = random_instance(1)
    found = dual.newton(torch.cat([weights, levels[[0, -1]] + torch.tensor([-1, 1])]).float(), levels)
    assert found.multipliers.dtype == torch.float32
    assert found.multipliers[-2:].tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), size=st.integers(12, 60), spread=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_any_dual_value_is_below_any_primal_value(seed, count, size, spread):
    weights, levels = random_instance(seed, size, count)
    generator = torch.Generator().manual_seed(seed + 1)
    xi = torch.randn(count, generator=generator, dtype=torch.float64) * spread
    value, _ = dual.evaluate(xi, weights, levels)
    # Any feasible assignment: between the hull's vertices of other random costs.
    solution = knapsack.solve(torch.randn(count, generator=generator), levels, weights)
    counts = torch.zeros(count, dtype=torch.float64)
    counts.scatter_add_(0, solution.left, solution.mass).scatter_add_(0, solution.right, 1 - solution.mass)
    if bool((counts >= 0.01).all()):
        assert value <= float((counts * counts.log2()).sum()) + 1e-9 * size
    problem = pose(weights, levels, 0.01)
    primal, made = problem.primal(problem.evaluate(xi.numpy()).hull)
    assert value <= primal + 1e-9 * size
    assert made.sum() == pytest.approx(size)
    assert made @ problem.points == pytest.approx(float(weights.sum()), abs=1e-7 * size)
    assert made.min() >= 0.01
    needed = np.maximum(problem.points - problem.points[:, None], 0)
    assert (needed @ made >= needed @ problem.masses - 1e-7 * size).all()


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), part=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_dual_is_concave_and_its_supergradient_is_one(seed, count, part):
    weights, levels = random_instance(seed, 30, count)
    generator = torch.Generator().manual_seed(seed + 1)
    one, other = torch.randn(2, count, generator=generator, dtype=torch.float64) * 4
    between = part * one + (1 - part) * other
    at_one, slope = dual.evaluate(one, weights, levels)
    at_other, _ = dual.evaluate(other, weights, levels)
    at_between, _ = dual.evaluate(between, weights, levels)
    assert at_between >= part * at_one + (1 - part) * at_other - 1e-9 * abs(at_one)
    assert at_other <= at_one + float(slope @ (other - one)) + 1e-9 * abs(at_one)


def test_value_is_what_the_definition_says():
    weights, levels = random_instance(2)
    xi = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3
    counts = (xi - 1 / math.log(2)).exp2().clamp(0.01, len(weights))
    expected = (counts * counts.log2() - xi * counts).sum() + knapsack.solve(xi, levels, weights).value.sum()
    assert dual.evaluate(xi, weights, levels)[0] == pytest.approx(float(expected))


@every_method
def test_reports_what_it_returns(solve, options):
    weights, levels = random_instance(1)
    found = solve(weights, levels, None, options)
    value, _ = dual.evaluate(found.xi, weights, levels)
    assert found.value == pytest.approx(value)
    assert found.gap == pytest.approx(found.primal - found.value)
    assert found.gap >= -1e-9
    assert found.primal == pytest.approx(float((found.counts * found.counts.log2()).sum()))
    assert 0 <= found.iterations <= options.iterations
    torch.testing.assert_close(found.multipliers, knapsack.solve(found.xi, levels, weights).multiplier)
    start = dual.evaluate(torch.zeros(6), weights, levels)[0]
    assert found.value > start + 0.5 * (found.primal - start)


@methods
def test_a_warm_start_needs_fewer_iterations(method):
    """The bundle in all: of a single instance it may need two more, which processors' rounding decides."""
    solve, options = METHODS[method]
    iterations = {"warm": 0, "again": 0}
    for seed in (1, 4, 7):
        weights, levels = random_instance(seed, size=400, count=10)
        cold = solve(weights, levels, None, options)
        moved = weights + 1e-4 * torch.randn(400, generator=torch.Generator().manual_seed(0))
        again, warm = solve(moved, levels, None, options), solve(moved, levels, cold.xi, options)
        assert warm.status is dual.Status.CONVERGED
        assert warm.value == pytest.approx(again.value, rel=2e-6)
        assert method == "bundle" or warm.iterations < again.iterations
        iterations["warm"] += warm.iterations
        iterations["again"] += again.iterations
    assert iterations["warm"] < iterations["again"], iterations


@methods
@pytest.mark.parametrize("size", [1e-3, 1, 1e3, 1e6])
def test_any_start_will_do(method, size):
    weights, levels = random_instance(5)
    solve, options = METHODS[method]
    start = size * torch.randn(6, generator=torch.Generator().manual_seed(0))
    assert solve(weights, levels, start, options).gap <= 1e-4


@methods
@pytest.mark.parametrize(
    ("weights", "count"),
    [
        (torch.tensor([0.3]), 2),
        (torch.full((50,), 0.25), 5),
        (torch.linspace(0, 1, 5).repeat(9), 5),
        (torch.cat([torch.zeros(1000), torch.ones(1000)]), 3),
        (torch.cat([torch.zeros(100_000), torch.ones(1)]), 9),  # the least counts bind
    ],
)
def test_corner_cases(method, weights, count):
    levels = torch.linspace(0, 1, count)
    if bool((weights == weights.round()).all()):
        weights = weights * 0.98 + 0.01
    solve, options = METHODS[method]
    found = solve(weights, levels, None, options)
    assert abs(found.gap) <= 1e-5 * max(1, abs(found.value))
    assert found.multipliers.shape == weights.shape


def test_no_level_counts_less_than_allowed():
    weights = torch.rand(1000, generator=torch.Generator().manual_seed(0)) ** 8
    found = dual.newton(weights, torch.linspace(0, 1, 20), None, dual.Newton(least_count=9.0))
    assert found.gap <= 1e-6 * found.value
    assert float(found.counts.min()) == pytest.approx(9.0)


def test_iterations_do_not_depend_on_the_number_of_weights(large):
    weights, levels = large
    problem = pose(weights, levels, 0.01)
    assert problem.masses.shape == (64,)
    assert problem.masses.sum() == pytest.approx(44_000)
    many = dual.newton(weights.repeat(50), levels)
    assert many.iterations <= dual.newton(weights, levels).iterations + 2


@pytest.mark.parametrize(
    ("weights", "levels", "start", "message"),
    [
        (torch.zeros(0), torch.arange(3.0), None, "at least one weight"),
        (torch.tensor([1.0, math.nan]), torch.arange(3.0), None, "finite weights"),
        (torch.tensor([1.0, math.inf]), torch.arange(3.0), None, "finite weights"),
        (torch.zeros(9), torch.arange(3.0), None, "leave a count of 0.01"),
        (torch.tensor([1.0]), torch.arange(300.0), None, "leave a count of 0.01"),
        (torch.ones(9), torch.tensor([0.0, 0.0, 2.0]), None, "increasing"),
        (torch.ones(9), torch.ones(1), None, "at least two"),
        (torch.ones(9), torch.arange(3.0), torch.zeros(4), "3 finite multipliers"),
        (torch.ones(9), torch.arange(3.0), torch.full((3,), math.nan), "3 finite multipliers"),
    ],
)
def test_refuses_what_has_no_optimum(weights, levels, start, message):
    with pytest.raises(InputError, match=message):
        dual.fista(weights, levels, start)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (lambda: dual.Fista(iterations=0), "Fista iterations"),
        (lambda: dual.Fista(zeta=0), "Fista zeta"),
        (lambda: dual.Fista(rule=dual.Rule.RELATIVE), "Fista rule"),
        (lambda: dual.Newton(tolerance=-1), "Newton tolerance"),
        (lambda: dual.Newton(least_count=0), "Newton least_count"),
        (lambda: dual.DiminishingSteps(order=0), "DiminishingSteps order"),
        (lambda: dual.ProximalBundle(cuts=1), "ProximalBundle cuts"),
        (lambda: dual.ProximalBundle(fair=1), "ProximalBundle fair"),
        (lambda: dual.ProximalBundle(zeta=-1), "ProximalBundle zeta"),
    ],
)
def test_options_are_checked(options, name):
    with pytest.raises(InputError, match=name):
        options()


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), curvature=st.floats(-3, 3))
@settings(max_examples=80, deadline=None)
def test_projection_is_optimal(seed, count, curvature):
    random = np.random.default_rng(seed)
    points = np.cumsum(random.random(count) + 0.05)
    target = random.normal(size=count) + curvature * np.linspace(-1, 1, count) ** 2
    weights = np.exp(2 * random.normal(size=count))
    found = project(target, weights, points, np.zeros(count))
    assert kinks(found, points).min(initial=0) >= -1e-9
    # Moreau: the rest is orthogonal to the projection, and no convex sequence, made of lines and kinks, has more of it.
    rest = weights * (target - found)
    bent = np.maximum(points - points[:, None], 0)
    scale = float(weights @ np.abs(target)) + 1e-12
    assert abs(rest.sum()) <= 1e-8 * scale
    assert abs(rest @ points) <= 1e-8 * scale * points[-1]
    assert (bent @ rest <= 1e-8 * scale * points[-1]).all()
    assert abs(rest @ found) <= 1e-8 * scale * np.abs(found).max()
    np.testing.assert_allclose(project(target, weights, points, found), found, atol=1e-8)


@given(seed=st.integers(0, 10_000), size=st.integers(1, 30), rank=st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_quadratic_programme_is_solved_exactly(seed, size, rank):
    random = np.random.default_rng(seed)
    factor = random.normal(size=(size, rank)) * 10 ** random.uniform(-3, 3)
    linear = np.abs(random.normal(size=size)) * 10 ** random.uniform(-3, 3)
    quadratic = factor @ factor.T
    starts = [None, random.random(size)]
    values = []
    for shares in (simplex_qp.minimise(quadratic, linear, start) for start in starts):
        assert shares.min() >= 0
        assert shares.sum() == pytest.approx(1)
        gradient = quadratic @ shares + linear
        terms = shares @ quadratic @ shares + shares @ linear
        assert gradient.min() >= shares @ gradient - 1e-11 * terms - 1e-14 * quadratic.max()
        values.append(0.5 * shares @ quadratic @ shares + linear @ shares)
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-13 * quadratic.max())
