"""Checkpoints as they are, bit for bit, in fewer bytes.

Floats are coded in byte planes (`metaq.planes`): the sign rotated behind the mantissa, the exponent, of which real
weights use few values, by an entropy coder, the rest of the mantissa, which is noise, as it is. A tensor of few
distinct values, say one that was quantized and written as floats, becomes a codebook and indices instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metaq import planes
from metaq.codebook import TableCodebook
from metaq.header import CODED_FLOATS
from metaq.pipeline import CodedTensor, CompressedModel, keep

MOST_LEVELS = 4096  # as many as the coders list
WORTH = 0.9  # of a tensor's size in planes: above it, planes are better, for they decode faster
_SMALL_BYTES = 1 << 22  # of a checkpoint that the coder for the smallest files takes well below a second for
_SAMPLE = 1 << 16  # elements that tell most tensors of many values from those of few
_LEVEL_BYTES = 6  # of a level in the header and in a coder's table, roughly


def compress_losslessly(state: Mapping[str, Tensor]) -> CompressedModel:
    """Every tensor exactly: NaNs with their payloads, signed zeros and denormals included.

    `metaq.save(model, path, coder="rans")` makes a file of it that decodes at about a gigabyte a second; "mixing",
    the default there, one that is up to a few percent smaller and decodes at some megabytes a second.

    Raises:
        InputError: an empty state, or a tensor that a file cannot hold.
    """
    tensors = keep(state)
    return CompressedModel(
        {name: _coded(entry) if isinstance(entry, Tensor) else entry for name, entry in tensors.items()}
    )


def suitable_coder(state: Mapping[str, Tensor]) -> str:
    """The coder that decodes at about a gigabyte a second; for a small checkpoint the one of the smallest file."""
    size_bytes = sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values())
    return "mixing" if size_bytes < _SMALL_BYTES else "rans"


def _coded(tensor: Tensor) -> CodedTensor | Tensor:
    """The tensor as levels and indices if those are exact and at least a tenth smaller, otherwise as it is."""
    if tensor.dtype not in CODED_FLOATS or tensor.numel() == 0:
        return tensor
    words = planes.words_of(tensor)
    if np.unique(words[:: -(-words.size // _SAMPLE)]).size > MOST_LEVELS:
        return tensor
    patterns, counts = _counted(words)
    if patterns.size > MOST_LEVELS or not _is_worth_it(patterns, counts, tensor.dtype):
        return tensor
    values = torch.from_numpy(patterns.view(np.uint8)).view(tensor.dtype)
    order = values.double().argsort()
    levels = values[order].float()
    is_exact = np.array_equal(planes.words_of(levels.to(tensor.dtype)), patterns[order.numpy()])
    # Zeros of both signs are one level.
    if not (is_exact and bool(levels.isfinite().all()) and bool((levels[1:] > levels[:-1]).all())):
        return tensor
    codebook = TableCodebook.around_zero(levels)
    symbol_of = np.argsort(order.numpy()).astype(np.int32) - np.int32(codebook.origin)
    symbols = torch.from_numpy(symbol_of[np.searchsorted(patterns, words)]).reshape(tensor.shape)
    return CodedTensor(symbols, codebook, tensor.dtype)


def _counted(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct words, in increasing order, and how often each occurs."""
    if words.itemsize > 2:
        return np.unique(words, return_counts=True)
    counts = np.bincount(words)
    patterns = np.flatnonzero(counts)
    return patterns.astype(words.dtype), counts[patterns]


def _is_worth_it(patterns: np.ndarray, counts: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether zero-order coding of the patterns, with a table of them, takes less than that of each of their bytes."""
    size = counts.sum()
    as_levels = _entropy_bytes(counts) + _LEVEL_BYTES * patterns.size
    split = planes.split(torch.from_numpy(patterns.view(np.uint8)).view(dtype)).view(np.uint8)
    in_planes = sum(min(size, _entropy_bytes(np.bincount(plane, counts))) for plane in split)
    return bool(as_levels < WORTH * in_planes)


def _entropy_bytes(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)
