"""How each tensor of a checkpoint will be held in a `.mtq` file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from metaq.checkpoints.config import CompressionConfig
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.format import dtypes
from metaq.format.header import fits_limits
from metaq.io.source import TensorSource
from metaq.quantizers.lossless import Levels, find_levels
from metaq.quantizers.rounding import is_roundable
from metaq.tensors import DTYPES, are_float32, words_of

PIECE_ELEMENTS = 1 << 20  # read at a time


class Storage(Enum):
    """How a tensor is held in a `.mtq` file."""

    KEPT = "kept"
    ROUNDED = "rounded to eleven bits, then kept"
    INTEGERS = "coded as integers"
    LEVELS = "coded as places in a table of its values"
    QUANTIZED = "quantized"


@dataclass(frozen=True)
class TensorPlan:
    """A tensor's storage; of a quantized one ``Σw²`` and the largest ``|w|``, of one of few values the table.

    Attributes:
        is_finite: False if the tensor would be quantized, but has weights that are not finite as float32.
    """

    storage: Storage
    energy: float = 0.0
    peak: float = 0.0
    levels: Levels | None = None
    is_finite: bool = True


def sum_of_squares(weights: Tensor) -> float:
    """``Σw²`` in float64, added up in the same order on any number of threads, unlike torch's sums."""
    return float(np.square(weights.detach().double().numpy()).sum())


def pieces(source: TensorSource, name: str) -> Iterator[Tensor]:
    """A tensor's elements in order, some at a time."""
    elements = range(source.layouts[name].size)
    for first in range(0, len(elements), PIECE_ELEMENTS):
        yield source.read(name, elements[first : first + PIECE_ELEMENTS])


def plan_tensor(source: TensorSource, name: str, config: CompressionConfig, is_exact: bool = False) -> TensorPlan:
    """How a tensor will be held. One with weights that are not finite as float32 is never quantized: it is kept.

    Args:
        is_exact: keep a tensor of floating point as it is, whatever the configuration says.

    Raises:
        InputError: a `.mtq` file cannot hold the tensor, or it cannot be read.
    """
    dtype, shape = source.layouts[name]
    if not fits_limits(shape):
        found = f"shape {shape}"
        raise InputError(f"tensor {name!r}: expected at most 32 dimensions and 2^40 elements, found {found}")
    if not dtype.is_float:
        return TensorPlan(Storage.INTEGERS if all(map(_is_codable, pieces(source, name))) else Storage.KEPT)
    is_coded = dtype in dtypes.CODED_FLOATS
    if config.lossless:
        levels = find_levels(map(words_of, pieces(source, name)), DTYPES[dtype]) if is_coded else None
        return TensorPlan(Storage.KEPT) if levels is None else TensorPlan(Storage.LEVELS, levels=levels)
    if is_exact or config.keeps(name):
        return TensorPlan(Storage.KEPT)
    if is_coded and len(shape) >= 2 and 0 not in shape:
        return _measured(source, name)
    is_rounded = config.step is None and len(shape) < 2 and is_roundable(torch.empty(0, dtype=DTYPES[dtype]))
    return TensorPlan(Storage.ROUNDED if is_rounded else Storage.KEPT)


def _measured(source: TensorSource, name: str) -> TensorPlan:
    energy = peak = 0.0
    for piece in pieces(source, name):
        if not are_float32(piece):
            return TensorPlan(Storage.KEPT, is_finite=False)
        energy += sum_of_squares(piece)
        peak = max(peak, float(piece.abs().max()))
    return TensorPlan(Storage.QUANTIZED, energy, peak)


def _is_codable(integers: Tensor) -> bool:
    return max(abs(int(integers.min())), abs(int(integers.max()))) < SYMBOL_LIMIT
