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


def split(tensor: Tensor) -> np.ndarray:
    """Byte planes of a tensor of ``n`` elements of ``b`` bytes: int8 (the bytes minus 128), shape (b, n), the exponents' plane first."""
    width = tensor.dtype.itemsize
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    words = raw.view(_WORDS[width])
    if tensor.dtype.is_floating_point:
        words = (words << np.uint8(1)) | (words >> np.uint8(8 * width - 1))
    return np.ascontiguousarray((words.view(np.uint8) ^ _CENTRE).view(np.int8).reshape(-1, width)[:, ::-1].T)


def join(planes: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `split`."""
    width = dtype.itemsize
    octets = np.ascontiguousarray(planes[::-1].T).view(np.uint8) ^ _CENTRE
    words = octets.view(_WORDS[width]).reshape(-1)
    if dtype.is_floating_point:
        words = (words >> np.uint8(1)) | (words << np.uint8(8 * width - 1))
    return torch.from_numpy(words.view(np.uint8).copy()).view(dtype).reshape(shape)
