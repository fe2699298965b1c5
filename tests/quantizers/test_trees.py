"""Tensors in what modules take and give."""

from collections import OrderedDict, namedtuple

import torch

from metaq.quantizers.trees import are_same, copied, tensors

Pair = namedtuple("Pair", "first second")


def test_all_kinds_of_trees():
    one, two = torch.ones(2), torch.zeros(3)
    tree = Pair((one, None, torch.Size([2, 3])), [{"a": two}, OrderedDict(b=one, c="text")])
    assert [tensor is other for tensor, other in zip(tensors(tree), (one, two, one), strict=True)] == [True] * 3
    other = copied(tree)
    assert are_same(tree, other)
    assert (type(other), type(other.second[1]), other.first[2]) == (Pair, OrderedDict, torch.Size([2, 3]))
    one += 1
    assert not are_same(tree, other)
    assert not are_same(tree, (one,))
    assert not are_same(one, one.double())
