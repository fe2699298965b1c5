"""Lloyd-Max: stationary, never worse than its start, and robust where weights are few or equal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.solvers.lloyd_max import lloyd_max, spread


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
