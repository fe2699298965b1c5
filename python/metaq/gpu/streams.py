"""A file's chunks as the kernel takes them, and their symbols on the device."""

from __future__ import annotations

import os
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from metaq.format.reader import Reader
from metaq.gpu.kernel import decode_chunks

SLOTS_PER_LAUNCH = 1 << 24
_PLANE_ORIGIN = 128  # what a plane's symbols are smaller by than its bytes


class Field(IntEnum):
    """What the native module says of each chunk (`src/python/streams.hpp`)."""

    KIND = 0
    SECTION = 1
    FIRST_TENSOR = 2
    LAST_TENSOR = 3
    SYMBOLS = 4
    PLACE = 5
    WORDS = 6
    PRECISION = 7
    CONTEXT_MASK = 8
    SLOTS = 9
    FREQUENCIES = 10
    LISTED = 11
    UNITS = 12
    ESCAPES = 13
    ESCAPE_BASE = 14
    ESCAPE_WIDTH = 15
    ESCAPED_PLACE = 16
    LANES = 17


_ELSEWHERE, _STORED, _RANS = range(3)
_PARTS = (np.int64, np.uint32, np.uint32, np.int32, np.uint32, np.uint32)


class Streams:
    """The chunks of a file, ready to be decoded on a device.

    Args:
        reader: of the file, in memory.
        content: the same bytes.
        device: where a kernel of Triton runs.
    """

    def __init__(self, reader: Reader, content: bytes, device: torch.device) -> None:
        self.reader, self.device = reader, device
        parts = reader.streams(os.cpu_count() or 1)
        arrays = [np.frombuffer(part, dtype) for part, dtype in zip(parts, _PARTS, strict=True)]
        self.fields = arrays[0].reshape(-1, len(Field))
        self.octets = self._sent(np.frombuffer(content, np.uint8))
        _, *rest = arrays
        self.frequencies, self.first_slots, self.listed, self.unit_ends, self.unit_tables = map(self._sent, rest)
        # Where each chunk's share of these begins.
        self.firsts = {
            field: _firsts(self.fields[:, field]) for field in (Field.FREQUENCIES, Field.LISTED, Field.UNITS)
        }
        self._first_symbols = _firsts(self.fields[:, Field.SYMBOLS])

    def chunks(self, section: int, first_tensor: int, end_tensor: int) -> np.ndarray:
        """The numbers of the chunks of a section that hold some of these tensors."""
        fields = self.fields
        is_wanted = (fields[:, Field.SECTION] == section) & (fields[:, Field.FIRST_TENSOR] < end_tensor)
        return np.flatnonzero(is_wanted & (fields[:, Field.LAST_TENSOR] >= first_tensor))

    def first_symbol(self, chunk: int) -> int:
        """Which of its section's symbols a chunk begins with."""
        of_section = np.flatnonzero(self.fields[:, Field.SECTION] == self.fields[chunk, Field.SECTION])[0]
        return int(self._first_symbols[chunk] - self._first_symbols[of_section])

    def decode(self, chunks: np.ndarray) -> Tensor:
        """The symbols of some chunks that follow each other, int32, or the bytes of their planes, uint8.

        Raises:
            FormatError: one of them is damaged.
        """
        fields = self.fields[chunks]
        is_coded = fields[0, Field.SECTION] == 0
        places = _firsts(fields[:, Field.SYMBOLS])
        out = torch.empty(
            int(fields[:, Field.SYMBOLS].sum()), dtype=torch.int32 if is_coded else torch.uint8, device=self.device
        )
        is_left = fields[:, Field.KIND] == _ELSEWHERE
        streams = np.flatnonzero(fields[:, Field.KIND] == _RANS)
        # Some at a time, for a chunk of a few bytes may have tables of thousands of slots.
        launches = np.cumsum(fields[streams, Field.SLOTS]) // SLOTS_PER_LAUNCH
        for launch in np.unique(launches):
            of_launch = streams[launches == launch]
            is_left[of_launch[~self._launch(chunks[of_launch], places[of_launch], out)]] = True
        for index in np.flatnonzero(fields[:, Field.KIND] == _STORED):
            first, size = fields[index, Field.PLACE], fields[index, Field.SYMBOLS]
            torch.bitwise_xor(self.octets[first : first + size], 0x80, out=out[places[index] : places[index] + size])
        for index in np.flatnonzero(is_left):
            self._decode_here(int(chunks[index]), out[places[index] :])
        return out

    def _launch(self, chunks: np.ndarray, places: np.ndarray, out: Tensor) -> np.ndarray:
        """Decode chunks by the kernel; whether each ended as it should."""
        fields = self.fields[chunks]
        slot_counts = fields[:, Field.SLOTS]
        rows = np.stack(
            [
                fields[:, Field.SYMBOLS],
                fields[:, Field.PLACE],
                fields[:, Field.WORDS],
                fields[:, Field.PRECISION],
                fields[:, Field.CONTEXT_MASK],
                _firsts(slot_counts),
                self.firsts[Field.LISTED][chunks],
                fields[:, Field.LISTED],
                self.firsts[Field.UNITS][chunks],
                fields[:, Field.UNITS],
                places,
                fields[:, Field.ESCAPES],
                fields[:, Field.ESCAPE_BASE],
                fields[:, Field.ESCAPE_WIDTH],
                fields[:, Field.ESCAPED_PLACE],
                fields[:, Field.LANES],
                np.ceil(np.log2(fields[:, Field.UNITS])).astype(np.int64),  # halvings that find one of them
            ],
            axis=1,
        )
        are_good = torch.zeros(len(chunks), dtype=torch.int32, device=self.device)
        is_plane = out.dtype == torch.uint8
        with torch.cuda.device_of(out):  # Triton launches on the current one
            decode_chunks[(len(chunks),)](
                self.octets,
                self._sent(rows),
                self._slots(chunks, int(slot_counts.sum())),
                self.listed,
                self.unit_ends,
                self.unit_tables,
                out,
                are_good,
                FIELDS=rows.shape[1],
                ORIGIN=_PLANE_ORIGIN if is_plane else 0,
                LEAST=-_PLANE_ORIGIN if is_plane else -(1 << 30) + 1,
                GREATEST=_PLANE_ORIGIN - 1 if is_plane else (1 << 30) - 1,
                num_warps=1,
            )
        found: np.ndarray = are_good.cpu().numpy().astype(bool)
        return found

    def _slots(self, chunks: np.ndarray, count: int) -> Tensor:
        """All slots of some chunks' tables: as many for each entry as its frequency, one larger than the other."""
        first, last = chunks[0], chunks[-1]
        start = int(self.firsts[Field.FREQUENCIES][first])
        end = int(self.firsts[Field.FREQUENCIES][last] + self.fields[last, Field.FREQUENCIES])
        frequencies = self.frequencies[start:end].to(torch.int64)
        ends = frequencies.cumsum(0)
        bases = self.first_slots[start:end].to(torch.int64) - (ends - frequencies)
        numbers = torch.arange(count, device=self.device)
        return (bases.repeat_interleave(frequencies, output_size=count) + numbers).to(torch.uint32)

    def _decode_here(self, chunk: int, out: Tensor) -> None:
        first = 0
        for symbols in self.reader.decode_chunk(chunk):
            part = torch.from_numpy(symbols if symbols.dtype == np.int32 else symbols.view(np.uint8) ^ 0x80)
            out[first : first + len(part)] = part.to(self.device)
            first += len(part)

    def _sent(self, numbers: np.ndarray) -> Tensor:
        """An array on the device."""
        here = torch.empty(numbers.shape, dtype=_TORCH[numbers.dtype.type], pin_memory=self.device.type == "cuda")
        here.numpy()[...] = numbers
        return here.to(self.device, non_blocking=True)


def _firsts(counts: np.ndarray) -> np.ndarray:
    """Where each of some runs begins that follow each other."""
    firsts: np.ndarray = np.cumsum(counts) - counts
    return firsts


_TORCH: dict[type, torch.dtype] = {
    np.uint8: torch.uint8,
    np.int32: torch.int32,
    np.uint32: torch.uint32,
    np.int64: torch.int64,
}
