"""Entropy-constrained k-means: against all partitions, against its parts, and at both ends of the price."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.solvers.entropy_kmeans import entropy_kmeans
from metaq.solvers.kmeans1d import kmeans


def objective(runs, n, price):
    error = sum(float((run - run.mean()).square().sum()) for run in runs)
    return error - price * sum(len(run) * math.log2(len(run) / n) for run in runs)


def partitions(weights, k):
    ordered = weights.sort().values
    n = len(ordered)
    for count in range(1, min(k, n) + 1):
        for cuts in combinations(range(1, n), count - 1):
            yield [ordered[a:b] for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


def members(weights, cells):
    places = torch.bucketize(weights, cells.boundaries)
    return [weights[places == b] for b in range(len(cells.levels))]


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), k=st.integers(1, 5), price=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_what_it_finds_is_a_partition_at_its_own_optimum(seed, n, k, price):
    weights = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = kmeans(weights, k).levels
    cells = entropy_kmeans(weights, start, price)
    runs = members(weights, cells)
    torch.testing.assert_close(torch.stack([run.mean() for run in runs]), cells.levels)
    assert cells.objective == pytest.approx(objective(runs, n, price), abs=1e-9)
    best = min(objective(runs, n, price) for runs in partitions(weights, k))
    first = torch.bucketize(weights, (start[1:] + start[:-1]) / 2)
    begun = objective([weights[first == b] for b in range(len(start))], n, price)
    assert best - 1e-9 <= cells.objective <= begun + 1e-9


def test_from_all_starts_the_best_is_the_global_optimum():
    for seed in range(20):
        weights = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        best = min(objective(runs, 7, 0.3) for runs in partitions(weights, 3))
        starts = [torch.stack([run.mean() for run in runs]) for runs in partitions(weights, 3)]
        found = min(entropy_kmeans(weights, start, 0.3).objective for start in starts)
        assert found == pytest.approx(best)


def test_a_free_bit_gives_lloyd_and_a_dear_one_a_single_level():
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = kmeans(weights, 8).levels
    torch.testing.assert_close(entropy_kmeans(weights, start, 0.0).levels, start)
    assert len(entropy_kmeans(weights, start, 100.0).levels) == 1


def test_a_higher_price_gives_fewer_bits():
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = kmeans(weights, 16).levels
    bits = []
    for price in (0.0, 0.01, 0.05, 0.2):
        runs = members(weights, entropy_kmeans(weights, start, price))
        bits.append(objective(runs, 5000, 1.0) - objective(runs, 5000, 0.0))
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 0.6 * bits[0]
