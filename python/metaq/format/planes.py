"""Kept tensors as byte planes, which are lossless and code well (docs/format.md, "Planes").

Rotating a float by one bit gathers its exponent in the first byte, where real weights take few values; what is left of
the mantissa is close to noise and is best stored.
"""

from __future__ import annotations

import numpy as np

_CENTRE = np.uint8(128)  # flipping the highest bit subtracts 128 from a byte read as signed


def split(words: np.ndarray, is_float: bool) -> np.ndarray:
    """Byte planes of ``n`` elements of ``b`` bytes, the exponents' plane first.

    Args:
        words: the elements' bits as unsigned integers, in one dimension.

    Returns:
        The bytes minus 128: int8, shape (b, n).
    """
    width = words.dtype.itemsize
    if is_float:
        words = (words << np.uint8(1)) | (words >> np.uint8(8 * width - 1))
    return np.ascontiguousarray((words.view(np.uint8) ^ _CENTRE).view(np.int8).reshape(-1, width)[:, ::-1].T)
