"""Chunks: the symbol sequence of a file, cut into runs of whole rows (docs/format.md, "Symbol sequence and chunks")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from metaq import coding
from metaq.format.header import TensorEntry
from metaq.matrix_layout import MatrixLayout

MAX_CHUNK_SYMBOLS = 1 << 26
_ROW_SYMBOLS = 1 << 20  # in rows of more, coders see each symbol as a row
_CHANGE_SYMBOLS = 1 << 20  # of a chunk of changes: as many as keep every thread at work

CHANGES = 8  # in the place of a plane: the elements that a changed tensor has in common with the base's


class RowRun(NamedTuple):
    """Whole rows of one tensor, of one byte plane of it, or of its `CHANGES`, within a chunk."""

    tensor: int
    plane: int | None
    first_row: int
    shape: tuple[int, int, int]

    @property
    def elements(self) -> range:
        """Its elements' places in the flattened tensor, or in its transpose if that is scanned by columns."""
        rows, channels, kernel = self.shape
        row = channels * kernel
        return range(self.first_row * row, (self.first_row + rows) * row)


def block_shape(shape: tuple[int, ...], matrix: MatrixLayout | None = None) -> tuple[int, int, int]:
    """Rows, channels and kernel positions as which coders see a tensor (docs/format.md, "Blocks")."""
    if matrix is not None and matrix.by_columns:
        rows, columns = matrix.rows(shape), matrix.columns(shape)
        return (columns, rows, 1) if rows <= _ROW_SYMBOLS else (columns * rows, 1, 1)
    if len(shape) >= 2 and math.prod(shape[1:]) <= _ROW_SYMBOLS:
        return shape[0], shape[1], math.prod(shape[2:])
    return math.prod(shape), 1, 1


def runs(tensors: Sequence[TensorEntry]) -> list[RowRun]:
    """The symbol sequence: a run of each coded tensor, each plane of a kept one, and the changes of a changed one."""
    owned = [
        (index, entry, block_shape(entry.shape, entry.matrix))
        for index, entry in enumerate(tensors)
        if entry.target is None and entry.size
    ]
    sequence = [RowRun(index, None, 0, shape) for index, entry, shape in owned if entry.codebook is not None]
    kept = [(index, entry.dtype.itemsize, shape) for index, entry, shape in owned if entry.codebook is None]
    for plane in range(8):
        sequence += [RowRun(index, plane, 0, shape) for index, width, shape in kept if plane < width]
    for index, entry in enumerate(tensors):
        if entry.target is None and entry.change is not None and entry.change.differing:
            sequence.append(RowRun(index, CHANGES, 0, (entry.change.common, 1, 1)))
    return sequence


def scanned(symbols: np.ndarray, run: RowRun, matrix: MatrixLayout | None = None) -> np.ndarray:
    """The symbols of a run as coders see them, contiguous.

    Args:
        symbols: of the whole tensor, in its shape if there is a ``matrix``; of a whole plane, as int8.

    Returns:
        int8 of planes, otherwise int32, in the run's shape.
    """
    place = run.elements
    if matrix is None or not matrix.by_columns:
        dtype = np.int32 if run.plane is None else np.int8
        return np.ascontiguousarray(symbols.reshape(-1)[place.start : place.stop], dtype).reshape(run.shape)
    rows = matrix.rows(symbols.shape)
    first, end = place.start // rows, -(-place.stop // rows)
    columns = np.ascontiguousarray(symbols.reshape(rows, -1).T[first:end], np.int32).reshape(-1)
    return columns[place.start - first * rows :][: len(place)].reshape(run.shape)


def cut(sequence: Iterable[RowRun], most_symbols: int) -> Iterator[list[RowRun]]:
    """Chunks of about ``most_symbols``; one never mixes quantized weights and different planes."""
    chunk: list[RowRun] = []
    room = most_symbols
    for run in sequence:
        rows, channels, kernel = run.shape
        first = 0
        while first < rows:
            if chunk and (room < channels * kernel or chunk[0].plane != run.plane):
                yield chunk
                chunk, room = [], most_symbols
            taken = min(rows - first, max(1, room // (channels * kernel)))
            chunk.append(RowRun(run.tensor, run.plane, first, (taken, channels, kernel)))
            first += taken
            room -= taken * channels * kernel
    if chunk:
        yield chunk


def cut_for(coder: str, sequence: Iterable[RowRun], most_symbols: int | None = None) -> Iterator[list[RowRun]]:
    """Chunks as the coder of that name likes them, or of so many symbols: of quantized weights, and of each plane."""
    for plane, group in groupby(sequence, key=lambda run: run.plane):
        of_group = list(group)
        if plane == CHANGES:
            for run in of_group:
                yield from cut([run], _CHANGE_SYMBOLS)
            continue
        symbols = sum(len(run.elements) for run in of_group)
        yield from cut(of_group, most_symbols or coding.by_name(coder).chunk_symbols(symbols))
