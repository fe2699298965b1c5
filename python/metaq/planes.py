"""Kept tensors as byte planes, which are lossless and code well (docs/format.md, "Planes").

Rotating a float by one bit gathers its exponent in the first byte, where real weights take few values; what is left of
the mantissa is close to noise and is best stored.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_CENTRE = np.uint8(128)  # flipping the highest bit subtracts 128 from a byte read as signed
_PIECE = 1 << 16  # elements rotated at a time, so that temporary arrays stay small


def octets_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor's elements, row-major: uint8, in one dimension. Shares memory where it can."""
    dense = tensor.detach().cpu().resolve_neg().contiguous()
    # A tensor of one element counts as contiguous with any stride, but only a stride of one can be viewed as bytes.
    octets: np.ndarray = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
    return octets


def split(tensor: Tensor) -> np.ndarray:
    """Byte planes of a tensor of ``n`` elements of ``b`` bytes, the exponents' plane first.

    Returns:
        The bytes minus 128: int8, shape (b, n).
    """
    width = tensor.dtype.itemsize
    words = octets_of(tensor).view(_WORDS[width])
    if tensor.dtype.is_floating_point:
        words = (words << np.uint8(1)) | (words >> np.uint8(8 * width - 1))
    return np.ascontiguousarray((words.view(np.uint8) ^ _CENTRE).view(np.int8).reshape(-1, width)[:, ::-1].T)


def place(octets: np.ndarray, plane: int, first: int, symbols: np.ndarray) -> None:
    """Put ``symbols`` (-128 to 127) of a plane, from element ``first`` on, into ``octets``: uint8, shape (n, b)."""
    column = octets.shape[1] - 1 - plane
    octets[first : first + symbols.size, column] = symbols.astype(np.int8).view(np.uint8) ^ _CENTRE


def join(octets: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor whose planes were all put into ``octets``, in the same memory: the inverse of `split`."""
    flat = octets.reshape(-1)
    if dtype.is_floating_point:
        words = flat.view(_WORDS[dtype.itemsize])
        for start in range(0, words.size, _PIECE):
            piece = words[start : start + _PIECE]
            signs = piece << np.uint8(8 * dtype.itemsize - 1)
            piece >>= np.uint8(1)
            piece |= signs
    return torch.from_numpy(flat).view(dtype).reshape(shape)
