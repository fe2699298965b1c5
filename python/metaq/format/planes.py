"""Kept tensors as byte planes, which are lossless and code well (docs/format.md, "Planes").

Rotating a float by one bit gathers its exponent in the first byte, where real weights take few values; what is left of
the mantissa is close to noise and is best stored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metaq import _native

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_CENTRE = np.uint8(128)  # flipping the highest bit subtracts 128 from a byte read as signed

# Parts of a plane: the element that each begins with, and its bytes minus 128, int8 in one dimension.
Segments = list[tuple[int, np.ndarray]]


def octets_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor's elements, row-major: uint8, in one dimension. Shares memory where it can."""
    dense = tensor.detach().cpu().resolve_neg().contiguous()
    # A tensor of one element counts as contiguous with any stride, but only a stride of one can be viewed as bytes.
    octets: np.ndarray = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
    return octets


def words_of(tensor: Tensor) -> np.ndarray:
    """The bits of a tensor's elements as unsigned integers, row-major, in one dimension. Shares memory where it can."""
    words: np.ndarray = octets_of(tensor).view(_WORDS[tensor.dtype.itemsize])
    return words


def split(tensor: Tensor) -> np.ndarray:
    """Byte planes of a tensor of ``n`` elements of ``b`` bytes, the exponents' plane first.

    Returns:
        The bytes minus 128: int8, shape (b, n).
    """
    width = tensor.dtype.itemsize
    words = words_of(tensor)
    if tensor.dtype.is_floating_point:
        words = (words << np.uint8(1)) | (words >> np.uint8(8 * width - 1))
    return np.ascontiguousarray((words.view(np.uint8) ^ _CENTRE).view(np.int8).reshape(-1, width)[:, ::-1].T)


def join(parts: Sequence[Segments], elements: range, out: Tensor) -> None:
    """Put elements together from their planes: the inverse of `split`.

    Args:
        parts: the planes, the exponents' first, each as segments in order that cover the elements.
        elements: which ones.
        out: where to: a dense tensor of as many elements.
    """
    octets, width = octets_of(out), out.dtype.itemsize
    first = elements.start
    while first < elements.stop:
        rest = []
        for segments in parts:
            start, symbols = segments[bisect_right(segments, first, key=lambda segment: segment[0]) - 1]
            rest.append(symbols[first - start :])
        count = min(elements.stop - first, *(symbols.size for symbols in rest))
        offset = width * (first - elements.start)
        place = octets[offset : offset + width * count]
        _native.join_planes([symbols[:count] for symbols in rest], out.dtype.is_floating_point, place)
        first += count
