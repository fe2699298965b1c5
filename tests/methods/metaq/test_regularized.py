"""Rate-aware symbols against brute force."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.methods.metaq.regularized import cheapest


@given(seed=st.integers(0, 1000), rate_weight=st.sampled_from([0.0, 0.01, 0.3, 5.0]))
@settings(max_examples=40, deadline=None)
def test_cheapest_symbols_by_brute_force(seed, rate_weight):
    generator = torch.Generator().manual_seed(seed)
    weights = 4 * torch.randn(30, generator=generator, dtype=torch.float64)
    lengths = 12 * torch.rand(7, generator=generator, dtype=torch.float64)
    places = torch.arange(-3, 4)
    costs = (weights[:, None] - places).square() + rate_weight * lengths
    found = cheapest(weights, lengths, rate_weight)
    chosen = costs.gather(1, found[:, None].long() + 3)[:, 0]
    torch.testing.assert_close(chosen, costs.min(dim=1).values)
