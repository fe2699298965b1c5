"""Kept tensors as byte planes, which are lossless and code well (docs/format.md, "Planes").

Rotating a float by one bit gathers its exponent in the first byte, where real weights take few values; what is left of
the mantissa is close to noise and is best stored.
"""

from __future__ import annotations

import numpy as np

from metaq import _native


def split(words: np.ndarray, is_float: bool) -> np.ndarray:
    """Byte planes of ``n`` elements of ``b`` bytes, the exponents' plane first.

    Args:
        words: the elements' bits as unsigned integers, in one dimension.

    Returns:
        The bytes minus 128: int8, shape (b, n).
    """
    return np.stack([split_one(words, is_float, plane) for plane in range(words.itemsize)])


def split_one(words: np.ndarray, is_float: bool, plane: int) -> np.ndarray:
    """One of the planes that `split` gives: int8, shape (n,)."""
    symbols = np.empty(words.size, np.int8)
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, words.itemsize)
    _native.split_plane(octets, is_float, plane, symbols)
    return symbols
