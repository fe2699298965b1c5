"""Chunks to tensors, by the shortest way: rANS straight to values, byte planes straight to elements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metaq import coding
from metaq.assign import check_symbols, reconstruct
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.coding import NativeCoder, Rans, Stored
from metaq.coding.rans import ValueCodebook
from metaq.errors import FormatError, InputError
from metaq.format import planes
from metaq.format.header import TensorEntry
from metaq.format.sequence import Run
from metaq.threads import batched, in_threads

if TYPE_CHECKING:
    from metaq.format.reader import Reader

PIECE_SYMBOLS = 1 << 18  # turned into values at a time, so that temporary tensors stay small
PIECE_ELEMENTS = 1 << 20  # joined from their planes at a time, so that threads share the work of a tensor
SMALL_ELEMENTS = 1 << 12  # of whole tensors that are joined many at a time: for each alone, calls take longer than work
TASK_SYMBOLS = 1 << 16  # for rANS, or elements to join: a thread takes longer to start than to do less

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
        self.filled: dict[int, np.ndarray] = {}  # the memory of those parts that rANS fills
        self.planes: dict[int, list[planes.Segments]] = {}
        self.octets: dict[int, Sequence[np.ndarray]] = {}  # where coded planes go, and small tensors'
        self.small: dict[torch.dtype, list[int]] = {}
        self.joint: list[tuple[list[int], torch.dtype, np.ndarray]] = []  # the octets of some small tensors
        self.size_bytes = 0
        for index, elements in wanted.items():
            entry, size = self.entries[index], len(elements)
            dtype = torch.int32 if as_symbols and entry.codebook is not None else entry.dtype
            self.size_bytes += size * dtype.itemsize
            if entry.codebook is None and 0 < size <= SMALL_ELEMENTS and size == entry.size:
                self.small.setdefault(dtype, []).append(index)
                continue
            array, self.parts[index] = self._allocated(size, dtype)
            if entry.codebook is None:
                self.planes[index] = [[] for _ in range(dtype.itemsize)]
                self.octets[index] = list(np.empty((dtype.itemsize, size), np.int8))
            elif not as_symbols and dtype in _FILLED:
                self.filled[index] = array
        self._lay_out_small()

    def _lay_out_small(self) -> None:
        """The planes of small tensors of a dtype one behind the other, so that they can be joined at once."""
        for dtype, small in self.small.items():
            sizes = [len(self.wanted[index]) for index in small]
            for indices in batched(small, sizes, TASK_SYMBOLS):
                ends = list(accumulate([len(self.wanted[index]) for index in indices]))
                octets = np.empty((dtype.itemsize, ends[-1]), np.int8)
                self.joint.append((indices, dtype, octets))
                of_planes = [[row[i:j] for i, j in zip([0, *ends], ends, strict=False)] for row in octets]
                self.octets.update(zip(indices, zip(*of_planes, strict=True), strict=True))

    def _allocated(self, size: int, dtype: torch.dtype) -> tuple[np.ndarray, Tensor]:
        """Memory as an array, of which rANS knows the dtype if it can fill it, and as a tensor."""
        try:
            # NumPy asks for huge pages, without which the first touch of memory takes longer than decoding.
            array = np.empty(size, _FILLED.get(dtype) or f"i{dtype.itemsize}")
        except MemoryError:
            size_bytes = size * dtype.itemsize
            raise MemoryError(
                f"{self.reader.name}: expected memory for a tensor of {size_bytes} bytes, found less"
            ) from None
        return array, torch.from_numpy(array).view(dtype)

    def run(self) -> dict[int, Tensor]:
        """The tensors, filled.

        Raises:
            FormatError: a chunk that is needed is damaged.
        """
        needed = [
            (index, chunk) for index, chunk in enumerate(self.reader.chunk_runs()) if any(map(self._is_wanted, chunk))
        ]
        # Symbols on their way take no more memory in all than what they become.
        largest = max((4 * self._symbols_made(index, chunk) for index, chunk in needed), default=0)
        most_threads = max(1, self.size_bytes // max(1, largest))
        in_threads(self._fill_all, batched(needed, map(self._work, needed), TASK_SYMBOLS), most_threads)
        for of_tensor in self.planes.values():
            for segments in of_tensor:
                segments.sort(key=lambda segment: segment[0])
        pieces = [
            (index, self.wanted[index][first : first + PIECE_ELEMENTS])
            for index in self.planes
            for first in range(0, len(self.wanted[index]), PIECE_ELEMENTS)
        ]
        in_threads(self._join_all, batched(pieces, [len(elements) for _, elements in pieces], TASK_SYMBOLS))
        for indices, dtype, octets in self.joint:
            self._join_small(indices, dtype, octets)
        return self.parts

    def _is_wanted(self, run: Run) -> bool:
        return run.tensor in self.wanted and len(run.elements_in(self.wanted[run.tensor])) > 0

    def _work(self, index_and_runs: tuple[int, list[Run]]) -> int:
        """What a chunk takes to decode, in symbols of rANS; for slower coders at least as much as a task."""
        entry = self.reader.header.chunks[index_and_runs[0]]
        return entry.symbols if entry.coder in (Rans.identifier, Stored.identifier) else TASK_SYMBOLS

    def _fill_all(self, chunks: list[tuple[int, list[Run]]]) -> None:
        for index, runs in chunks:
            self._fill(index, runs)

    def _fill(self, index: int, chunk: list[Run]) -> None:
        """Decode a chunk: values and symbols to where they belong, bytes to the planes of their tensors."""
        payload, shapes = self.reader.payload(index), [run.shape for run in chunk]
        coder = coding.by_identifier(self.reader.header.chunks[index].coder)
        is_rans = isinstance(coder, Rans)
        with self.reader.naming(f", chunk {index}"):
            if isinstance(coder, Rans):
                blocks = [self._output(run) for run in chunk]
                codebooks = [_SYMBOLS if run.plane is not None else self._value_codebook(run) for run in chunk]
                coder.decode_values(payload, shapes, blocks, codebooks)
            elif isinstance(coder, Stored) and all(run.plane is not None for run in chunk):
                blocks = coder.decode_octets(payload, shapes)
            elif isinstance(coder, NativeCoder):
                blocks = [self._symbol_place(run) for run in chunk]
                coder.decode_into(payload, blocks)
            else:
                blocks = coder.decode(payload, shapes)
        for run, block in zip(chunk, blocks, strict=True):
            if run.tensor in self.wanted and not (is_rans and self._is_in_place(run)):
                try:
                    self._put(run, block.reshape(-1))
                except (FormatError, InputError):
                    with self.reader.naming(f", tensor {self.entries[run.tensor].name!r}"):
                        raise

    def _symbols_made(self, index: int, chunk: list[Run]) -> int:
        """How many int32 symbols decoding a chunk makes beside what is there for them."""
        entry = self.reader.header.chunks[index]
        if entry.coder == Rans.identifier:
            return sum(len(run.elements) for run in chunk if run.plane is None and not self._is_in_place(run))
        if isinstance(coding.by_identifier(entry.coder), NativeCoder):
            return sum(len(run.elements) for run in chunk if not self._holds_symbols(run))
        return entry.symbols

    def _is_in_place(self, run: Run) -> bool:
        """Whether nothing is left to do once rANS has filled the run's place in its tensor, or in its plane."""
        if run.plane is not None:
            return run.tensor in self.octets and run.tensor not in self.planes
        return run.tensor in self.filled and self._is_whole(run)

    def _is_whole(self, run: Run) -> bool:
        """Whether all of a run's elements are wanted, of a tensor of which some are."""
        elements, wanted = run.elements, self.wanted[run.tensor]
        return wanted.start <= elements.start and elements.stop <= wanted.stop

    def _output(self, run: Run) -> np.ndarray:
        """What rANS fills: the run's place if it has one, otherwise bytes or symbols to be put there."""
        rows, channels, kernel = run.shape
        size = rows * channels * kernel
        place = None
        if run.plane is None:
            place = self.filled.get(run.tensor)
        elif run.tensor in self.octets:
            place = self.octets[run.tensor][run.plane]
        if place is not None:
            first = run.first_row * channels * kernel - self.wanted[run.tensor].start
            if first >= 0 and first + size <= place.size:
                return place[first : first + size] if size < place.size else place
        return np.empty(size, np.int32 if run.plane is None else np.int8)

    def _holds_symbols(self, run: Run) -> bool:
        """Whether a run's place in its tensor is as wide as its symbols."""
        if run.plane is not None or run.tensor not in self.parts:
            return False
        return self.parts[run.tensor].dtype in (torch.float32, torch.int32) and self._is_whole(run)

    def _symbol_place(self, run: Run) -> np.ndarray:
        """Memory for a run's symbols: that of what they become, if it is as wide."""
        if not self._holds_symbols(run):
            return np.empty(run.shape, np.int32)
        first = run.elements.start - self.wanted[run.tensor].start
        place = self.parts[run.tensor].numpy()[first : first + len(run.elements)]
        return place.view(np.int32).reshape(run.shape)

    def _value_codebook(self, run: Run) -> ValueCodebook:
        codebook = self.entries[run.tensor].codebook
        if isinstance(codebook, TableCodebook):
            return 1.0, codebook.table.numpy(), codebook.origin
        return (codebook.step, None, 0) if isinstance(codebook, UniformCodebook) else _SYMBOLS

    def _put(self, run: Run, block: np.ndarray) -> None:
        """A plane's block beside the others of its tensor; symbols into it, as values if it is of such."""
        entry, wanted = self.entries[run.tensor], self.wanted[run.tensor]
        if run.plane is not None:
            octets, first = _octets(block), run.elements.start
            if run.tensor in self.planes:
                self.planes[run.tensor][run.plane].append((first, octets))
            else:
                self.octets[run.tensor][run.plane][first : first + octets.size] = octets
            return
        elements = run.elements_in(wanted)
        symbols = block[elements.start - run.elements.start : elements.stop - run.elements.start]
        _put_symbols(symbols, entry, self.parts[run.tensor][elements.start - wanted.start :])

    def _join_small(self, indices: list[int], dtype: torch.dtype, octets: np.ndarray) -> None:
        _, joined = self._allocated(octets.shape[1], dtype)
        planes.join([[(0, plane)] for plane in octets], range(joined.numel()), joined)
        parts = joined.split([len(self.wanted[index]) for index in indices])
        self.parts.update(zip(indices, [part.clone() for part in parts], strict=True))

    def _join_all(self, pieces: list[tuple[int, range]]) -> None:
        for index, elements in pieces:
            first = elements.start - self.wanted[index].start
            planes.join(self.planes[index], elements, self.parts[index][first : first + len(elements)])


def _octets(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.int8:
        return block
    if block.min() < -128 or block.max() > 127:
        raise FormatError("expected symbols of bytes, -128 to 127, found others")
    return block.astype(np.int8)


def _put_symbols(symbols: np.ndarray, entry: TensorEntry, out: Tensor) -> None:
    """Symbols to the start of ``out``, where they may be already: as values of its dtype, or as they are if int32."""
    assert entry.codebook is not None
    if (
        isinstance(entry.codebook, UniformCodebook) and out.dtype == torch.float32
    ):  # for which no symbol is out of range
        with np.errstate(over="ignore"):
            np.multiply(symbols, np.float32(entry.codebook.step), out=out.numpy()[: symbols.size], dtype=np.float32)
        return
    check_symbols(torch.from_numpy(symbols), entry.codebook, entry.dtype)
    for first in range(0, symbols.size, PIECE_SYMBOLS):
        piece = torch.from_numpy(symbols[first : first + PIECE_SYMBOLS])
        if out.dtype != torch.int32:
            piece = reconstruct(piece, entry.codebook, entry.dtype)
        out[first : first + piece.numel()] = piece
