"""The dtypes that a file can hold (docs/format.md, "Tensor entry"), without any library's own."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np


class Dtype(NamedTuple):
    """A dtype: its byte in a file, its name, bytes an element, and whether it is of floating point."""

    code: int
    name: str
    itemsize: int
    is_float: bool

    def __str__(self) -> str:
        return self.name


DTYPES: dict[int, Dtype] = {
    dtype.code: dtype
    for dtype in (
        Dtype(0, "float32", 4, True),
        Dtype(1, "float16", 2, True),
        Dtype(2, "bfloat16", 2, True),
        Dtype(3, "float64", 8, True),
        Dtype(4, "float8_e4m3fn", 1, True),
        Dtype(5, "float8_e5m2", 1, True),
        Dtype(16, "uint8", 1, False),
        Dtype(17, "int8", 1, False),
        Dtype(18, "int16", 2, False),
        Dtype(19, "int32", 4, False),
        Dtype(20, "int64", 8, False),
        Dtype(21, "bool", 1, False),
    )
}
BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}
CODED_FLOATS = tuple(BY_NAME[name] for name in ("float32", "float16", "bfloat16", "float64"))


@cache
def numpy_dtype(dtype: Dtype) -> np.dtype:
    """NumPy's dtype. It has no bfloat16 and no float8: those are of `ml_dtypes` or, without it, unsigned integers."""
    if dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return np.dtype(dtype.name)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(f"u{dtype.itemsize}")
    found: np.dtype = np.dtype(getattr(ml_dtypes, dtype.name))
    return found


def new_array(dtype: Dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An array to be filled, and the memory to fill, as an array of a dtype that NumPy itself has."""
    array = np.empty(shape, numpy_dtype(dtype))
    return array, array if array.dtype.isbuiltin == 1 else array.view(f"u{dtype.itemsize}")
