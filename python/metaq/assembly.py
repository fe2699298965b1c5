"""Chunks to tensors, by the shortest way: rANS straight to values, byte planes straight to elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metaq import coding, planes
from metaq.assign import check_symbols, reconstruct
from metaq.chunks import Run, in_threads
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.coding import Rans, Stored
from metaq.coding.rans import ValueCodebook
from metaq.errors import FormatError
from metaq.header import TensorEntry

if TYPE_CHECKING:
    from metaq.reader import Reader

PIECE_SYMBOLS = 1 << 18  # turned into values at a time, so that temporary tensors stay small
PIECE_ELEMENTS = 1 << 20  # joined from their planes at a time, so that threads share the work of a tensor

# What rANS fills in place, as NumPy sees it: the bits of a bfloat16 are a uint16.
_FILLED = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,
    torch.int8: np.int8,
    torch.int32: np.int32,
}
_SYMBOLS: ValueCodebook = (1.0, None, 0)  # which integer outputs pay no heed to


class Assembly:
    """Ranges of tensors' elements, flat, from the chunks that they lie in.

    Args:
        wanted: for each tensor that is wanted, by its place in the header, its elements.
        as_symbols: coded tensors as int32 symbols rather than as values.

    Raises:
        MemoryError: there is not enough for the tensors.
    """

    def __init__(self, reader: Reader, wanted: dict[int, range], as_symbols: bool) -> None:
        self.reader = reader
        self.entries = reader.header.tensors
        self.wanted = wanted
        self.as_symbols = as_symbols
        self.parts: dict[int, Tensor] = {}
        self.planes: dict[int, list[planes.Segments]] = {}
        self.octets: dict[int, np.ndarray] = {}  # where those of coded planes go
        for index, elements in wanted.items():
            entry = self.entries[index]
            is_symbols = as_symbols and entry.codebook is not None
            self.parts[index] = self._allocated(len(elements), torch.int32 if is_symbols else entry.dtype)
            if entry.codebook is None:
                self.planes[index] = [[] for _ in range(entry.dtype.itemsize)]
                self.octets[index] = np.empty((entry.dtype.itemsize, len(elements)), np.int8)

    def _allocated(self, size: int, dtype: torch.dtype) -> Tensor:
        size_bytes = size * dtype.itemsize
        try:
            # NumPy asks for huge pages, without which the first touch of memory takes longer than decoding.
            return torch.from_numpy(np.empty(size, f"i{dtype.itemsize}")).view(dtype)
        except MemoryError:
            raise MemoryError(
                f"{self.reader.name}: expected memory for a tensor of {size_bytes} bytes, found less"
            ) from None

    def run(self) -> dict[int, Tensor]:
        """The tensors, filled.

        Raises:
            FormatError: a chunk that is needed is damaged.
        """
        needed = [
            (index, chunk)
            for index, chunk in enumerate(self.reader.chunk_runs())
            if any(run.elements_in(self.wanted.get(run.tensor, range(0))) for run in chunk)
        ]
        # Symbols on their way take no more memory in all than what they become.
        most_bytes = sum(part.numel() * part.dtype.itemsize for part in self.parts.values())
        largest = max((4 * self._symbols_made(index, chunk) for index, chunk in needed), default=0)
        in_threads(self._fill, needed, at_most=max(1, most_bytes // max(1, largest)))
        pieces = []
        for index, of_tensor in self.planes.items():
            for segments in of_tensor:
                segments.sort(key=lambda segment: segment[0])
            elements = self.wanted[index]
            pieces += [
                (index, elements[first : first + PIECE_ELEMENTS]) for first in range(0, len(elements), PIECE_ELEMENTS)
            ]
        in_threads(self._join, pieces)
        return self.parts

    def _fill(self, index_and_runs: tuple[int, list[Run]]) -> None:
        """Decode a chunk: values and symbols to where they belong, bytes to the planes of their tensors."""
        index, chunk = index_and_runs
        payload, shapes = self.reader.payload(index), [run.shape for run in chunk]
        coder = coding.by_identifier(self.reader.header.chunks[index].coder)
        with self.reader.naming(f", chunk {index}"):
            if isinstance(coder, Rans):
                blocks = [self._output(run) for run in chunk]
                coder.decode_values(payload, shapes, blocks, [self._value_codebook(run) for run in chunk])
            elif isinstance(coder, Stored) and all(run.plane is not None for run in chunk):
                blocks = coder.decode_octets(payload, shapes)
            else:
                blocks = coder.decode(payload, shapes)
        for run, block in zip(chunk, blocks, strict=True):
            is_in_place = isinstance(coder, Rans) and self._is_filled(run)
            if run.tensor in self.wanted and not is_in_place:
                with self.reader.naming(f", tensor {self.entries[run.tensor].name!r}"):
                    self._put(run, block.reshape(-1))

    def _symbols_made(self, index: int, chunk: list[Run]) -> int:
        """How many int32 symbols decoding a chunk makes."""
        if self.reader.header.chunks[index].coder != Rans.identifier:
            return self.reader.header.chunks[index].symbols
        return sum(len(run.elements) for run in chunk if run.plane is None and not self._is_filled(run))

    def _is_filled(self, run: Run) -> bool:
        """Whether rANS can fill the run's place in its tensor."""
        if self.as_symbols or run.plane is not None or run.tensor not in self.wanted:
            return False
        is_whole = run.elements_in(self.wanted[run.tensor]) == run.elements
        return is_whole and self.entries[run.tensor].dtype in _FILLED

    def _output(self, run: Run) -> np.ndarray:
        """What rANS fills: the run's place in its tensor if it can, otherwise bytes or symbols to be put there."""
        elements, wanted = run.elements, self.wanted.get(run.tensor, range(0))
        first, last = elements.start - wanted.start, elements.stop - wanted.start
        if run.plane is not None and run.elements_in(wanted) == elements:
            return self.octets[run.tensor][run.plane, first:last]
        if not self._is_filled(run):
            return np.empty(len(elements), np.int32 if run.plane is None else np.int8)
        part = self.parts[run.tensor]
        place = part[first:last]
        as_integers = place.view(torch.int16) if part.dtype == torch.bfloat16 else place
        return as_integers.numpy().view(_FILLED[part.dtype])

    def _value_codebook(self, run: Run) -> ValueCodebook:
        codebook = self.entries[run.tensor].codebook
        if isinstance(codebook, TableCodebook):
            return 1.0, codebook.table.numpy(), codebook.origin
        return (codebook.step, None, 0) if isinstance(codebook, UniformCodebook) else _SYMBOLS

    def _put(self, run: Run, block: np.ndarray) -> None:
        """A plane's block beside the others of its tensor; symbols into it, as values if it is of such."""
        entry, wanted = self.entries[run.tensor], self.wanted[run.tensor]
        if run.plane is not None:
            self.planes[run.tensor][run.plane].append((run.elements.start, _octets(block)))
            return
        elements = run.elements_in(wanted)
        symbols = block[elements.start - run.elements.start : elements.stop - run.elements.start]
        _put_symbols(symbols, entry, self.parts[run.tensor][elements.start - wanted.start :])

    def _join(self, index_and_elements: tuple[int, range]) -> None:
        index, elements = index_and_elements
        first = elements.start - self.wanted[index].start
        part = self.parts[index][first : first + len(elements)]
        planes.join(self.planes[index], elements, part)


def _octets(block: np.ndarray) -> np.ndarray:
    if block.dtype != np.int8 and (block.min() < -128 or block.max() > 127):
        raise FormatError("expected symbols of bytes, -128 to 127, found others")
    return block.astype(np.int8, copy=False)


def _put_symbols(symbols: np.ndarray, entry: TensorEntry, out: Tensor) -> None:
    """Symbols to the start of ``out``: as values of its dtype, or as they are if that is int32."""
    assert entry.codebook is not None
    check_symbols(torch.from_numpy(symbols), entry.codebook, entry.dtype)
    for first in range(0, symbols.size, PIECE_SYMBOLS):
        piece = torch.from_numpy(symbols[first : first + PIECE_SYMBOLS])
        if out.dtype != torch.int32:
            piece = reconstruct(piece, entry.codebook, entry.dtype)
        out[first : first + piece.numel()] = piece
