"""The breakpoint study: counts by brute force, fits by their moments, and a result and a plot that repeat."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from metaq.errors import InputError
from metaq.report import complexity
from metaq.solvers import breakpoints


def test_a_vertex_is_below_all_lines_between_others():
    xi = torch.rand(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.arange(12.0)
    for row, found in zip(xi.tolist(), breakpoints.count_vertices(xi, levels).tolist(), strict=True):
        inner = sum(
            all(
                row[b] < row[a] + (row[c] - row[a]) * (b - a) / (c - a)
                for a in range(b)
                for c in range(b + 1, len(row))
            )
            for b in range(1, len(row) - 1)
        )
        assert found == inner + 2


def test_convex_costs_have_all_vertices_and_concave_ones_two():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    assert breakpoints.count_vertices(torch.stack([levels**2, -(levels**2)]), levels).tolist() == [256, 2]


def test_large_batches_are_taken_in_pieces():
    vertices = breakpoints.draw(64, 3000, seed=1)
    assert vertices.shape == (3000,)
    assert torch.equal(vertices, breakpoints.draw(64, 3000, seed=1))
    assert not torch.equal(vertices, breakpoints.draw(64, 3000, seed=2))


def test_fits_have_the_moments_and_the_greater_likelihood():
    vertices, levels = breakpoints.draw(64, 2000, seed=0), 64
    share = (vertices.double() / levels).numpy()
    moments, likelihood = breakpoints.fit_by_moments(vertices, levels), breakpoints.fit_by_likelihood(vertices, levels)
    assert stats.beta.mean(moments.alpha, moments.beta) == pytest.approx(share.mean())
    assert stats.beta.var(moments.alpha, moments.beta) == pytest.approx(share.var())
    by_moments = stats.beta.logpdf(share, moments.alpha, moments.beta).sum()
    assert stats.beta.logpdf(share, likelihood.alpha, likelihood.beta).sum() >= by_moments


@pytest.mark.parametrize(("alpha", "beta", "levels"), [(3.0, 5.0, 8), (2.5, 40.0, 16), (20.0, 100.0, 32)])
def test_tail_is_the_tail(alpha, beta, levels):
    mean, variance = stats.beta.stats(alpha, beta)
    # Two-valued draws with these moments, so that the fit is known.
    spread = math.sqrt(variance)
    vertices = torch.tensor([mean - spread, mean + spread], dtype=torch.float64) * levels
    fit = breakpoints.fit_by_moments(vertices, levels)
    assert (fit.alpha, fit.beta) == pytest.approx((alpha, beta))
    assert fit.log10_tail == pytest.approx(stats.beta.logsf(1 - 0.5 / levels, alpha, beta) / math.log(10), rel=1e-6)
    assert fit.probability(np.arange(levels + 1), levels).sum() == pytest.approx(1)


def test_study_is_plain_and_its_plot_repeats(tmp_path):
    result = complexity.study(256, 500, seed=0)
    assert json.loads(json.dumps(result)) == result
    assert sum(result["counts"]) == result["draws"] == 500
    assert result["largest"] == len(result["counts"]) - 1 < 20  # the thesis: at most 13 in 10,000
    assert result["moments"]["log10_tail"] < -157  # the thesis: 1.82e-157
    for name in ("one.svg", "two.svg"):
        complexity.write_plot(result, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "Hull vertices" in (tmp_path / "one.svg").read_text()


def test_two_levels_have_two_vertices(tmp_path):
    result = complexity.study(2, 10, seed=0)
    assert result["counts"] == [0, 0, 10]
    assert result["moments"] is None
    complexity.write_plot(result, tmp_path / "plot.svg")


@pytest.mark.parametrize(("levels", "draws"), [(1, 10), (4, 0)])
def test_refuses_what_cannot_be_drawn(levels, draws):
    with pytest.raises(InputError, match="breakpoints"):
        complexity.study(levels, draws, seed=0)


def test_refuses_costs_that_are_not_those_of_the_levels():
    with pytest.raises(InputError, match="hull"):
        breakpoints.count_vertices(torch.zeros(3, 4), torch.arange(5.0))
