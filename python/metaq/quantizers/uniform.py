"""Every matrix and filter on the multiples of one step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metaq import metrics
from metaq.assign import nearest, reconstruct
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, keep
from metaq.errors import InputError
from metaq.tensors import CODED_FLOATS


def compress(state: Mapping[str, Tensor], step: float | None = None, bits: float | None = None) -> CompressedModel:
    """Quantize a state dict uniformly: every matrix and filter on multiples of one step, everything else kept exactly.

    One step for all tensors gives each the same error per weight, which at a given total error is near the least size.

    Args:
        state: named dense tensors. Those of floating point with at least two dimensions are quantized.
        step: the distance between levels, in units of the weights.
        bits: instead of ``step``, the zero-order entropy to meet, in bits per quantized weight; the step follows.

    Raises:
        InputError: neither or both of ``step`` and ``bits``, one out of its range, an empty state, NaN or infinite
            weights, a tensor that a file cannot hold.
    """
    if (step is None) == (bits is None):
        raise InputError("compress: expected one of step and bits, found " + ("none" if step is None else "both"))
    tensors = keep(state)
    chosen = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor) and is_quantizable(tensor)}
    for name, tensor in chosen.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"tensor {name!r}: expected finite weights, found NaN or infinity")
    if bits is not None:
        step = step_for_bits(list(chosen.values()), bits)
    codebook = UniformCodebook(float(step or 0))
    for name, tensor in chosen.items():
        try:
            tensors[name] = quantize(tensor, codebook)
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from None
    return CompressedModel(tensors)


def quantize(weights: Tensor, codebook: UniformCodebook) -> CodedTensor:
    """Weights on the nearest multiples of a step.

    Raises:
        InputError: the step is so small that there are too many, or so large that one leaves the weights' dtype.
    """
    coded = CodedTensor(nearest(weights.cpu(), codebook), codebook, weights.dtype)
    extremes = reconstruct(torch.stack(coded.symbols.aminmax()), codebook, weights.dtype)
    if not bool(torch.isfinite(extremes).all()):
        found = f"{codebook.step:g}, which takes the largest of them to infinity"
        raise InputError(f"step: expected one that keeps weights within {weights.dtype}, found {found}")
    return coded


def is_quantizable(tensor: Tensor) -> bool:
    """Whether `compress` quantizes a tensor: a matrix or filter of floating point with at least one weight."""
    return tensor.dtype in CODED_FLOATS and tensor.ndim >= 2 and tensor.numel() > 0


def step_for_bits(weights: list[Tensor], bits: float) -> float:
    """The smallest step, within 0.1 %, at which the weights' zero-order entropy is at most ``bits`` per weight.

    Raises:
        InputError: ``bits`` is not within 0 ... 24.
    """
    if not 0 < bits <= 24:
        raise InputError(f"bits: expected more than 0 and at most 24 bits per weight, found {bits:g}")
    highest = max((float(tensor.abs().max()) for tensor in weights), default=0.0)
    if highest == 0:
        return 1.0
    count = sum(tensor.numel() for tensor in weights)
    fine, coarse = np.clip([np.log2(highest) - 26, np.log2(highest) + 2], -149, 127)  # the float32 powers of two
    while coarse - fine > 1e-3:
        middle = (fine + coarse) / 2
        codebook = UniformCodebook(2.0**middle)
        size_bits = sum(metrics.entropy_bits(nearest(tensor.cpu(), codebook)) for tensor in weights)
        fine, coarse = (middle, coarse) if size_bits > bits * count else (fine, middle)
    return float(np.float32(2.0**coarse))
