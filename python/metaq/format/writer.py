"""Compressed models to `.mtq` bytes (docs/format.md)."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from torch import Tensor

from metaq import coding
from metaq.coding import SYMBOLS_PER_BYTE, text
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, check_model
from metaq.errors import InputError
from metaq.format import planes
from metaq.format.header import (
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    ChunkEntry,
    Header,
    TensorEntry,
    block_shape,
    pack,
    varint,
)
from metaq.format.sequence import Run, cut_for, runs
from metaq.threads import in_threads

Blocks = list[np.ndarray]
_PART = 1 << 18  # symbols counted at a time, so that temporary arrays stay small
Item = TypeVar("Item")
Result = TypeVar("Result")


def encode(model: CompressedModel, coder: str = "mixing") -> bytes:
    """A whole `.mtq` file.

    Args:
        coder: name of the coder for symbols; a chunk that it would not make smaller is stored, and the bytes of kept
            tensors take rANS instead where they are smaller by it than by mixing, or would be coded by adaptive.

    Raises:
        InputError: an unknown coder, or a tensor, a name or metadata that no file can hold.
    """
    coding.by_name(coder)
    check_model(model)
    entries, symbols = _entries(model)

    def encode_runs(chunk: list[Run]) -> tuple[ChunkEntry, bytes]:
        return encode_chunk(chunk, [_rows(symbols(run), run) for run in chunk], coder)

    encoded = in_threads(encode_runs, list(cut_for(coder, runs(entries))))
    out = bytearray(encode_header(Header(model.metadata, entries, [entry for entry, _ in encoded])))
    for _, payload in encoded:
        out += sealed(payload)
    return bytes(out)


def encode_chunk(chunk: list[Run], blocks: Blocks, coder: str) -> tuple[ChunkEntry, bytes]:
    """A chunk's entry in the header, and its payload.

    Args:
        chunk: the runs that it covers.
        blocks: int32 symbols of each run, in its shape.
        coder: as in `encode`.
    """
    candidates = [coding.by_name(name) for name in _candidates(chunk[0].plane, blocks, coder)]
    size = sum(block.size for block in blocks)
    payloads = [(candidate.encode(blocks), candidate.identifier) for candidate in candidates]
    readable = [item for item in payloads if size <= SYMBOLS_PER_BYTE * len(item[0])]
    payload, identifier = min(readable, key=lambda item: len(item[0]))
    return ChunkEntry(identifier, size, len(payload)), payload


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
    coded = text.encode(packed)
    return sealed(MAGIC + bytes([VERSION]) + varint(len(packed)) + varint(len(coded)) + coded)


def sealed(data: bytes) -> bytes:
    """Bytes, and their checksum behind them."""
    return data + struct.pack("<I", zlib.crc32(data))


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


def _looks_random(blocks: Blocks) -> bool:
    """Whether byte symbols hold so little redundancy that coding them would be time for nothing."""
    flat = [block.reshape(-1) for block in blocks]
    parts = [block[first : first + _PART] for block in flat for first in range(0, block.size, _PART)]
    counts = np.sum([np.bincount(part + 128, minlength=256) for part in parts], axis=0)
    shares = counts[counts > 0] / np.sum(counts)
    # The empirical entropy of few random bytes falls below 8 bits by about (256 - 1) / (2 n ln 2) bits.
    return float(-(shares * np.log2(shares)).sum()) > 7.8 - 184 / float(np.sum(counts))
