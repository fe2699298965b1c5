"""One-dimensional k-means against all partitions, and against Lloyd's algorithm."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.solvers.kmeans1d import kmeans, lloyd, midpoints

VALUES = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10, width=32)), min_size=1, max_size=12)


def least_error(values, k):
    """Over all ways to cut the sorted values into at most k runs."""
    ordered = sorted(values)
    n = len(ordered)
    best = float("inf")
    for cuts in combinations(range(1, n), min(k, n) - 1):
        ends = [0, *cuts, n]
        runs = [torch.tensor(ordered[a:b], dtype=torch.float64) for a, b in pairwise(ends)]
        best = min(best, sum(float((run - run.mean()).square().sum()) for run in runs))
    return best


@given(values=VALUES, k=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_exact_is_the_best_of_all_partitions(values, k):
    weights = torch.tensor(values, dtype=torch.float64)
    found = kmeans(weights, k)
    assert found.squared_error == pytest.approx(least_error(values, k), rel=1e-9, abs=1e-12)
    assert len(found.levels) <= k
    assert bool((found.levels.diff() > 0).all())
    assert float((weights - found.levels[found.indices]).square().sum()) == found.squared_error


@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), k=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_exact_is_never_above_lloyd_and_lloyd_never_above_its_start(seed, n, k):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(n, generator=generator, dtype=torch.float64) ** 3
    start = torch.randn(k, generator=generator, dtype=torch.float64)
    local, best = lloyd(weights, start), kmeans(weights, k)
    from_start = float((weights[:, None] - start).square().min(dim=1).values.sum())
    assert best.squared_error <= local.squared_error * (1 + 1e-12)
    assert local.squared_error <= from_start * (1 + 1e-12)
    for found in (local, best):  # both are fixed points: means of the nearest
        assert torch.equal(found.indices, torch.bucketize(weights, midpoints(found.levels)))
        means = torch.stack([weights[found.indices == b].mean() for b in range(len(found.levels))])
        torch.testing.assert_close(found.levels, means)


def test_far_from_zero_and_with_an_outlier_the_optimum_is_still_found():
    near = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0], dtype=torch.float64)
    assert kmeans(near * 1e-3 + 1e6, 3).indices.tolist() == [0, 0, 1, 1, 2, 2]
    assert kmeans(torch.cat([near * 1e-3, torch.tensor([1e4])]), 4).indices.tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_fewer_distinct_values_than_levels_leave_no_error():
    found = kmeans(torch.tensor([[2.0, -1.0], [2.0, 2.0]]), 5)
    assert found.levels.tolist() == [-1.0, 2.0]
    assert found.indices.tolist() == [[1, 0], [1, 1]]
    assert found.squared_error == 0


def test_many_values_of_many_counts():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-40, 40, (5000,), generator=generator).double() ** 3
    distinct = torch.unique(weights).tolist()
    repeated = [weights.tolist().count(value) for value in distinct]
    # The textbook programme in O(k n^2), on weighted values.
    n, k = len(distinct), 6

    def cost(a, b):
        values, counts = torch.tensor(distinct[a:b]).double(), torch.tensor(repeated[a:b]).double()
        mean = (values * counts).sum() / counts.sum()
        return float((counts * (values - mean) ** 2).sum())

    costs = {(a, b): cost(a, b) for a in range(n) for b in range(a + 1, n + 1)}
    row = [0.0] + [costs[0, b] for b in range(1, n + 1)]
    for _ in range(k - 1):
        row = [0.0] + [min(row[a] + costs[a, b] for a in range(b)) for b in range(1, n + 1)]
    assert kmeans(weights, k).squared_error == pytest.approx(row[n], rel=1e-9)


@pytest.mark.parametrize(("values", "k"), [([], 2), ([1.0, float("nan")], 2), ([float("inf")], 1), ([1.0], 0)], ids=str)
def test_what_has_no_clusters_is_refused(values, k):
    with pytest.raises(InputError, match="k-means: expected"):
        kmeans(torch.tensor(values), k)
