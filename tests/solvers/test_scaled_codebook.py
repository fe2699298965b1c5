"""The best scale against a dense search, against all assignments, and against the closed forms of the LC paper."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.solvers.kmeans1d import midpoints
from metaq.solvers.scaled_codebook import best_scale

WEIGHTS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=6)
CODEBOOKS = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=1, max_size=4, unique=True).map(sorted)


def error_at(weights, codebook, scale):
    levels = codebook * scale
    return float((weights - levels[torch.bucketize(weights, midpoints(levels))]).square().sum())


@given(values=WEIGHTS, levels=CODEBOOKS)
@settings(max_examples=60, deadline=None)
def test_no_assignment_of_levels_is_better(values, levels):
    weights, codebook = torch.tensor(values).double(), torch.tensor(levels).double()
    chosen = torch.tensor(list(product(levels, repeat=len(values)))).double()
    gains = (chosen @ weights).clamp(min=0) ** 2 / chosen.square().sum(dim=1).clamp(min=1e-30)
    least = float(weights.square().sum() - gains.max())
    scale = best_scale(weights, codebook)
    assert scale >= 0
    assert error_at(weights, codebook, scale) == pytest.approx(least, rel=1e-9, abs=1e-9)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_closed_forms(seed, n):
    weights = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    magnitudes = weights.abs().sort(descending=True).values
    assert best_scale(weights, torch.tensor([-1.0, 1.0]).double()) == pytest.approx(float(magnitudes.mean()))
    sums = magnitudes.cumsum(0)
    k = int((sums / torch.arange(1, n + 1).sqrt()).argmax()) + 1
    assert best_scale(weights, torch.tensor([-1.0, 0.0, 1.0]).double()) == pytest.approx(float(sums[k - 1] / k))


def test_weights_on_a_grid_are_recovered():
    codebook = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).double()
    assert best_scale(codebook.repeat(3) * 0.37, codebook) == pytest.approx(0.37)
