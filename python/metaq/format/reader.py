"""`.mtq` bytes to arrays (docs/format.md). Reading trusts nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from metaq.errors import InputError, nearest_name
from metaq.format.checked_file import ALL_ELEMENTS, CheckedFile
from metaq.format.dtypes import BY_NAME, DTYPES, Dtype, new_array
from metaq.format.header import KINDS_OF_SYMBOLS

Array = TypeVar("Array")
# An array of a dtype and a shape, of any library, and its memory, to be filled, as a contiguous array of NumPy.
NewArray = Callable[[Dtype, tuple[int, ...]], tuple[Array, np.ndarray]]


class Reader(CheckedFile):
    """A `.mtq` file in memory, to be read whole or in parts, as arrays of NumPy or of another library::

        tensors = Reader(path.read_bytes(), str(path)).load()

    Arguments and errors are those of `CheckedFile`. Memory for a tensor that there is not enough of is a MemoryError.
    """

    def load(self, new: NewArray[Any] = new_array) -> dict[str, Any]:
        """Every tensor under its name, in the file's order; aliases are the same object."""
        return self._whole(range(len(self.rows)), new)

    def symbols(self, new: NewArray[Any] = new_array) -> dict[str, Any]:
        """As `load`, but coded tensors as symbols, int32."""
        return self._whole(range(len(self.rows)), new, as_symbols=True)

    def tensor(self, name: str, rows: slice = slice(None), new: NewArray[Any] = new_array) -> Any:
        """One tensor, or some of its rows (entries of its first dimension), decoding no more chunks than they lie in.

        Each row of a tensor that is scanned by columns lies in all of the tensor's chunks.

        Raises:
            InputError: no tensor has that name, or rows are asked of one without dimensions, or with a step.
            FormatError: a chunk that is needed is damaged.
        """
        index = self.index(name)
        _, dtype, _, shape, _, _ = self.rows[index]
        first, last = 0, shape[0] if shape else 1
        if rows != slice(None):
            first, last = self._rows(name, shape, rows)
            shape = (last - first, *shape[1:])
        array, memory = self._new(new, DTYPES[dtype], shape)
        row_size = math.prod(shape[1:])
        self.fill([(index, first * row_size, (last - first) * row_size, memory)], is_session=True)
        return array

    def _rows(self, name: str, shape: tuple[int, ...], rows: slice) -> tuple[int, int]:
        if not shape:
            raise InputError(f"{self.name}, tensor {name!r}: expected dimensions to take rows of, found a scalar")
        first, last, step = rows.indices(shape[0])
        if step != 1:
            raise InputError(f"{self.name}, tensor {name!r}: expected rows in a step of 1, found {step}")
        return first, max(first, last)

    def group(self, first: int, new: NewArray[Array]) -> dict[str, Array]:
        """A tensor, and those behind it that are best decoded with it by one who asks for all in order."""
        return self._whole(range(first, self.end_of_group(first)), new, is_session=True)

    def groups(self) -> Iterator[range]:
        """The tensors' places in the file, in runs that are best decoded together."""
        first = 0
        while first < len(self.rows):
            group = range(first, self.end_of_group(first))
            yield group
            first = group.stop

    def symbol_groups(self, new: NewArray[Array]) -> Iterator[dict[int, Array]]:
        """All that `symbols` gives, a group at a time, by the tensors' places in the file."""
        for group in self.groups():
            found = self._whole(group, new, as_symbols=True)
            yield {index: found[self.rows[index][0]] for index in group}

    def elements(self, wanted: Mapping[int, range], new: NewArray[Array]) -> dict[int, Array]:
        """Ranges of tensors' elements, flat, by the tensors' places in the file; on this thread alone."""
        arrays, requests = {}, []
        for index, elements in wanted.items():
            arrays[index], memory = self._new(new, DTYPES[self.rows[index][1]], (len(elements),))
            requests.append((index, elements.start, len(elements), memory))
        self.fill(requests, threads=1)
        return arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            InputError: no tensor has that name.
        """
        shape: tuple[int, ...] = self.rows[self.index(name)][3]
        return shape

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {row[0]: index for index, row in enumerate(self.rows)}

    def index(self, name: str) -> int:
        """The place of the tensor of that name.

        Raises:
            InputError: no tensor has it.
        """
        if name not in self._indices:
            near = nearest_name(name, self._indices)
            raise InputError(f"{self.name}: expected the name of a tensor, found {name!r}{near}")
        return self._indices[name]

    def _whole(
        self, indices: range, new: NewArray[Any], as_symbols: bool = False, is_session: bool = False
    ) -> dict[str, Any]:
        arrays: dict[int, Any] = {}
        requests = []
        for index in indices:
            _, code, _, shape, _, target = self.rows[index]
            if target in arrays:
                continue
            has_symbols = self.rows[target][2] in KINDS_OF_SYMBOLS
            dtype = BY_NAME["int32"] if as_symbols and has_symbols else DTYPES[code]
            arrays[target], memory = self._new(new, dtype, shape)
            requests.append((target, 0, ALL_ELEMENTS, memory))
        self.fill(requests, as_symbols, is_session)
        return {self.rows[index][0]: arrays[self.rows[index][5]] for index in indices}

    def _new(self, new: NewArray[Array], dtype: Dtype, shape: tuple[int, ...]) -> tuple[Array, np.ndarray]:
        try:
            return new(dtype, shape)
        except MemoryError:
            size_bytes = math.prod(shape) * dtype.itemsize
            raise MemoryError(f"{self.name}: expected memory for a tensor of {size_bytes} bytes, found less") from None
