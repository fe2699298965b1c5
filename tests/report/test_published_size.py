"""The size of Deep Compression's format, against an encoder of it that writes every entry out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.report.published_size import huffman_bits, published_size


def entries(symbols, widest):
    """(value, gap) of every stored entry."""
    stored, since = [], 0
    for symbol in symbols:
        since += 1
        if symbol:
            stored.append((symbol, since))
            since = 0
        elif since == widest:
            stored.append((0, since))
            since = 0
    while stored and stored[-1][0] == 0:
        stored.pop()  # nothing comes after
    return stored


@given(
    symbols=st.lists(st.sampled_from([0] * 8 + [1, 1, -2, 3]), max_size=120),
    gap_bits=st.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_it_counts_what_an_encoder_writes(symbols, gap_bits):
    found = published_size(torch.tensor(symbols, dtype=torch.int32), gap_bits)
    stored = entries(symbols, 1 << gap_bits)
    assert found.fillers == sum(value == 0 for value, _ in stored)
    for bits, column in ((found.values, 0), (found.gaps, 1)):
        items = [entry[column] for entry in stored]
        assert bits == huffman_bits([items.count(item) for item in set(items)])
    assert found.codebook == 32 * len({symbol for symbol in symbols if symbol})
    assert found.total == found.values + found.gaps + found.codebook


@pytest.mark.parametrize(
    ("counts", "bits"), [([], 0), ([7], 7), ([0, 3, 0], 3), ([1, 1], 2), ([8, 4, 2, 1, 1], 8 + 8 + 6 + 4 + 4)]
)
def test_huffman_bits(counts, bits):
    assert huffman_bits(counts) == bits
