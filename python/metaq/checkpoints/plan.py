"""What becomes of each tensor of a file that is read a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from metaq.checkpoints.in_memory import CompressionConfig
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.format.header import fits_limits
from metaq.io.safetensors import SafetensorsFile
from metaq.quantizers.lossless import Levels, find_levels
from metaq.quantizers.rounding import is_roundable
from metaq.tensors import CODED_FLOATS, words_of

PIECE_ELEMENTS = 1 << 20  # read at a time


@dataclass(frozen=True)
class Dials:
    """What to compress a checkpoint to: an error or size, every bit, or one given step.

    Attributes:
        config: what counts unless ``lossless`` or ``step`` is given.
        coder: None for the one that suits.
    """

    config: CompressionConfig = field(default_factory=CompressionConfig)
    lossless: bool = False
    step: float | None = None
    coder: str | None = None


class Fate(Enum):
    """How a tensor is held in a `.mtq` file."""

    KEPT = "kept"
    ROUNDED = "rounded to eleven bits, then kept"
    INTEGERS = "coded as integers"
    LEVELS = "coded as places in a table of its values"
    QUANTIZED = "quantized"


@dataclass(frozen=True)
class Treatment:
    """A tensor's fate; of a quantized one ``Σw²`` and the largest ``|w|``, of one of few values the table."""

    fate: Fate
    energy: float = 0.0
    peak: float = 0.0
    levels: Levels | None = None


def pieces(file: SafetensorsFile, name: str) -> Iterator[Tensor]:
    """A tensor's elements in order, some at a time."""
    elements = range(math.prod(file.tensors[name][1]))
    for first in range(0, len(elements), PIECE_ELEMENTS):
        yield file.read(name, elements[first : first + PIECE_ELEMENTS])


def treatment(file: SafetensorsFile, name: str, dials: Dials) -> Treatment:
    """What becomes of a tensor. Weights that are NaN or infinite are never quantized: their tensor is kept.

    Raises:
        InputError: a `.mtq` file cannot hold the tensor, or it cannot be read.
    """
    dtype, shape = file.tensors[name]
    if not fits_limits(shape):
        found = f"shape {shape}"
        raise InputError(f"tensor {name!r}: expected at most 32 dimensions and 2^40 elements, found {found}")
    if not dtype.is_floating_point:
        return Treatment(Fate.INTEGERS if all(map(_is_codable, pieces(file, name))) else Fate.KEPT)
    if dials.lossless:
        levels = find_levels(map(words_of, pieces(file, name)), dtype) if dtype in CODED_FLOATS else None
        return Treatment(Fate.KEPT) if levels is None else Treatment(Fate.LEVELS, levels=levels)
    if any(fnmatchcase(name, pattern) for pattern in dials.config.keep):
        return Treatment(Fate.KEPT)
    if dtype in CODED_FLOATS and len(shape) >= 2 and 0 not in shape:
        return _measured(file, name)
    is_rounded = dials.step is None and len(shape) < 2 and is_roundable(torch.empty(0, dtype=dtype))
    return Treatment(Fate.ROUNDED if is_rounded else Fate.KEPT)


def _measured(file: SafetensorsFile, name: str) -> Treatment:
    energy = peak = 0.0
    for piece in pieces(file, name):
        if not bool(torch.isfinite(piece).all()):
            return Treatment(Fate.KEPT)
        energy += float(piece.double().square().sum())
        peak = max(peak, float(piece.abs().max()))
    return Treatment(Fate.QUANTIZED, energy, peak)


def _is_codable(integers: Tensor) -> bool:
    return max(abs(int(integers.min())), abs(int(integers.max()))) < SYMBOL_LIMIT
