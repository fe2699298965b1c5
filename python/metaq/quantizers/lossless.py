"""Checkpoints as they are, bit for bit, in fewer bytes.

Floats are coded in byte planes (`metaq.format.planes`): the sign rotated behind the mantissa, the exponent, of which
real weights use few values, by an entropy coder, the rest of the mantissa, which is noise, as it is. A tensor of few
distinct values, say one that was quantized and written as floats, becomes a codebook and indices instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaq import _native, coding
from metaq.codebook import TableCodebook
from metaq.compressed_model import CodedTensor, CompressedModel, keep
from metaq.floats import default_floats
from metaq.format import planes
from metaq.tensors import CODED_FLOATS, words_of

MOST_LEVELS = 4096  # as many as the coders list
WORTH = 0.9  # of a tensor's size in planes: above it, planes are better, for they decode faster
_SAMPLES = (1 << 13, 1 << 16)  # elements that tell most tensors of many values from those of few
_LEVEL_BYTES = 6  # of a level in the header and in a coder's table, roughly


def compress_losslessly(state: Mapping[str, Tensor]) -> CompressedModel:
    """Every tensor exactly: NaNs with their payloads, signed zeros and denormals included.

    From 4 MB on `metaq.save(model, path)` makes a file of it that decodes at about a gigabyte a second, and of smaller
    ones the smallest; `coder="mixing"` makes large ones up to a few percent smaller, at some megabytes a second.

    Raises:
        InputError: an empty state, or a tensor that a file cannot hold.
    """
    tensors = keep(state)
    coder = coding.suitable(sum(entry.nbytes for entry in tensors.values() if isinstance(entry, Tensor)), lossless=True)
    return CompressedModel(
        {name: _coded(entry) if isinstance(entry, Tensor) else entry for name, entry in tensors.items()},
        coder=None if coder == coding.DEFAULT_CODER else coder,  # for which no symbols were chosen
    )


@dataclass(frozen=True)
class Levels:
    """A codebook that stands for every bit pattern of a tensor."""

    codebook: TableCodebook
    patterns: np.ndarray  # increasing, as words
    symbol_of: np.ndarray  # int32, of each pattern

    def symbols(self, words: np.ndarray) -> np.ndarray:
        """int32 symbols of a tensor's words (`metaq.tensors.words_of`)."""
        found: np.ndarray = self.symbol_of[np.searchsorted(self.patterns, words)]
        return found


@default_floats()
def find_levels(pieces: Iterable[np.ndarray], dtype: torch.dtype) -> Levels | None:
    """Levels of a tensor whose words come in pieces, if they are exact and make it at least a tenth smaller."""
    patterns, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for words in pieces:
        if words.itemsize > 2 and any(_distinct(words, sample) > MOST_LEVELS for sample in _SAMPLES):
            return None
        patterns, counts = _merged((patterns, counts), _counted(words))
        if patterns.size > MOST_LEVELS:
            return None
    if patterns.size == 0 or not _is_worth_it(patterns, counts, dtype):
        return None
    values = torch.from_numpy(patterns.view(np.uint8)).view(dtype)
    order = values.double().argsort()
    levels = values[order].float()
    is_exact = np.array_equal(words_of(levels.to(dtype)), patterns[order.numpy()])
    # Zeros of both signs are one level.
    if not (is_exact and bool(levels.isfinite().all()) and bool((levels[1:] > levels[:-1]).all())):
        return None
    codebook = TableCodebook.around_zero(levels)
    return Levels(codebook, patterns, np.argsort(order.numpy()).astype(np.int32) - np.int32(codebook.origin))


def _coded(tensor: Tensor) -> CodedTensor | Tensor:
    """The tensor as levels and indices, or as it is."""
    if tensor.dtype not in CODED_FLOATS or tensor.numel() == 0:
        return tensor
    words = words_of(tensor)
    levels = find_levels([words], tensor.dtype)
    if levels is None:
        return tensor
    symbols = torch.from_numpy(levels.symbols(words)).reshape(tensor.shape)
    return CodedTensor(symbols, levels.codebook, tensor.dtype)


def _distinct(words: np.ndarray, sample: int) -> int:
    """How many of about so many words, from all over the array, are different."""
    return int(np.unique(words[:: -(-words.size // sample)]).size)


def _merged(*counted: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Words and how often they occur, of two such lists."""
    (before, counts_before), (words, counts) = counted
    if before.size == 0:
        return words, counts
    merged, places = np.unique(np.concatenate([before, words]), return_inverse=True)
    total = np.zeros(merged.size, np.int64)
    np.add.at(total, places, np.concatenate([counts_before, counts]))
    return merged, total


def _counted(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct words, in increasing order, and how often each occurs."""
    if words.itemsize > 2:
        return np.unique(words, return_counts=True)
    counts = np.empty(1 << 8 * words.itemsize, np.uint64)
    _native.count_numbers(np.require(words, requirements="A"), counts)
    patterns = np.flatnonzero(counts)
    return patterns.astype(words.dtype), counts[patterns].astype(np.int64)


def _is_worth_it(patterns: np.ndarray, counts: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether zero-order coding of the patterns, with a table of them, takes less than that of each of their bytes."""
    size = counts.sum()
    as_levels = _entropy_bytes(counts) + _LEVEL_BYTES * patterns.size
    split = planes.split(patterns, dtype.is_floating_point).view(np.uint8)
    in_planes = sum(min(size, _entropy_bytes(np.bincount(plane, counts))) for plane in split)
    return bool(as_levels < WORTH * in_planes)


def _entropy_bytes(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)
