"""Lloyd-Max: stationary, never worse than its start, and robust where weights are few or equal."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.solvers.lloyd_max import best_levels, lloyd_max, spread


def error(weights, levels):
    return float((weights.double()[:, None] - levels).abs().min(dim=1).values.square().sum())


def cells(weights, levels):
    return (weights.double()[:, None] - levels).abs().argmin(dim=1)


def test_levels_are_the_means_of_their_cells():
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    levels = lloyd_max(weights, spread(weights, 8), iterations=10_000)
    nearest = cells(weights, levels)
    means = torch.stack([weights[nearest == k].double().mean() for k in range(8)])
    torch.testing.assert_close(levels, means, rtol=0, atol=1e-9)
    # What is published for a Gaussian: Max (1960), 8 levels.
    assert error(weights, levels) / 5000 == pytest.approx(0.0345, rel=0.05)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30),
    st.integers(2, 12),
    st.booleans(),
)
def test_never_worse_than_the_start_and_increasing(values, count, has_zero):
    weights = torch.tensor(values)
    zero = count // 2 if has_zero else None
    start = spread(weights, count, zero)
    assert bool((start.diff() > 0).all())
    previous = error(weights, start)
    for iterations in (1, 2, 50):
        levels = lloyd_max(weights, start, zero, iterations)
        assert bool((levels.diff() > 0).all())
        assert error(weights, levels) <= previous * (1 + 1e-9) + 1e-12
        previous = error(weights, levels)
        assert zero is None or float(levels[zero]) == 0.0


def test_a_level_without_weights_stays():
    weights = torch.tensor([0.0, 0.1, 10.0])
    levels = lloyd_max(weights, torch.tensor([0.0, 5.0, 9.0]))
    assert levels.tolist() == pytest.approx([0.05, 5.0, 10.0])


def least_error(weights, count):
    """Over all ways to cut the sorted weights into `count` runs."""
    ordered = weights.double().sort().values
    errors = []
    for cuts in combinations(range(1, len(ordered)), count - 1):
        runs = torch.tensor_split(ordered, cuts)
        errors.append(sum(float((run - run.mean()).square().sum()) for run in runs))
    return min(errors)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=9), st.integers(2, 4), st.booleans())
def test_the_best_levels_are_the_best_or_stationary_beside_zero(values, count, has_zero):
    weights = torch.tensor(values)
    zero = count // 2 if has_zero else None
    levels = best_levels(weights, count, zero)
    assert levels.shape == (count,)
    assert bool((levels.diff() > 0).all())
    if has_zero:
        assert float(levels[zero]) == 0.0
        assert torch.equal(lloyd_max(weights, levels, zero), levels)
    elif len(weights.unique()) >= count:
        assert error(weights, levels) == pytest.approx(least_error(weights, count), rel=1e-6, abs=1e-9)


def test_the_best_levels_are_found_where_the_iteration_stops_early():
    weights = torch.tensor([0.0, 0.1, 0.2, 9.0, 9.1, 100.0])
    for zero in (None, 1):
        assert error(weights, best_levels(weights, 4, zero)) < 0.06
        assert error(weights, lloyd_max(weights, spread(weights, 4, zero), zero)) > 0.06
