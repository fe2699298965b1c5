"""Every matrix and filter on the multiples of one step."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from metaq.assign import nearest, reconstruct
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, keep
from metaq.errors import InputError
from metaq.tensors import CODED_FLOATS, KEPT_EXACTLY, are_float32

_log = logging.getLogger(__name__)


def compress(state: Mapping[str, Tensor], step: float) -> CompressedModel:
    """Quantize a state dict uniformly: every matrix and filter on multiples of one step, everything else kept exactly.

    One step for all tensors gives each the same error per weight, which at a given total error is near the least size.
    `metaq.compress_state_dict` finds the step that leads to an error or a size, and makes smaller files at the same
    error.

    Args:
        state: named dense tensors. Those of floating point with at least two dimensions are quantized. One with NaN or
            infinite weights is kept exactly, and a warning is logged.
        step: the distance between levels, in units of the weights.

    Raises:
        InputError: a step that is not a positive finite float32, or that weights cannot take; an empty state; a tensor
            that a file cannot hold.

    Example:
        >>> import metaq, torch
        >>> metaq.compress({"w": torch.tensor([[0.9, -2.2]])}, step=0.5).decompress()["w"].tolist()
        [[1.0, -2.0]]
    """
    codebook, tensors = UniformCodebook(step), keep(state)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not is_quantizable(tensor):
            continue
        if not are_float32(tensor):
            _log.warning(KEPT_EXACTLY, name)
            continue
        try:
            tensors[name] = quantize_tensor(tensor, codebook)
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from None
    return CompressedModel(tensors)


def quantize_tensor(weights: Tensor, codebook: UniformCodebook) -> CodedTensor:
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
