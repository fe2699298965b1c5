"""Kelley's cutting plane against the hull, which solves the same problem in another way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.solvers import cutting_plane, knapsack
from metaq.solvers.ascent import Status


@given(seed=st.integers(0, 10_000), count=st.integers(2, 64), sorted_costs=st.booleans())
@settings(max_examples=80, deadline=None)
def test_agrees_with_the_hull(seed, count, sorted_costs):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(count, generator=generator, dtype=torch.float64).add(0.05).cumsum(0) - 1
    xi = torch.randn(count, generator=generator, dtype=torch.float64) * 5
    xi = xi.sort().values if sorted_costs else xi
    share = torch.rand(3, 7, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    weights = levels[0] + share * (levels[-1] - levels[0])
    found, expected = cutting_plane.solve(xi, levels, weights), knapsack.solve(xi, levels, weights)
    assert found.status is Status.CONVERGED
    assert 1 <= found.iterations <= count
    assert 0 <= found.gap <= 1e-11
    torch.testing.assert_close(found.solution.value, expected.value)
    torch.testing.assert_close(found.solution.multiplier, expected.multiplier)
    torch.testing.assert_close(found.solution.left, expected.left)
    torch.testing.assert_close(found.solution.right, expected.right)
    torch.testing.assert_close(found.solution.mass, expected.mass)


def test_weights_on_levels_have_the_levels_hull():
    xi, levels = torch.tensor([3.0, 0.0, 2.0, 1.0]), torch.arange(4.0)
    found = cutting_plane.solve(xi, levels, levels)
    assert found.solution.value.tolist() == [3.0, 0.0, 0.5, 1.0]


def test_takes_no_weights():
    found = cutting_plane.solve(torch.zeros(2), torch.arange(2.0), torch.zeros(0))
    assert found.solution.value.shape == (0,)


@pytest.mark.parametrize(("xi", "levels"), [(torch.zeros(1), torch.zeros(1)), (torch.zeros(2), torch.zeros(2))])
def test_refuses_what_has_no_hull(xi, levels):
    with pytest.raises(InputError, match="levels"):
        cutting_plane.solve(xi, levels, torch.zeros(1))
