"""Tensors inside of tuples, lists and dictionaries, as modules take and give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree with other tensors; what is neither a tensor nor holds any stays."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        changed = {key: mapped(value, change) for key, value in tree.items()}
        return changed if type(tree) is dict else type(tree)(**changed)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(value, change) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)([mapped(value, change) for value in tree])
    return tree


def copied(tree: Any) -> Any:
    """A tree whose tensors are copies."""
    return mapped(tree, lambda tensor: tensor.detach().clone())


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in a tree, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(tree, note)
    return found


def are_same(one: Any, other: Any) -> bool:
    """Whether two trees have equal tensors, bit for bit."""
    first, second = tensors(one), tensors(other)
    return len(first) == len(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )
