"""`.mtq` bytes to tensors (docs/format.md). Reading trusts nothing."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from metaq import _native, coding
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.errors import FormatError, InputError, nearest_name
from metaq.format.assembly import Assembly
from metaq.format.header import HEADER_BYTES_PER_BYTE, MAGIC, MAX_HEADER_BYTES, VERSION, Header, HeaderParser
from metaq.format.sequence import Run, runs


class Reader:
    """A `.mtq` file in memory: its header, checked; its chunks, checked as they are decoded.

    Args:
        data: the whole file.
        name: what errors call it.

    Raises:
        FormatError: the bytes are not a version 1 file, whole and unchanged.
    """

    def __init__(self, data: bytes | memoryview, name: str = "data") -> None:
        self.data = memoryview(data).cast("B")
        self.name = name
        self.header, offset = self._read_header()
        self.payload_offsets: list[int] = []
        for chunk in self.header.chunks:
            with self.naming():
                coding.by_identifier(chunk.coder)
            self.payload_offsets.append(offset)
            offset += chunk.payload_bytes + 4
        self.expect(offset == len(self.data), f"{offset} bytes", f"{len(self.data)}")

    def expect(self, holds: bool, expected: str, found: str) -> None:
        """Raise a FormatError unless ``holds``."""
        if not holds:
            raise FormatError(f"{self.name}: expected {expected}, found {found}")

    @contextmanager
    def naming(self, part: str = "") -> Iterator[None]:
        """Errors within say which file, and which part of it, they are about."""
        try:
            yield
        except (FormatError, InputError) as error:
            raise FormatError(f"{self.name}{part}: {error}") from None

    def _read_header(self) -> tuple[Header, int]:
        start = bytes(self.data[:32])
        self.expect(start[:3] == MAGIC, f"a .mtq file, which starts with {MAGIC!r}", f"{start[:3]!r}")
        self.expect(len(start) > 3, "a version byte", "the end of the file")
        self.expect(start[3] == VERSION, f"format version {VERSION}", f"version {start[3]}; a newer metaq may read it")
        sizes = HeaderParser(start)
        sizes.offset = 4
        with self.naming():
            size, coded_size = sizes.varint(), sizes.varint()
        self.expect(0 < size <= MAX_HEADER_BYTES, f"a header of 1 to {MAX_HEADER_BYTES} bytes", f"{size}")
        end = sizes.offset + coded_size
        self.expect(end + 4 <= len(self.data), f"at least {end + 4} bytes", f"{len(self.data)}; the file is truncated")
        (checksum,) = struct.unpack_from("<I", self.data, end)
        self.expect(zlib.crc32(self.data[:end]) == checksum, "a header that matches its checksum", "one that does not")
        fits = size <= HEADER_BYTES_PER_BYTE * (coded_size + 8)
        self.expect(fits, f"a header that {coded_size} bytes can hold", f"{size} bytes")
        try:
            header = _native.text_decode(bytes(self.data[sizes.offset : end]), size)
        except ValueError as error:
            raise FormatError(f"{self.name}: expected a text-coded header, found it {error}") from None
        with self.naming():
            return HeaderParser(header).parse(), end + 4

    def decode_chunk(self, index: int, shapes: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
        """A chunk's blocks as int32 arrays.

        Raises:
            FormatError: the checksum does not match, or the payload is not what an encoder writes.
        """
        payload = self.payload(index)
        with self.naming(f", chunk {index}"):
            return coding.by_identifier(self.header.chunks[index].coder).decode(payload, shapes)

    def payload(self, index: int) -> memoryview:
        """A chunk's bytes.

        Raises:
            FormatError: the checksum does not match.
        """
        entry, offset = self.header.chunks[index], self.payload_offsets[index]
        payload = self.data[offset : offset + entry.payload_bytes]
        (checksum,) = struct.unpack_from("<I", self.data, offset + entry.payload_bytes)
        self.expect(zlib.crc32(payload) == checksum, f"chunk {index} to match its checksum", "one that does not")
        return payload

    def chunk_runs(self) -> list[list[Run]]:
        """The runs that each chunk covers.

        Raises:
            FormatError: a chunk ends inside a row.
        """
        covered: list[list[Run]] = []
        sequence = iter(runs(self.header.tensors))
        run = next(sequence, None)
        for index, chunk in enumerate(self.header.chunks):
            left = chunk.symbols
            covered.append([])
            while left:
                assert run is not None  # the header's counts cover the sequence exactly
                rows, channels, kernel = run.shape
                row = channels * kernel
                if rows * row <= left:
                    covered[-1].append(run)
                    left -= rows * row
                    run = next(sequence, None)
                    continue
                taken = left // row
                self.expect(taken > 0, f"chunk {index} to end between rows", "an end inside one")
                covered[-1].append(run._replace(shape=(taken, channels, kernel)))
                run = run._replace(first_row=run.first_row + taken, shape=(rows - taken, channels, kernel))
                left -= taken * row
        return covered

    def load(self) -> dict[str, Tensor]:
        """Every tensor under its name, in the file's order; aliases are the same tensor object."""
        return self._all(as_symbols=False)

    def model(self) -> CompressedModel:
        """The file's content still quantized: symbols and codebooks."""
        symbols = self._all(as_symbols=True)
        tensors: dict[str, CodedTensor | Tensor | Alias] = {}
        for entry in self.header.tensors:
            if entry.target is not None:
                tensors[entry.name] = Alias(self.header.tensors[entry.target].name)
            elif entry.codebook is not None:
                tensors[entry.name] = CodedTensor(symbols[entry.name], entry.codebook, entry.dtype)
            else:
                tensors[entry.name] = symbols[entry.name]
        return CompressedModel(tensors, self.header.metadata)

    def tensor(self, name: str, rows: slice = slice(None)) -> Tensor:
        """One tensor, or some of its rows (entries of its first dimension), decoding no more chunks than they lie in.

        Raises:
            InputError: no tensor has that name, or rows are asked of one without dimensions, or with a step.
            FormatError: a chunk that is needed is damaged.
        """
        index = self._index(name)
        shape = self.header.tensors[index].shape
        if rows == slice(None):
            return Assembly(self, {index: range(math.prod(shape))}, as_symbols=False).run()[index].reshape(shape)
        if not shape:
            raise InputError(f"{self.name}, tensor {name!r}: expected dimensions to take rows of, found a scalar")
        first, last, step = rows.indices(shape[0])
        if step != 1:
            raise InputError(f"{self.name}, tensor {name!r}: expected rows in a step of 1, found {step}")
        row_size = math.prod(shape[1:])
        wanted = range(first * row_size, max(first, last) * row_size)
        return (
            Assembly(self, {index: wanted}, as_symbols=False).run()[index].reshape(len(range(first, last)), *shape[1:])
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            InputError: no tensor has that name.
        """
        return self.header.tensors[self._index(name)].shape

    def _index(self, name: str) -> int:
        """The place of the tensor of that name, or of the one it is an alias of."""
        names = {entry.name: index for index, entry in enumerate(self.header.tensors)}
        if name not in names:
            raise InputError(f"{self.name}: expected the name of a tensor, found {name!r}{nearest_name(name, names)}")
        target = self.header.tensors[names[name]].target
        return names[name] if target is None else target

    def _all(self, as_symbols: bool) -> dict[str, Tensor]:
        entries = self.header.tensors
        wanted = {index: range(entry.size) for index, entry in enumerate(entries) if entry.target is None}
        parts = Assembly(self, wanted, as_symbols).run()
        owners = [index if entry.target is None else entry.target for index, entry in enumerate(entries)]
        shapes = [entry.shape for entry in entries]
        whole = {
            index: part if len(shapes[index]) == 1 else part.reshape(shapes[index]) for index, part in parts.items()
        }
        return {entry.name: whole[owner] for entry, owner in zip(entries, owners, strict=True)}
