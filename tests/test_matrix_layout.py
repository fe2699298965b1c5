"""Layouts of matrices: their scales are exact, and what does not fit a tensor is refused in one line."""

import math
from fractions import Fraction

import numpy as np
import pytest

from metaq.errors import InputError
from metaq.matrix_layout import MatrixLayout, scales

ALL = np.arange(-128, 128)


def test_scales_are_the_nearest_float32():
    """The eighth powers of the middles between a scale and its neighbours lie around 2^e."""
    found = scales(ALL.astype(np.int8))
    assert found.dtype == np.float32
    for e, scale in zip(ALL.tolist(), found, strict=True):
        below, above = (np.nextafter(scale, np.float32(limit)) for limit in (0, np.inf))
        low, high = ((Fraction(float(scale)) + Fraction(float(other))) / 2 for other in (below, above))
        assert low**8 < Fraction(2) ** e < high**8


def test_octaves_are_powers_of_two():
    assert scales(np.arange(-128, 128, 8).astype(np.int8)).tolist() == [2.0**e for e in range(-16, 16)]


def test_rows_and_columns():
    layout = MatrixLayout(2, by_columns=True)
    assert (layout.rows((2, 3, 5, 7)), layout.columns((2, 3, 5, 7))) == (6, 35)


def test_layouts_are_equal_by_content():
    logs = [0, -8, 127]
    layout = MatrixLayout(1, np.array(logs, np.int8), np.arange(5))
    assert layout == MatrixLayout(1, np.array(logs), np.arange(5, dtype=np.uint8))
    assert hash(layout) == hash(MatrixLayout(1, np.array(logs), np.arange(5)))
    for other in (
        MatrixLayout(2, layout.row_logs, layout.column_logs),
        MatrixLayout(1, layout.row_logs),
        MatrixLayout(1, None, layout.column_logs),
        MatrixLayout(1, layout.row_logs, layout.column_logs, by_columns=True),
        MatrixLayout(1, np.array([0, -8, 126]), layout.column_logs),
        None,
    ):
        assert layout != other


def test_logarithms_are_copied():
    logs = np.zeros(3, np.int8)
    layout = MatrixLayout(1, logs)
    logs[0] = 9
    assert layout.row_logs.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        layout.row_logs[0] = 1


@pytest.mark.parametrize("logs", [np.array([128]), np.array([-129, 0]), np.zeros((2, 2), np.int8), np.zeros(3)])
def test_logarithms_that_are_none(logs):
    with pytest.raises(InputError, match=r"row_logs: expected .*, found"):
        MatrixLayout(1, logs)


ZEROS = np.zeros(6, np.int8)
UNFIT = {
    "neither": (MatrixLayout(), (2, 3), "scales or a scan by columns, found neither"),
    "no row": (MatrixLayout(0, by_columns=True), (2, 3), "not all, found 0 of 2"),
    "all dimensions": (MatrixLayout(2, by_columns=True), (2, 3), "not all, found 2 of 2"),
    "vector": (MatrixLayout(1, ZEROS), (6,), "not all, found 1 of 1"),
    "no elements": (MatrixLayout(1, by_columns=True), (2, 0), "a tensor with elements"),
    "rows": (MatrixLayout(1, ZEROS), (5, 2), "5 row scales, found 6"),
    "columns": (MatrixLayout(1, None, ZEROS), (6, 2), "2 column scales, found 6"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_layouts_that_do_not_fit(name):
    layout, shape, message = UNFIT[name]
    with pytest.raises(InputError, match=message):
        layout.check(shape, 1.0)


def test_steps_of_rows_are_finite():
    MatrixLayout(1, np.array([7])).check((1, 2), 2.0**127 / 2)
    MatrixLayout(1, np.array([7])).check((1, 2), 2.0**126)
    with pytest.raises(InputError, match="finite steps of rows"):
        MatrixLayout(1, np.array([8])).check((1, 2), 2.0**127)
    assert math.isinf(MatrixLayout(1, np.array([8])).row_steps(2.0**127)[0])
