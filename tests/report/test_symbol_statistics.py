"""Entropies in NumPy against those of `metaq.metrics`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import metrics
from metaq.report import symbol_statistics
from metaq.report.symbol_statistics import compact, counts, tuple_entropy

LIMITS = [1, 100, 300, 70_000, (1 << 30) - 1]


@st.composite
def arrays(draw):
    limit = draw(st.sampled_from(LIMITS))
    values = st.one_of(st.integers(-limit, limit), st.sampled_from([0, 1, -1, limit, -limit]))
    return np.array(draw(st.lists(values, max_size=40)), np.int32)


@given(symbols=arrays())
@settings(max_examples=200, deadline=None)
def test_counts_and_entropy(symbols):
    assert counts(symbols).tolist() == np.unique(symbols, return_counts=True)[1].tolist()
    expected = metrics.entropy_bits(torch.from_numpy(symbols))
    assert symbol_statistics.entropy_bits_of_counts(counts(symbols)) == pytest.approx(expected, abs=1e-9)


@given(symbols=arrays())
@settings(max_examples=200, deadline=None)
def test_compact_keeps_every_symbol(symbols):
    narrow = compact(symbols)
    assert narrow.dtype.kind == "i"
    assert narrow.tolist() == symbols.tolist()
    if narrow.dtype != np.int8:
        assert max(map(abs, symbols.tolist())) >= 1 << (4 * narrow.dtype.itemsize - 1)


@pytest.mark.parametrize("edge", [127, -128, 32767, -32768])
def test_the_ends_of_narrow_integers_fit(edge):
    symbols = np.array([0, edge], np.int32)
    assert compact(symbols).dtype.itemsize == (1 if abs(edge) <= 128 else 2)
    assert compact(symbols).tolist() == [0, edge]


@given(tensors=st.lists(arrays(), max_size=4), order=st.sampled_from([1, 2, 4]))
@settings(max_examples=200, deadline=None)
def test_tuple_entropy(tensors, order):
    expected = metrics.tuple_entropy([torch.from_numpy(tensor) for tensor in tensors], order)
    assert tuple_entropy([compact(tensor) for tensor in tensors], order) == pytest.approx(expected, abs=1e-9)
