"""The baselines by a general solver: right themselves, and clear when cvxpy is missing."""

import sys

import pytest
import torch

from metaq.errors import InputError
from metaq.solvers import general, knapsack


@pytest.mark.parametrize("seed", range(5))
def test_knapsack_agrees_with_the_hull(seed):
    generator = torch.Generator().manual_seed(seed)
    levels, xi = torch.linspace(-1, 1, 9, dtype=torch.float64), torch.randn(9, generator=generator, dtype=torch.float64)
    weight = float(torch.rand(1, generator=generator)) * 1.8 - 0.9
    found, expected = general.knapsack(xi, levels, weight), knapsack.solve(xi, levels, torch.tensor([weight]).double())
    assert found.status == "optimal"
    assert found.value == pytest.approx(float(expected.value), abs=1e-7)
    assert found.multiplier == pytest.approx(float(expected.multiplier), abs=1e-6)
    assert abs(found.gap) <= 1e-7
    assert float(found.assignment @ levels) == pytest.approx(weight, abs=1e-7)


def test_regulariser_with_one_choice_of_counts():
    # Between two levels the assignment is settled: 4 weights in the middle of each give 2 and 2.
    found = general.regulariser(torch.full((4,), 0.5), torch.tensor([0.0, 1.0]))
    assert found.status == "optimal"
    assert found.value == pytest.approx(4.0, abs=1e-6)
    assert found.counts.tolist() == pytest.approx([2.0, 2.0], abs=1e-5)
    assert abs(found.gap) <= 1e-6


def test_regulariser_is_certified_by_its_own_multipliers():
    weights = torch.rand(20, generator=torch.Generator().manual_seed(0)) * 3
    found = general.regulariser(weights, torch.arange(4.0))
    assert abs(found.gap) <= 1e-6 * found.value
    assert float(found.counts.sum()) == pytest.approx(20, rel=1e-6)
    assert found.multipliers.shape == weights.shape


def test_says_when_there_is_no_optimum():
    with pytest.raises(InputError, match="infeasible"):
        general.regulariser(torch.zeros(4), torch.arange(3.0))


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(InputError, match=r"pip install 'metaq-nn\[dev\]'"):
        general.knapsack(torch.zeros(2), torch.arange(2.0), 0.5)
