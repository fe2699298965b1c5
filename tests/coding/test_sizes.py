"""That the coders reach what theory says they reach."""

import heapq

import numpy as np
import pytest

from metaq.coding import coders

COUNT = 100_000


def skewed(seed=0):
    generator = np.random.default_rng(seed)
    return (np.round(generator.laplace(scale=1.3, size=COUNT))).astype(np.int32).reshape(100, 1000, 1)


def counts_of(block):
    return np.unique(block, return_counts=True)[1]


def entropy_bytes(block):
    counts = counts_of(block)
    return -(counts * np.log2(counts / block.size)).sum() / 8


def huffman_bytes(block):
    """An optimal prefix code's bytes, by Huffman's own algorithm."""
    nodes = counts_of(block).tolist()
    heapq.heapify(nodes)
    bits = 0
    while len(nodes) > 1:
        both = heapq.heappop(nodes) + heapq.heappop(nodes)
        bits += both
        heapq.heappush(nodes, both)
    return bits / 8


def test_range_is_within_one_percent_of_the_entropy():
    block = skewed()
    table_bytes = 3 * len(counts_of(block)) + 4
    size = len(coders["range"].encode([block]))
    assert entropy_bytes(block) < size < 1.01 * entropy_bytes(block) + table_bytes


def test_range_codes_a_very_likely_symbol_in_little():
    block = np.zeros((100, 1000, 1), np.int32)
    block[::10, 7] = 1
    assert len(coders["range"].encode([block])) < entropy_bytes(block) + 6


def test_huffman_is_optimal():
    block = skewed()
    table_bytes = len(counts_of(block)) + 4
    size = len(coders["huffman"].encode([block]))
    assert entropy_bytes(block) <= huffman_bytes(block) < size < huffman_bytes(block) + table_bytes


@pytest.mark.parametrize("name", ["huffman", "range"])
def test_distinct_symbols_cost_no_more_than_raw(name):
    block = np.random.default_rng(1).integers(-(2**29), 2**29, (100, 100, 1), dtype=np.int32)
    assert len(coders[name].encode([block])) < 30 * block.size / 8 + 30


@pytest.mark.parametrize("name", ["huffman", "range"])
def test_a_small_block_costs_a_small_table(name):
    block = np.array([0, 0, 1, -1, 0, 0, 0, 1, 0, 0, -1, 0, 0, 0, 0, 0], np.int32).reshape(4, 4, 1)
    assert len(coders[name].encode([block])) <= 8


def test_mixing_learns_what_a_static_table_cannot_say():
    generator = np.random.default_rng(2)
    scales = np.exp(generator.uniform(-2, 2, size=(200, 1, 1)))
    block = np.round(scales * generator.standard_normal((200, 100, 1))).astype(np.int32)
    assert len(coders["mixing"].encode([block])) < 0.9 * entropy_bytes(block)


def test_stored_takes_the_smallest_width():
    blocks = [np.full((2, 3, 1), value, np.int32) for value in (127, -128, 128, -32769)]
    assert len(coders["stored"].encode(blocks)) == 4 + 6 * (1 + 1 + 2 + 4)
