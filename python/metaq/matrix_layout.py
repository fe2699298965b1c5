"""How a tensor is seen as a matrix: scales of its rows and columns, and the order in which coders see its symbols."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from metaq.errors import InputError

# 2^(k/8) for k = 0 ... 7, rounded to nearest: the bits of float32.
_MANTISSA_BITS = (0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7)
_MANTISSAS = np.array(_MANTISSA_BITS, np.uint32).view(np.float32)


def scales(logs: np.ndarray) -> np.ndarray:
    """``2^(e/8)`` of each ``e`` of an int8 array, exactly as a decoder has it: float32, of the same shape.

    Example:
        >>> scales(np.array([-8, 0, 4, 16], np.int8)).tolist()
        [0.5, 1.0, 1.4142135381698608, 4.0]
    """
    found: np.ndarray = np.ldexp(_MANTISSAS[logs & 7], logs >> 3)
    return found


@dataclass(frozen=True, eq=False)
class MatrixLayout:
    """A tensor as a matrix of ``d0 ... d(a-1)`` rows, whose symbols stand for ``q * step * r_i * c_j``.

    Args:
        leading: the number ``a`` of leading dimensions that make a row.
        row_logs: for each row its scale's logarithm in eighths of an octave, int8; None for no scales of rows.
        column_logs: for each column likewise.
        by_columns: whether coders see the symbols column by column.

    Raises:
        InputError: logarithms that are not integers of -128 to 127, in one dimension.

    Example:
        >>> MatrixLayout(row_logs=np.array([0, -8], np.int8)).rows((2, 3))
        2
    """

    leading: int = 1
    row_logs: np.ndarray | None = None
    column_logs: np.ndarray | None = None
    by_columns: bool = False

    def __post_init__(self) -> None:
        for name in ("row_logs", "column_logs"):
            logs = getattr(self, name)
            if logs is not None:
                object.__setattr__(self, name, _as_int8(name, np.asarray(logs)))

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, MatrixLayout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[int, bytes | None, bytes | None, bool]:
        rows, columns = (None if logs is None else logs.tobytes() for logs in (self.row_logs, self.column_logs))
        return self.leading, rows, columns, self.by_columns

    def rows(self, shape: tuple[int, ...]) -> int:
        """How many rows a tensor of this shape has."""
        return math.prod(shape[: self.leading])

    def columns(self, shape: tuple[int, ...]) -> int:
        """How many columns a tensor of this shape has."""
        return math.prod(shape[self.leading :])

    def check(self, shape: tuple[int, ...], step: float) -> None:
        """Raise an InputError unless a tensor of this shape, on this step, may be seen so."""
        if not (self.has_scales or self.by_columns):
            raise InputError("matrix layout: expected scales or a scan by columns, found neither; leave the layout out")
        if not 1 <= self.leading < len(shape):
            found = f"{self.leading} of {len(shape)}"
            raise InputError(f"matrix layout: expected one leading dimension or more, but not all, found {found}")
        if 0 in shape:
            raise InputError(f"matrix layout: expected a tensor with elements, found shape {shape}")
        for what, logs, count in (
            ("row", self.row_logs, self.rows(shape)),
            ("column", self.column_logs, self.columns(shape)),
        ):
            if logs is not None and logs.size != count:
                raise InputError(f"matrix layout: expected {count} {what} scales, found {logs.size}")
        if not np.isfinite(self.row_steps(step)).all():
            raise InputError(f"matrix layout: expected finite steps of rows, found infinity, of a step of {step:g}")

    @property
    def has_scales(self) -> bool:
        """Whether rows or columns have scales."""
        return self.row_logs is not None or self.column_logs is not None

    def row_steps(self, step: float) -> np.ndarray:
        """The float32 product of the step and each row's scale; without scales of rows, the step alone, shape (1,)."""
        if self.row_logs is None:
            return np.array([step], np.float32)
        with np.errstate(over="ignore"):  # which `check` refuses
            return np.float32(step) * scales(self.row_logs)


def _as_int8(name: str, logs: np.ndarray) -> np.ndarray:
    """A copy that nobody else can change."""
    if logs.ndim != 1 or logs.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integers in one dimension, found {logs.dtype} of shape {logs.shape}")
    if logs.size and not -128 <= int(logs.min()) <= int(logs.max()) <= 127:
        raise InputError(f"{name}: expected -128 to 127, found {int(logs.min())} to {int(logs.max())}")
    copied = logs.astype(np.int8)
    copied.flags.writeable = False
    return copied
