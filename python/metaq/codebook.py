"""Codebooks: the values that quantized weights may take.

A codebook maps integer *symbols* to levels. Symbol 0 is the level at the codebook's origin (the level 0.0 where there
is one), so that coders, which know nothing of levels, find small numbers where weights are small.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from metaq.errors import InputError
from metaq.floats import default_floats

_STEP_BITS = 4  # significant bits of a step: costs nothing in accuracy, and a byte or two less in the file


def short_step(step: float) -> float:
    """A step rounded to few significant bits; 1 for a tensor of zeros, where any step serves."""
    if step == 0:
        return 1.0
    mantissa, exponent = math.frexp(step)
    return math.ldexp(round(mantissa * 2**_STEP_BITS) / 2**_STEP_BITS, exponent)


def short_step_below(step: float) -> float:
    """The largest step of few significant bits that is at most ``step``, which is positive."""
    mantissa, exponent = math.frexp(step)
    return math.ldexp(math.floor(mantissa * 2**_STEP_BITS) / 2**_STEP_BITS, exponent)


@runtime_checkable
class Listed(Protocol):
    """An array, of NumPy or torch."""

    def tolist(self) -> Any:
        """Its elements."""


@dataclass(frozen=True)
class UniformCodebook:
    """Every multiple of ``step``: symbol q stands for float32(step) * q, rounded to float32.

    Raises:
        InputError: the step is not a positive finite float32.
    """

    step: float

    @default_floats()
    def __post_init__(self) -> None:
        step = ctypes.c_float(self.step).value  # NumPy would warn of infinity, which is refused here
        if not (math.isfinite(step) and step > 0):
            raise InputError(f"codebook step: expected a positive finite float32, found {self.step:g}")
        object.__setattr__(self, "step", step)


@dataclass(frozen=True)
class TableCodebook:
    """Any strictly increasing float32 ``levels``; symbol q stands for ``levels[q + origin]``.

    Raises:
        InputError: no levels, levels not finite or not strictly increasing, or an origin outside them.
    """

    levels: tuple[float, ...]
    origin: int

    @default_floats()
    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # infinity is refused below
            levels = np.asarray(self.levels, dtype=np.float32)
        if levels.ndim != 1 or not 1 <= levels.size <= 1 << 20:
            raise InputError(f"codebook levels: expected 1 to 2^20 of them, found shape {levels.shape}")
        if not np.isfinite(levels).all() or (np.diff(levels) <= 0).any():
            raise InputError("codebook levels: expected finite and strictly increasing numbers, found others")
        if not 0 <= self.origin < levels.size:
            raise InputError(f"codebook origin: expected 0 to {levels.size - 1}, found {self.origin}")
        object.__setattr__(self, "levels", tuple(levels.tolist()))

    @cached_property
    @default_floats()
    def table(self) -> np.ndarray:
        """The levels as a float32 array of shape (C,)."""
        return np.array(self.levels, np.float32)

    @classmethod
    @default_floats()
    def around_zero(cls, levels: Sequence[float] | Listed) -> TableCodebook:
        """A table whose origin is the level nearest to zero. Levels may be an array of any library's."""
        table = np.asarray(levels.tolist() if isinstance(levels, Listed) else levels, np.float32)
        return cls(tuple(table.tolist()), int(np.abs(table).argmin()) if table.size else 0)


@dataclass(frozen=True)
class IntegerCodebook:
    """The integers themselves, for tensors that were integers to begin with."""


Codebook = UniformCodebook | TableCodebook | IntegerCodebook
