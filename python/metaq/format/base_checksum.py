"""The checksum by which a difference names its base (docs/format.md, "Differences")."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from metaq.format.dtypes import Dtype
from metaq.format.header import pack_shape, string

Array = TypeVar("Array")

_SHOWN_DIGITS = 12


class Elements(NamedTuple):
    """A tensor as a checksum sees it; ``octets`` are its elements, row-major, as uint8 in one dimension."""

    dtype: Dtype
    shape: tuple[int, ...]
    octets: np.ndarray


def base_checksum(tensors: Mapping[str, Array], elements_of: Callable[[Array], Elements]) -> str:
    """SHA-256, in hexadecimal, of all tensors in the order of their names: of each its name, dtype, shape and bytes.

    Args:
        elements_of: is asked for one tensor at a time.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors, key=lambda name: name.encode("utf-8")):
        elements = elements_of(tensors[name])
        sha.update(string(name) + bytes([elements.dtype.code]) + pack_shape(elements.shape))
        sha.update(elements.octets.data)
    return sha.hexdigest()


def shortened(checksum: str) -> str:
    """A checksum's first digits, for messages."""
    return f"{checksum[:_SHOWN_DIGITS]}..."
