"""Floats rounded to eleven significant bits: as exact as float16 for every value, in the range of their own dtype."""

from __future__ import annotations

import torch
from torch import Tensor

_SIGNIFICANT_BITS = 11


def is_roundable(tensor: Tensor) -> bool:
    """Whether the dtype has more significant bits: float32 and float64."""
    return tensor.dtype in (torch.float32, torch.float64)


def round_as_float16(tensor: Tensor) -> Tensor:
    """Every value w to the nearest with eleven significant bits, so that ``|w - ŵ| <= 2^-11 |w|``; ties to even.

    Where float16 is normal, these are exactly float16's values; below and above there is no underflow and no overflow.
    NaN, infinities and signed zeros stay as they are, and so does a value that would round to infinity.

    Args:
        tensor: float32 or float64, any shape.

    Returns:
        The same shape, dtype and device.
    """
    values = tensor.detach()
    mantissa, exponent = torch.frexp(values)
    rounded = torch.ldexp(torch.round(mantissa * 2.0**_SIGNIFICANT_BITS), exponent - _SIGNIFICANT_BITS)
    return torch.where(torch.isfinite(rounded) & (values != 0), rounded, values)
