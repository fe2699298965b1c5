"""Every tensor of a file, decoded on a device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.assign import check_symbols, reconstruct
from metaq.errors import FormatError
from metaq.format.header import TensorEntry
from metaq.format.reader import Reader
from metaq.gpu.streams import Streams
from metaq.tensors import DTYPES, load_tensors

_log = logging.getLogger(__name__)

GROUP_SYMBOLS = 1 << 28  # tensors of about so many are decoded at once, which takes some bytes for each
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def load_tensors_on(device: torch.device, reader: Reader) -> dict[str, Tensor]:
    """Every tensor of a model under its name, in the file's order, on a device; aliases are the same tensor object.

    Where the kernel cannot be compiled or run, a warning says so, and the CPU decodes.

    Raises:
        FormatError: a chunk is damaged, or a symbol has no value.
    """
    content = reader.read(0, reader.size_bytes)
    in_memory = Reader(content, reader.name, limits=reader.limits)  # the file may have changed since it was checked
    try:
        return Loading(in_memory, Streams(in_memory, content, device)).tensors()
    except FormatError:
        raise
    except Exception as error:  # Triton and the compilers that it calls raise many kinds
        # A symbol without a value is found here too, for which the CPU has better words.
        tensors = load_tensors(in_memory, device)
        found = str(error).strip().splitlines() or [type(error).__name__]
        _log.warning("%s: expected to decode on %s, found %s; the CPU has decoded it", reader.name, device, found[0])
        return tensors


@dataclass
class Loading:
    """A file whose chunks are on a device, or on their way to it."""

    reader: Reader
    streams: Streams

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        entries = self.reader.header.tensors
        tensors: dict[str, Tensor] = {}
        for first, end in self._groups():
            sections = {section: self._section(section, first, end) for section in range(9)}
            for entry, *parts in zip(entries[first:end], *sections.values(), strict=True):
                tensors[entry.name] = (
                    tensors[entries[entry.target].name] if entry.target is not None else self._tensor(entry, parts)
                )
        return tensors

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Runs of tensors that are decoded at once, each its first and what follows its last."""
        first = symbols = 0
        for number, entry in enumerate(self.reader.header.tensors):
            symbols += sum(_size(entry, section) for section in range(9))
            if symbols >= GROUP_SYMBOLS:
                yield first, number + 1
                first, symbols = number + 1, 0
        if first < len(self.reader.header.tensors):
            yield first, len(self.reader.header.tensors)

    def _section(self, section: int, first: int, end: int) -> list[Tensor | None]:
        """The share of a section of each tensor of a group; None of those that have none in it."""
        entries = self.reader.header.tensors
        sizes = [_size(entry, section) for entry in entries[first:end]]
        chunks = self.streams.chunks(section, first, end)
        if sum(sizes) == 0:
            return [None] * (end - first)
        symbols = self.streams.decode(chunks)
        # The first chunk may begin with tensors before these.
        place = sum(_size(entry, section) for entry in entries[:first]) - self.streams.first_symbol(chunks[0])
        shares: list[Tensor | None] = []
        for size in sizes:
            shares.append(symbols[place : place + size] if size else None)
            place += size
        return shares

    def _tensor(self, entry: TensorEntry, parts: list[Tensor | None]) -> Tensor:
        dtype = DTYPES[entry.dtype]
        if entry.size == 0:
            return torch.empty(entry.shape, dtype=dtype, device=self.streams.device)
        if entry.codebook is None:
            planes = [part for part in parts[1:] if part is not None]
            return _merged(planes, entry.dtype.is_float).view(dtype).reshape(entry.shape)
        symbols, matrix = parts[0], entry.matrix
        assert symbols is not None
        check_symbols(symbols, entry.codebook, dtype)
        if matrix is not None and matrix.by_columns:
            symbols = symbols.reshape(matrix.columns(entry.shape), -1).T
        return reconstruct(symbols.reshape(entry.shape), entry.codebook, dtype, matrix)


def _size(entry: TensorEntry, section: int) -> int:
    """How many symbols of a section a tensor has."""
    if entry.target is not None:
        return 0
    has_any = section == 0 if entry.codebook is not None else 0 < section <= entry.dtype.itemsize
    return entry.size if has_any else 0


def _merged(planes: list[Tensor], is_float: bool) -> Tensor:
    """The words of which these are the bytes, the highest first; those of floats rotated back, to the right by one."""
    width = 8 * len(planes)
    words = planes[0].to(_INTEGERS[len(planes)])
    for plane in planes[1:]:
        words = (words << 8) | plane
    if not is_float:
        return words
    # Shifts of signed integers keep the sign, which is masked away.
    return ((words >> 1) & ((1 << width - 1) - 1)) | (words << width - 1)
