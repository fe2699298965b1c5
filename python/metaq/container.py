"""Compressed models to `.mtq` bytes and back (docs/format.md). Reading trusts nothing; writing is atomic."""

from __future__ import annotations

import math
import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metaq import _native, coding, planes
from metaq.assign import check_symbols, reconstruct
from metaq.errors import FormatError, InputError
from metaq.header import (
    MAX_HEADER_BYTES,
    MAX_SYMBOLS_PER_BYTE,
    ChunkEntry,
    Header,
    HeaderParser,
    TensorEntry,
    block_shape,
    pack,
    varint,
)
from metaq.pipeline import Alias, CodedTensor, CompressedModel, check_model

MAGIC = b"MTQ"
VERSION = 1
CHUNK_SYMBOLS = 1 << 22  # large enough for adaptive coders to have learned, small enough to spread over threads
PIECE_SYMBOLS = 1 << 18  # turned into values at a time, so that temporary tensors stay small

Blocks = list[np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """Whole rows of one tensor (or of one byte plane of it) within a chunk."""

    tensor: int
    plane: int | None
    first_row: int
    shape: tuple[int, int, int]


def runs(tensors: Sequence[TensorEntry]) -> Iterator[Run]:
    """The symbol sequence, one run for each coded tensor and each plane of a kept one."""
    owned = [(index, entry) for index, entry in enumerate(tensors) if entry.target is None and entry.size]
    for index, entry in owned:
        if entry.codebook is not None:
            yield Run(index, None, 0, block_shape(entry.shape))
    for plane in range(8):
        for index, entry in owned:
            if entry.codebook is None and plane < entry.dtype.itemsize:
                yield Run(index, plane, 0, block_shape(entry.shape))


def encode(model: CompressedModel, coder: str = "mixing") -> bytes:
    """A whole `.mtq` file.

    Args:
        coder: name of the coder for symbols; a chunk that it would not make smaller is stored.

    Raises:
        InputError: an unknown coder, or a tensor, a name or metadata that no file can hold.
    """
    chosen, stored = coding.by_name(coder), coding.by_name("stored")
    check_model(model)
    entries, symbols = _entries(model)

    def encode_chunk(chunk: list[Run]) -> tuple[ChunkEntry, bytes]:
        blocks = [_rows(symbols(run), run) for run in chunk]
        is_noise = chunk[0].plane is not None and chunk[0].plane > 0 and _looks_random(blocks)
        candidates = [stored] if is_noise or chosen is stored else [chosen, stored]
        size = sum(block.size for block in blocks)
        payloads = [(candidate.encode(blocks), candidate.identifier) for candidate in candidates]
        readable = [item for item in payloads if size <= MAX_SYMBOLS_PER_BYTE * len(item[0])]
        payload, identifier = min(readable, key=lambda item: len(item[0]))
        return ChunkEntry(identifier, size, len(payload)), payload

    encoded = _in_threads(encode_chunk, list(_cut(runs(entries))))
    header = pack(Header(model.metadata, entries, [entry for entry, _ in encoded]))
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(f"header: expected at most {MAX_HEADER_BYTES} bytes in all, found {len(header)}")
    coded_header = _native.text_encode(header)
    out = bytearray(MAGIC + bytes([VERSION]) + varint(len(header)) + varint(len(coded_header)) + coded_header)
    out += struct.pack("<I", zlib.crc32(out))
    for _, payload in encoded:
        out += payload + struct.pack("<I", zlib.crc32(payload))
    return bytes(out)


def _entries(model: CompressedModel) -> tuple[list[TensorEntry], Callable[[Run], np.ndarray]]:
    """The header's tensor list, and a function from a run of it to the whole tensor's (or plane's) symbols."""
    positions = {name: index for index, name in enumerate(model.tensors)}
    entries: list[TensorEntry] = []
    sources: list[CodedTensor | Tensor | Alias] = list(model.tensors.values())
    for name, source in model.tensors.items():
        if isinstance(source, Alias):
            target = entries[positions[source.name]]
            entries.append(TensorEntry(name, target.dtype, target.shape, target=positions[source.name]))
        elif isinstance(source, CodedTensor):
            entries.append(TensorEntry(name, source.dtype, tuple(source.symbols.shape), source.codebook))
        else:
            entries.append(TensorEntry(name, source.dtype, tuple(source.shape)))
    split: dict[int, np.ndarray] = {}
    splitting = threading.Lock()

    def symbols(run: Run) -> np.ndarray:
        source = sources[run.tensor]
        if isinstance(source, CodedTensor):
            return source.symbols.cpu().contiguous().numpy().reshape(block_shape(entries[run.tensor].shape))
        assert isinstance(source, Tensor)
        assert run.plane is not None
        with splitting:
            if run.tensor not in split:
                split[run.tensor] = planes.split(source)
        plane: np.ndarray = split[run.tensor][run.plane]
        return plane.reshape(block_shape(entries[run.tensor].shape))

    return entries, symbols


def _rows(symbols: np.ndarray, run: Run) -> np.ndarray:
    return np.ascontiguousarray(symbols[run.first_row : run.first_row + run.shape[0]], dtype=np.int32)


def _cut(sequence: Iterator[Run]) -> Iterator[list[Run]]:
    """Chunks of about CHUNK_SYMBOLS symbols; one never mixes quantized weights and different planes."""
    chunk: list[Run] = []
    room = CHUNK_SYMBOLS
    for run in sequence:
        rows, channels, kernel = run.shape
        first = 0
        while first < rows:
            if chunk and (room < channels * kernel or chunk[0].plane != run.plane):
                yield chunk
                chunk, room = [], CHUNK_SYMBOLS
            taken = min(rows - first, max(1, room // (channels * kernel)))
            chunk.append(Run(run.tensor, run.plane, first, (taken, channels, kernel)))
            first += taken
            room -= taken * channels * kernel
    if chunk:
        yield chunk


def _looks_random(blocks: Blocks) -> bool:
    """Whether byte symbols hold so little redundancy that coding them would be time for nothing."""
    counts = np.sum([np.bincount(block.reshape(-1) + 128, minlength=256) for block in blocks], axis=0)
    shares = counts[counts > 0] / np.sum(counts)
    # The empirical entropy of few random bytes falls below 8 bits by about (256 - 1) / (2 n ln 2) bits.
    return float(-(shares * np.log2(shares)).sum()) > 7.9 - 184 / float(np.sum(counts))


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item], at_most: int | None = None) -> list[Result]:
    """`work` on every item, in order, on as many threads as there are cores, or fewer."""
    threads = min(len(items), os.cpu_count() or 1, at_most or len(items))
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


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
            with self._named():
                coding.by_identifier(chunk.coder)
            self.payload_offsets.append(offset)
            offset += chunk.payload_bytes + 4
        self.expect(offset == len(self.data), f"{offset} bytes", f"{len(self.data)}")

    def expect(self, holds: bool, expected: str, found: str) -> None:
        """Raise a FormatError unless ``holds``."""
        if not holds:
            raise FormatError(f"{self.name}: expected {expected}, found {found}")

    @contextmanager
    def _named(self, part: str = "") -> Iterator[None]:
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
        with self._named():
            size, coded_size = sizes.varint(), sizes.varint()
        self.expect(0 < size <= MAX_HEADER_BYTES, f"a header of 1 to {MAX_HEADER_BYTES} bytes", f"{size}")
        end = sizes.offset + coded_size
        self.expect(end + 4 <= len(self.data), f"at least {end + 4} bytes", f"{len(self.data)}; the file is truncated")
        (checksum,) = struct.unpack_from("<I", self.data, end)
        self.expect(zlib.crc32(self.data[:end]) == checksum, "a header that matches its checksum", "one that does not")
        fits = size <= MAX_SYMBOLS_PER_BYTE * coded_size
        self.expect(fits, f"a header that {coded_size} bytes can hold", f"{size} bytes")
        try:
            header = _native.text_decode(bytes(self.data[sizes.offset : end]), size)
        except ValueError as error:
            raise FormatError(f"{self.name}: expected a text-coded header, found it {error}") from None
        with self._named():
            return HeaderParser(header).parse(), end + 4

    def decode_chunk(self, index: int, shapes: Sequence[tuple[int, int, int]]) -> Blocks:
        """A chunk's blocks as int32 arrays.

        Raises:
            FormatError: the checksum does not match, or the payload is not what an encoder writes.
        """
        entry, offset = self.header.chunks[index], self.payload_offsets[index]
        payload = self.data[offset : offset + entry.payload_bytes]
        (checksum,) = struct.unpack_from("<I", self.data, offset + entry.payload_bytes)
        self.expect(zlib.crc32(payload) == checksum, f"chunk {index} to match its checksum", "one that does not")
        with self._named(f", chunk {index}"):
            return coding.by_identifier(entry.coder).decode(payload, shapes)

    def chunk_runs(self) -> list[list[Run]]:
        """The runs that each chunk covers.

        Raises:
            FormatError: a chunk ends inside a row.
        """
        covered: list[list[Run]] = []
        sequence = runs(self.header.tensors)
        run, first = next(sequence, None), 0
        for index, chunk in enumerate(self.header.chunks):
            left = chunk.symbols
            covered.append([])
            while left:
                assert run is not None  # the header's counts cover the sequence exactly
                rows, channels, kernel = run.shape
                taken = min(rows - first, left // (channels * kernel))
                self.expect(taken > 0, f"chunk {index} to end between rows", "an end inside one")
                covered[-1].append(Run(run.tensor, run.plane, first, (taken, channels, kernel)))
                left -= taken * channels * kernel
                first += taken
                if first == rows:
                    run, first = next(sequence, None), 0
        return covered

    def load(self) -> dict[str, Tensor]:
        """Every tensor under its name, in the file's order; aliases are the same tensor object."""
        return self._assemble(as_symbols=False)

    def model(self) -> CompressedModel:
        """The file's content still quantized: symbols and codebooks."""
        symbols = self._assemble(as_symbols=True)
        tensors: dict[str, CodedTensor | Tensor | Alias] = {}
        for entry in self.header.tensors:
            if entry.target is not None:
                tensors[entry.name] = Alias(self.header.tensors[entry.target].name)
            elif entry.codebook is not None:
                tensors[entry.name] = CodedTensor(symbols[entry.name], entry.codebook, entry.dtype)
            else:
                tensors[entry.name] = symbols[entry.name]
        return CompressedModel(tensors, self.header.metadata)

    def _assemble(self, as_symbols: bool) -> dict[str, Tensor]:
        """Decode every chunk and put its rows where they belong; coded tensors as int32 symbols or as their values."""
        owned = [(index, entry) for index, entry in enumerate(self.header.tensors) if entry.target is None]
        parts: dict[int, Tensor] = {}
        for index, entry in owned:
            shape = (entry.size,) if entry.codebook is not None else (entry.size, entry.dtype.itemsize)
            dtype = torch.uint8 if entry.codebook is None else torch.int32 if as_symbols else entry.dtype
            parts[index] = self._allocated(shape, dtype)

        def fill(index_and_runs: tuple[int, list[Run]]) -> None:
            index, chunk = index_and_runs
            for run, block in zip(chunk, self.decode_chunk(index, [run.shape for run in chunk]), strict=True):
                with self._named(f", tensor {self.header.tensors[run.tensor].name!r}"):
                    _put(block.reshape(-1), run, self.header.tensors[run.tensor], parts[run.tensor])

        # Blocks being decoded, of 4 bytes a symbol, take no more memory in all than what they decode to.
        decoded_bytes = sum(entry.size * entry.dtype.itemsize for _, entry in owned)
        largest = max((chunk.symbols for chunk in self.header.chunks), default=1)
        _in_threads(fill, list(enumerate(self.chunk_runs())), at_most=max(1, decoded_bytes // (4 * largest)))
        out: dict[str, Tensor] = {}
        for index, entry in enumerate(self.header.tensors):
            if entry.target is not None:
                out[entry.name] = out[self.header.tensors[entry.target].name]
            elif entry.codebook is not None:
                out[entry.name] = parts[index].reshape(entry.shape)
            else:
                out[entry.name] = planes.join(parts[index].numpy(), entry.dtype, entry.shape)
        return out

    def _allocated(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        try:
            return torch.empty(shape, dtype=dtype)
        except RuntimeError:
            size_bytes = math.prod(shape) * dtype.itemsize
            raise MemoryError(f"{self.name}: expected memory for a tensor of {size_bytes} bytes, found less") from None


def _put(symbols: np.ndarray, run: Run, entry: TensorEntry, whole: Tensor) -> None:
    """A run's symbols to where they belong in its tensor: as octets, as values, or as they are if that is int32."""
    start = run.first_row * run.shape[1] * run.shape[2]
    if run.plane is not None:
        if symbols.min() < -128 or symbols.max() > 127:
            raise FormatError("expected symbols of bytes, -128 to 127, found others")
        planes.place(whole.numpy(), run.plane, start, symbols)
        return
    assert entry.codebook is not None
    check_symbols(torch.from_numpy(symbols), entry.codebook, entry.dtype)
    for first in range(0, symbols.size, PIECE_SYMBOLS):
        piece = torch.from_numpy(symbols[first : first + PIECE_SYMBOLS])
        if whole.dtype != torch.int32:
            piece = reconstruct(piece, entry.codebook, entry.dtype)
        whole[start + first : start + first + piece.numel()] = piece


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: a temporary sibling, synced, then renamed over ``path``.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link stays, what it points to is written
    temporary = None
    try:
        if target.exists() and not target.is_file():
            found = "a directory" if target.is_dir() else "a device or pipe"
            raise InputError(f"{path}: expected a file to write, found {found}")
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".metaq-", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{path}: expected a writable place, found {error.strerror}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
        InputError: there is no such file, it is a directory, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error.strerror}") from None
