"""The tensors of a network, wherever they are: their layouts, and their elements a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from metaq.codebook import IntegerCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.errors import InputError
from metaq.format.dtypes import BY_NAME, Dtype
from metaq.format.header import TensorEntry, fits_limits
from metaq.format.writer import Source

PIECE_ELEMENTS = 1 << 20


class Layout(NamedTuple):
    """What is known of a tensor before it is read."""

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """The bytes that the elements take."""
        return self.size * self.dtype.itemsize


class NamedTensors(Protocol):
    """What is known of named tensors before any of them is read."""

    @property
    def name(self) -> str:
        """What messages call it, such as a path."""

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """The layout of every name's tensor, in order."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Second names of shared tensors, each with the first name, which comes before it."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Texts that are kept with the tensors."""


class Network(NamedTensors, Protocol):
    """Named tensors as bytes. May be read from several threads at a time."""

    def octets(self, name: str, elements: range) -> np.ndarray:
        """The bytes of a tensor's elements, by their places in the flattened one, as uint8; not to be changed."""


class OctetNetwork:
    """A network in memory: ``octets`` are the bytes of every tensor under its first name."""

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        aliases: Mapping[str, str],
        octets: Mapping[str, np.ndarray],
        metadata: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.name, self.metadata, self.layouts, self.aliases = name, metadata or {}, layouts, aliases
        self._octets = octets

    def octets(self, name: str, elements: range) -> np.ndarray:
        """A view of the elements' bytes."""
        width = self.layouts[name].dtype.itemsize
        return self._octets[self.aliases.get(name, name)][elements.start * width : elements.stop * width]


def array_network(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> OctetNetwork:
    """Arrays of NumPy by name; the same object under several names is a shared tensor.

    Raises:
        InputError: an array that no file can hold.
    """
    arrays = dict(arrays)  # a mapping that makes arrays when it is asked, as numpy.load's, could give two the same id
    layouts = {key: layout_of(key, array) for key, array in arrays.items()}
    first: dict[int, str] = {}
    firsts = {key: first.setdefault(id(array), key) for key, array in arrays.items()}
    aliases = {key: of_key for key, of_key in firsts.items() if of_key != key}
    octets = {key: octets_of(array) for key, array in arrays.items() if key not in aliases}
    return OctetNetwork(layouts, aliases, octets, metadata)


def layout_of(name: str, array: np.ndarray) -> Layout:
    """An array's dtype and shape.

    Raises:
        InputError: no file can hold it.
    """
    if not isinstance(array, np.ndarray) or array.dtype.name not in BY_NAME:
        found = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"array {name!r}: expected a NumPy array of {', '.join(BY_NAME)}, found {found}")
    if not fits_limits(array.shape):
        found = f"shape {array.shape}"
        raise InputError(f"array {name!r}: expected at most 32 dimensions and 2^40 elements, found {found}")
    return Layout(BY_NAME[array.dtype.name], array.shape)


def octets_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array's elements, row-major, little-endian: uint8, in one dimension."""
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return native.reshape(-1).view(np.uint8)


def whole_source(name: str, layout: Layout, octets: np.ndarray) -> Source:
    """A tensor as it is written without loss: integers as symbols if they are such, everything else in byte planes."""
    dtype, shape = layout
    entry = TensorEntry(name, dtype, shape)
    if not dtype.is_float:
        numbers = octets.view(dtype.name)
        if numbers.size == 0 or max(-int(numbers.min()), int(numbers.max())) < SYMBOL_LIMIT:
            return Source(entry._replace(codebook=IntegerCodebook()), numbers.astype(np.int32).reshape(shape))
    return Source(entry, octets.view(f"u{dtype.itemsize}"))


def pieces(size: int) -> Iterator[range]:
    """Ranges of at most `PIECE_ELEMENTS` that cover so many elements."""
    for first in range(0, size, PIECE_ELEMENTS):
        yield range(first, min(size, first + PIECE_ELEMENTS))
