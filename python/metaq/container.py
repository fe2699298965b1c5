"""Compressed models to `.mtq` bytes and back (docs/format.md). Reading trusts nothing; writing is atomic."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metaq import _native, coding, planes
from metaq.assign import reconstruct
from metaq.codebook import SYMBOL_LIMIT, IntegerCodebook
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
from metaq.pipeline import Alias, CodedTensor, CompressedModel

MAGIC = b"MTQ"
VERSION = 1
CHUNK_SYMBOLS = 1 << 22  # large enough for adaptive coders to have learned, small enough to spread over threads

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
        InputError: an unknown coder, or a tensor that no file can hold.
    """
    chosen, stored = coding.by_name(coder), coding.by_name("stored")
    entries, symbols = _entries(model)

    def encode_chunk(chunk: list[Run]) -> tuple[ChunkEntry, bytes]:
        blocks = [_rows(symbols(run), run) for run in chunk]
        is_noise = chunk[0].plane is not None and chunk[0].plane > 0 and _looks_random(blocks)
        candidates = [stored] if is_noise or chosen is stored else [chosen, stored]
        payloads = [(candidate.encode(blocks), candidate.identifier) for candidate in candidates]
        payload, identifier = min(payloads, key=lambda item: len(item[0]))
        return ChunkEntry(identifier, sum(block.size for block in blocks), len(payload)), payload

    encoded = _in_threads(encode_chunk, list(_cut(runs(entries))))
    header = pack(Header(model.metadata, entries, [entry for entry, _ in encoded]))
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(f"header: expected at most {MAX_HEADER_BYTES} bytes of names and metadata, found {len(header)}")
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

    def symbols(run: Run) -> np.ndarray:
        source = sources[run.tensor]
        if isinstance(source, CodedTensor):
            return source.symbols.contiguous().numpy().reshape(block_shape(entries[run.tensor].shape))
        assert isinstance(source, Tensor) and run.plane is not None
        if run.tensor not in split:
            split[run.tensor] = planes.split(source)
        return split[run.tensor][run.plane].reshape(block_shape(entries[run.tensor].shape))

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
    counts = sum(np.bincount(block.reshape(-1) + 128, minlength=256) for block in blocks)
    shares = counts[counts > 0] / np.sum(counts)
    # The empirical entropy of few random bytes falls below 8 bits by about (256 - 1) / (2 n ln 2) bits.
    return float(-(shares * np.log2(shares)).sum()) > 7.9 - 184 / float(np.sum(counts))


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on every item, in order, on as many threads as there are cores."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:
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
        self.data = memoryview(data)
        self.name = name
        self.header, offset = self._read_header()
        self.payload_offsets: list[int] = []
        for chunk in self.header.chunks:
            coding.by_identifier(chunk.coder)
            self.payload_offsets.append(offset)
            offset += chunk.payload_bytes + 4
        self.expect(offset == len(self.data), f"{offset} bytes", f"{len(self.data)}")

    def expect(self, holds: bool, expected: str, found: str) -> None:
        """Raise a FormatError unless ``holds``."""
        if not holds:
            raise FormatError(f"{self.name}: expected {expected}, found {found}")

    def _read_header(self) -> tuple[Header, int]:
        start = bytes(self.data[:32])
        self.expect(start[:3] == MAGIC, f"a .mtq file, which starts with {MAGIC!r}", f"{start[:3]!r}")
        self.expect(len(start) > 3, "a version byte", "the end of the file")
        self.expect(start[3] == VERSION, f"format version {VERSION}", f"version {start[3]}; a newer metaq may read it")
        sizes = HeaderParser(start)
        sizes.offset = 4
        size, coded_size = sizes.varint(), sizes.varint()
        self.expect(0 < size <= MAX_HEADER_BYTES, f"a header of 1 to {MAX_HEADER_BYTES} bytes", f"{size}")
        end = sizes.offset + coded_size
        self.expect(end + 4 <= len(self.data), f"at least {end + 4} bytes", f"{len(self.data)}; the file is truncated")
        (checksum,) = struct.unpack_from("<I", self.data, end)
        self.expect(zlib.crc32(self.data[:end]) == checksum, "a header that matches its checksum", "one that does not")
        self.expect(size <= MAX_SYMBOLS_PER_BYTE * coded_size, f"a header that {coded_size} bytes can hold", f"{size} bytes")
        try:
            header = _native.text_decode(bytes(self.data[sizes.offset : end]), size)
        except ValueError as error:
            raise FormatError(f"{self.name}: expected a text-coded header, found it {error}") from None
        try:
            return HeaderParser(header).parse(), end + 4
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from None

    def decode_chunk(self, index: int, shapes: Sequence[tuple[int, int, int]]) -> Blocks:
        """A chunk's blocks as int32 arrays.

        Raises:
            FormatError: the checksum does not match, or the payload is not what an encoder writes.
        """
        entry, offset = self.header.chunks[index], self.payload_offsets[index]
        payload = self.data[offset : offset + entry.payload_bytes]
        (checksum,) = struct.unpack_from("<I", self.data, offset + entry.payload_bytes)
        self.expect(zlib.crc32(payload) == checksum, f"chunk {index} to match its checksum", "one that does not")
        try:
            return coding.by_identifier(entry.coder).decode(payload, shapes)
        except FormatError as error:
            raise FormatError(f"{self.name}, chunk {index}: {error}") from None

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
        return self._assemble(lambda entry: torch.empty(entry.shape, dtype=entry.dtype), values)

    def model(self) -> CompressedModel:
        """The file's content still quantized: symbols and codebooks."""
        symbols = self._assemble(
            lambda entry: torch.empty(entry.shape, dtype=torch.int32), lambda _, decoded, __: decoded
        )
        tensors: dict[str, CodedTensor | Tensor | Alias] = {}
        for entry in self.header.tensors:
            if entry.target is not None:
                tensors[entry.name] = Alias(self.header.tensors[entry.target].name)
            elif entry.codebook is not None:
                tensors[entry.name] = CodedTensor(symbols[entry.name], entry.codebook, entry.dtype)
            else:
                tensors[entry.name] = symbols[entry.name]
        return CompressedModel(tensors, self.header.metadata)

    def _assemble(
        self,
        allocate: Callable[[TensorEntry], Tensor],
        convert: Callable[[TensorEntry, Tensor, str], Tensor],
    ) -> dict[str, Tensor]:
        """Decode every chunk and put its rows where they belong."""
        entries = self.header.tensors
        coded = {i: allocate(e) for i, e in enumerate(entries) if e.target is None and e.codebook is not None}
        kept = {
            i: np.empty((e.dtype.itemsize, e.size), np.int8)
            for i, e in enumerate(entries)
            if e.target is None and e.codebook is None
        }

        def fill(index_and_runs: tuple[int, list[Run]]) -> None:
            index, chunk = index_and_runs
            for run, block in zip(chunk, self.decode_chunk(index, [run.shape for run in chunk]), strict=True):
                row_size = run.shape[1] * run.shape[2]
                part = slice(run.first_row * row_size, run.first_row * row_size + block.size)
                where = f"{self.name}, tensor {entries[run.tensor].name!r}"
                flat = block.reshape(-1)
                if run.plane is not None:
                    self.expect(-128 <= flat.min() and flat.max() < 128, "bytes in planes", f"larger symbols in {where}")
                    kept[run.tensor][run.plane, part] = flat
                else:
                    coded[run.tensor].view(-1)[part] = convert(entries[run.tensor], torch.from_numpy(flat), where)

        _in_threads(fill, list(enumerate(self.chunk_runs())))
        out: dict[str, Tensor] = {}
        for index, entry in enumerate(entries):
            if entry.target is not None:
                out[entry.name] = out[entries[entry.target].name]
            elif entry.codebook is not None:
                out[entry.name] = coded[index]
            else:
                out[entry.name] = planes.join(kept.pop(index), entry.dtype, entry.shape)
        return out


def values(entry: TensorEntry, symbols: Tensor, where: str) -> Tensor:
    """Symbols to values of the entry's dtype, checked against its codebook and dtype."""
    assert entry.codebook is not None
    if symbols.numel() and int(symbols.abs().max()) >= SYMBOL_LIMIT:
        raise FormatError(f"{where}: expected symbols below 2^30, found {int(symbols.abs().max())}")
    if isinstance(entry.codebook, IntegerCodebook):
        limits = (0, 1) if entry.dtype == torch.bool else (torch.iinfo(entry.dtype).min, torch.iinfo(entry.dtype).max)
        if symbols.numel() and not limits[0] <= int(symbols.min()) <= int(symbols.max()) <= limits[1]:
            raise FormatError(f"{where}: expected integers within {limits[0]} ... {limits[1]}, found others")
    try:
        return reconstruct(symbols, entry.codebook, entry.dtype)
    except InputError as error:
        raise FormatError(f"{where}: {error}") from None


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: a temporary sibling, synced, then renamed over ``path``.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: expected a file to write, found a directory")
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: expected a writable place, found {error.strerror}") from None
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
