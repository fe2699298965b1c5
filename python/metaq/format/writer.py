"""Symbols and words of tensors to `.mtq` bytes (docs/format.md)."""

from __future__ import annotations

import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metaq import _native, coding
from metaq.coding import SYMBOLS_PER_BYTE
from metaq.coding import text as text_coder
from metaq.errors import InputError
from metaq.format import planes
from metaq.format.header import (
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    ChunkEntry,
    Header,
    TensorEntry,
    pack,
    varint,
)
from metaq.format.sequence import CHANGES, MAX_CHUNK_SYMBOLS, RowRun, cut_for, runs, scanned
from metaq.threads import in_threads

Blocks = list[np.ndarray]


class Source(NamedTuple):
    """A tensor to be written: its entry, and what it holds.

    ``content`` are the int32 symbols of a coded tensor in its shape, all of which stand for something; the elements'
    bits of a kept one as unsigned integers, in one dimension; nothing of an alias. ``elements`` gives, of those that a
    changed tensor has in common with the base's, the bytes of the base's and the new ones; how many differ is counted.
    """

    entry: TensorEntry
    content: np.ndarray | None
    elements: Callable[[range], tuple[np.ndarray, np.ndarray]] | None = None


def encode(
    sources: Sequence[Source],
    metadata: Mapping[str, str],
    coder: str,
    base: str | None = None,
    chunk_symbols: int | None = None,
) -> bytes:
    """A whole `.mtq` file.

    Args:
        coder: name of the coder for symbols; a chunk that it would not make smaller is stored, and the bytes of kept
            tensors take rANS instead where they are smaller by it than by mixing, or would be coded by adaptive.
        base: of a difference, the checksum of its base (`metaq.format.base_checksum`).
        chunk_symbols: about how many symbols a chunk has, but for changes; by default as many as suit the coder.

    Raises:
        InputError: an unknown coder, chunks that a file cannot have, names or metadata that are no text, or more of
            either than a file may have.
    """
    coding.by_name(coder)
    if chunk_symbols is not None and not 1 <= chunk_symbols <= MAX_CHUNK_SYMBOLS:
        raise InputError(f"chunk_symbols: expected 1 to 2^26, found {chunk_symbols}")
    entries = [source.entry for source in sources]
    check_texts([*metadata.keys(), *metadata.values(), *(entry.name for entry in entries)])
    split: dict[int, np.ndarray] = {}
    splitting = threading.Lock()

    def symbols(run: RowRun) -> np.ndarray:
        """The symbols of a run, of the tensor or of one of its planes."""
        entry, content, _ = sources[run.tensor]
        assert content is not None  # runs are not of aliases
        if run.plane is not None:
            with splitting:
                if run.tensor not in split:
                    split[run.tensor] = planes.split(content, entry.dtype.is_float)
            content = split[run.tensor][run.plane]
        return scanned(content, run, entry.matrix)

    def encode_runs(chunk: list[RowRun]) -> tuple[ChunkEntry, bytes, int]:
        if chunk[0].plane == CHANGES:
            return encode_changes(chunk[0], sources[chunk[0].tensor])
        return (*encode_chunk(chunk, [symbols(run) for run in chunk], coder), 0)

    chunks = list(cut_for(coder, runs(entries), chunk_symbols))
    encoded = in_threads(encode_runs, chunks)
    differing = Counter[int]()
    for (run, *_), (_, _, count) in zip(chunks, encoded, strict=True):
        differing[run.tensor] += count
    for tensor, entry in enumerate(entries):
        if entry.change is not None and entry.target is None:
            entries[tensor] = entry._replace(change=entry.change._replace(differing=differing[tensor]))
    out = bytearray(encode_header(Header(dict(metadata), entries, [entry for entry, _, _ in encoded], base)))
    for _, payload, _ in encoded:
        out += sealed(payload)
    return bytes(out)


def check_texts(texts: Sequence[str]) -> None:
    """Raise an InputError for names and metadata that no file can hold."""
    for text in texts:
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError):
            raise InputError(f"names and metadata: expected Unicode text, found {text!r}") from None


def encode_chunk(chunk: list[RowRun], blocks: Blocks, coder: str) -> tuple[ChunkEntry, bytes]:
    """A chunk's entry in the header, and its payload.

    Args:
        chunk: the runs that it covers.
        blocks: symbols of each run, int32, or int8 of planes, in its shape.
        coder: as in `encode`.
    """
    are_bytes = all(block.dtype == np.int8 for block in blocks)
    if not are_bytes:
        blocks = [block.astype(np.int32, copy=False) for block in blocks]
    size = sum(block.size for block in blocks)
    best: tuple[bytes, int] | None = None
    for candidate in map(coding.by_name, _candidates(chunk[0].plane, blocks, coder)):
        if best and candidate.name == "stored" and coding.Stored.size_bytes(blocks) >= len(best[0]):
            continue
        payload = candidate.encode_bytes(blocks) if are_bytes else candidate.encode(blocks)
        if size <= SYMBOLS_PER_BYTE * len(payload) and (best is None or len(payload) < len(best[0])):
            best = payload, candidate.identifier
    assert best is not None  # the stored form is long enough
    return ChunkEntry(best[1], size, len(best[0])), best[0]


def encode_changes(run: RowRun, source: Source) -> tuple[ChunkEntry, bytes, int]:
    """Of a chunk of elements that a tensor has in common with the base's: entry, payload, and how many differ."""
    assert source.elements is not None
    payload, differing = _native.difference_encode(*source.elements(run.elements), source.entry.dtype.code)
    return ChunkEntry(coding.DIFFERENCE, len(run.elements), len(payload)), payload, differing


def _candidates(plane: int | None, blocks: Blocks, coder: str) -> list[str]:
    """Names of the coders to try on a chunk of weights, or of a plane of kept tensors."""
    if plane is None:
        return list(dict.fromkeys([coder, "stored"]))
    if plane > 0 and _looks_random(blocks):
        return ["stored"]
    return list(dict.fromkeys([*coding.by_name(coder).plane_coders, "stored"]))


def encode_header(header: Header) -> bytes:
    """All of a file before its first payload.

    Raises:
        InputError: there is more than a file may have.
    """
    packed = pack(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise InputError(f"header: expected at most {MAX_HEADER_BYTES} bytes in all, found {len(packed)}")
    coded = text_coder.encode(packed)
    return sealed(MAGIC + bytes([VERSION]) + varint(len(packed)) + varint(len(coded)) + coded)


def sealed(data: bytes) -> bytes:
    """Bytes, and their checksum behind them."""
    return data + struct.pack("<I", zlib.crc32(data))


def _looks_random(blocks: Blocks) -> bool:
    """Whether byte symbols hold so little redundancy that coding them would be time for nothing."""
    counts = np.zeros(256, np.uint64)
    of_block = np.empty_like(counts)
    for block in blocks:
        _native.count_numbers(block.reshape(-1).astype(np.int8, copy=False).view(np.uint8), of_block)
        counts += of_block
    counts = np.roll(counts, 128)  # by increasing symbol
    shares = counts[counts > 0] / np.sum(counts)
    # The empirical entropy of few random bytes falls below 8 bits by about (256 - 1) / (2 n ln 2) bits.
    return float(-(shares * np.log2(shares)).sum()) > 7.8 - 184 / float(np.sum(counts))
