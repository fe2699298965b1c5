"""What reports take from a file: the symbols of its chunks, each decoded once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from metaq.coding import DIFFERENCE
from metaq.format.reader import Reader
from metaq.report.symbol_statistics import Symbols
from metaq.threads import stream


class Block(NamedTuple):
    """Symbols of one tensor that lie in one chunk: a part of its quantized weights, or of a byte plane (``is_plane``).

    Changes of a base are no symbols: their blocks are empty. Of each tensor, the parts of its quantized weights come in
    the order in which coders see them: row by row, or column by column.
    """

    tensor: int
    is_plane: bool
    symbols: Symbols


def blocks(reader: Reader) -> Iterator[tuple[int, list[Block]]]:
    """For each chunk of a file, the size of its payload in bytes, and its blocks, decoded when they are asked for.

    Raises:
        FormatError: a chunk is damaged.
    """

    def decode(chunk: int) -> list[Symbols]:
        is_of_changes = chunks[chunk][0].coder == DIFFERENCE
        return [np.zeros(0, np.int8)] if is_of_changes else reader.decode_chunk(chunk)

    chunks = list(zip(reader.header.chunks, reader.chunk_runs(), strict=True))
    decoded = stream(decode, range(len(chunks)), os.cpu_count() or 1)
    for (chunk, runs), parts in zip(chunks, decoded, strict=True):
        found = [Block(run.tensor, run.plane is not None, part) for run, part in zip(runs, parts, strict=True)]
        yield chunk.payload_bytes, found


def payload_bytes(reader: Reader) -> int:
    """Bytes of a file's chunks, checksums and header apart."""
    return sum(chunk.payload_bytes for chunk in reader.header.chunks)
