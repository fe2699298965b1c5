"""What reports take from a file: the symbols of its chunks, each decoded once, and a digest of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from metaq.format.header import TensorEntry
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.report.symbol_statistics import Symbols


class Block(NamedTuple):
    """Symbols of one tensor that lie in one chunk: a part of its quantized weights, or of a byte plane (``is_plane``).

    Of each tensor, the parts of its quantized weights come in row-major order.
    """

    tensor: int
    is_plane: bool
    symbols: Symbols


def blocks(reader: Reader) -> Iterator[tuple[int, list[Block]]]:
    """Of each chunk of a file, its payload's size in bytes, and its blocks, decoded when they are asked for.

    Raises:
        FormatError: a chunk is damaged.
    """
    for index, (chunk, runs) in enumerate(zip(reader.header.chunks, reader.chunk_runs(), strict=True)):
        decoded = reader.decode_chunk(index, [run.shape for run in runs])
        found = [Block(run.tensor, run.plane is not None, part) for run, part in zip(runs, decoded, strict=True)]
        yield chunk.payload_bytes, found


def weights_digest(reader: Reader) -> str:
    """`metaq.metrics.digest` of all of a file's tensors, each of which is decoded.

    Raises:
        FormatError: a chunk is damaged.
    """
    return digest(reader.load())


def payload_bytes(reader: Reader) -> int:
    """Bytes of a file's chunks, checksums and header apart."""
    return sum(chunk.payload_bytes for chunk in reader.header.chunks)


def dtype_name(entry: TensorEntry) -> str:
    """A tensor's dtype without the library that it is of."""
    return str(entry.dtype).removeprefix("torch.")


def is_float(entry: TensorEntry) -> bool:
    """Whether a tensor is of floating point."""
    return dtype_name(entry).startswith(("float", "bfloat"))
