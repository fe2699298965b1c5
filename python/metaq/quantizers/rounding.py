"""Floats rounded to some significant bits, in the range of their own dtype."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT16_BITS = 11  # significant ones


def is_roundable(tensor: Tensor) -> bool:
    """Whether the dtype has more significant bits: float32 and float64."""
    return tensor.dtype in (torch.float32, torch.float64)


def round_as_float16(tensor: Tensor) -> Tensor:
    """As `round_to_bits` with float16's eleven: as exact as float16 for every value.

    Where float16 is normal, these are exactly its values; below and above there is no underflow and no overflow.
    """
    return round_to_bits(tensor, FLOAT16_BITS)


def round_to_bits(tensor: Tensor, bits: int) -> Tensor:
    """Every value w to the nearest with so many significant bits: ``|w - ŵ| <= 2^-bits |w|``; ties to even.

    NaN, infinities and signed zeros stay as they are, and so does a value that would round to infinity.

    Args:
        tensor: float32 or float64, any shape.
        bits: at least 1.

    Returns:
        The same shape, dtype and device.
    """
    values = tensor.detach()
    mantissa, exponent = torch.frexp(values)
    rounded = torch.ldexp(torch.round(mantissa * 2.0**bits), exponent - bits)
    return torch.where(torch.isfinite(rounded) & (values != 0), rounded, values)
