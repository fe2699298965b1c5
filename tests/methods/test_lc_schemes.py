"""C steps: each against brute force or its closed form, and every name that a recipe may give."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.errors import InputError
from metaq.methods.lc_schemes import Fixed, parse
from metaq.solvers.kmeans1d import kmeans

WEIGHTS = st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=12)
CLOSE = {"rel": 1e-6, "abs": 1e-6}  # levels are float32


def error(scheme, weights, start=None):
    values = parse(scheme).project(weights, start, 1.0).values
    assert values.dtype == torch.float32
    return float((weights - values.double()).square().sum())


@given(values=WEIGHTS, scheme=st.sampled_from(["binary", "ternary", "powers:0", "powers:3", "levels:-1,0.25,2"]))
@settings(max_examples=80, deadline=None)
def test_fixed_levels_are_the_nearest(values, scheme):
    weights = torch.tensor(values).double()
    levels = torch.tensor(parse(scheme).levels).double()
    least = (weights[:, None] - levels).square().min(dim=1).values.sum()
    assert error(scheme, weights) == pytest.approx(float(least))


@given(
    values=WEIGHTS.filter(lambda values: len(values) <= 6), scheme=st.sampled_from(["binary", "ternary", "powers:1"])
)
@settings(max_examples=40, deadline=None)
def test_scaled_levels_are_the_best_of_all_assignments(values, scheme):
    weights = torch.tensor(values).double()
    chosen = torch.tensor(list(product(parse(scheme).levels, repeat=len(values)))).double()
    gains = (chosen @ weights).clamp(min=0) ** 2 / chosen.square().sum(dim=1).clamp(min=1e-30)
    least = float(weights.square().sum() - gains.max())
    assert error(f"scaled-{scheme}", weights) == pytest.approx(least, **CLOSE)


def test_powers_of_two_are_the_paper_s_closed_form():
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = 4
    f = -weights.abs().log2()
    expected = torch.where(
        f > c + 1, 0.0, torch.where(f > c, 2.0**-c, (-(f + torch.tensor(1.5).log2()).floor()).exp2())
    )
    expected = torch.where(f <= 0, 1.0, expected) * weights.sign()
    assert torch.equal(parse(f"powers:{c}").project(weights, None, 1.0).values, expected.float())


@given(values=WEIGHTS, k=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_adaptive_levels_are_optimal_or_never_worse_than_the_last(values, k, seed):
    weights = torch.tensor(values).double()
    assert error(f"kmeans:{k}", weights) == pytest.approx(kmeans(weights, k).squared_error, **CLOSE)
    start = torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort().values
    before = float((weights[:, None] - start).square().min(dim=1).values.sum())
    assert error(f"lloyd:{k}", weights, start) <= before + 1e-5


@given(values=WEIGHTS, share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_pruning_keeps_the_largest(values, share):
    weights = torch.tensor(values).double()
    kept = round(share * len(values))
    least = sum(sorted(value**2 for value in values)[: len(values) - kept])
    assert error(f"prune:{share!r}", weights) == pytest.approx(least)
    assert int((parse(f"prune:{share!r}").project(weights, None, 1.0).values != 0).sum()) <= kept


def best_corrected(weights, count, k):
    least = float("inf")
    for corrected in combinations(range(len(weights)), count):
        rest = torch.tensor([i not in corrected for i in range(len(weights))])
        least = min(least, kmeans(weights[rest], k).squared_error)
    return least


def test_corrections_reach_the_best_choice_of_weights_nearly_always():
    reached = 0
    for seed in range(60):
        weights = torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        least = best_corrected(weights, 2, 2)
        found = error("correct:0.2+kmeans:2", weights)
        assert least - 1e-6 <= found <= kmeans(weights, 2).squared_error + 1e-6
        reached += found <= least + 1e-6
    assert reached >= 30  # alternation stops at local optima; the joint problem has no exact fast solver


def test_a_correction_is_exact_where_it_is_and_levels_elsewhere():
    weights = torch.cat([torch.tensor([9.0, -7.0]), torch.tensor([-1.0, 1.0]).repeat(50)]).double()
    projection = parse("correct:0.02+scaled-binary").project(weights, None, 1.0)
    assert torch.equal(projection.values, weights.float())
    assert projection.levels.tolist() == [-1.0, 1.0]


def test_a_dearer_bit_leaves_fewer_levels_and_a_larger_penalty_brings_them_back():
    weights = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheme = parse("entropy:8:0.5")
    dear = scheme.project(weights, None, 0.5)
    assert len(torch.unique(dear.values)) == 1
    assert len(torch.unique(scheme.project(weights, dear.levels, 100.0).values)) == 8


def test_values_have_no_negative_zero():
    for scheme in ("prune:0.5", "ternary", "scaled-ternary"):
        values = parse(scheme).project(torch.tensor([-0.1, -2.0]).double(), None, 1.0).values
        assert not bool(torch.signbit(values[0]))


def test_names():
    assert parse("levels:2,-1,0") == Fixed((-1.0, 0.0, 2.0), False)
    assert parse("scaled-powers:1") == Fixed((-1.0, -0.5, 0.0, 0.5, 1.0), True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kmeans",
        "kmeans:0",
        "kmeans:x",
        "kmeans:nan",
        "kmeans:2:3",
        "scaled-kmeans:2",
        "entropy:4",
        "binary:1",
        "levels:",
        "levels:1,inf",
        "powers:61",
        "prune:1.1",
        "prune:0.1+prune:0.1",
        "correct:0.1+prune:0.5",
        "quux:1",
        "correct:0.6+kmeans:2",
        "correct:0.1+entropy:4:0.1",
    ],
)
def test_other_names_are_refused(text):
    with pytest.raises(InputError, match="scheme"):
        parse(text)
