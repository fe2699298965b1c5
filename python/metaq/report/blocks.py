"""What reports take from a file: the symbols of its chunks, each decoded once, and a digest of its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from metaq.format import planes
from metaq.format.reader import Reader
from metaq.format.sequence import Run
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

    As many chunks of quantized weights as there are cores are decoded at a time; kept tensors are decoded all together.

    Raises:
        FormatError: a chunk is damaged.
    """
    sizes = [chunk.payload_bytes for chunk in reader.header.chunks]
    chunks = list(zip(sizes, reader.chunk_runs(), strict=True))
    coded = [chunk for chunk in chunks if chunk[1][0].plane is None]
    together = os.cpu_count() or 1
    for first in range(0, len(coded), together):
        some = coded[first : first + together]
        found = [[Block(run.tensor, False, np.empty(run.shape, np.int32)) for run in runs] for _, runs in some]
        wanted = [pair for (_, runs), parts in zip(some, found, strict=True) for pair in zip(runs, parts, strict=True)]
        requests = [(run.tensor, run.elements.start, part.symbols.size, part.symbols) for run, part in wanted]
        reader.fill(requests, as_symbols=True)
        yield from zip([size for size, _ in some], found, strict=True)
    yield from _plane_blocks(reader, chunks[len(coded) :])


def _plane_blocks(reader: Reader, chunks: list[tuple[int, list[Run]]]) -> Iterator[tuple[int, list[Block]]]:
    """Of the chunks of kept tensors, which are decoded whole and split into planes again."""
    entries = reader.header.tensors
    kept = sorted({run.tensor for _, runs in chunks for run in runs})
    words = {index: np.empty(entries[index].size, f"u{entries[index].dtype.itemsize}") for index in kept}
    reader.fill([(index, 0, memory.size, memory) for index, memory in words.items()])
    split = {index: planes.split(words.pop(index), entries[index].dtype.is_float) for index in kept}
    for size, runs in chunks:
        parts = [split[run.tensor][run.plane, run.elements.start : run.elements.stop] for run in runs]
        yield size, [Block(run.tensor, True, part) for run, part in zip(runs, parts, strict=True)]


def weights_digest(reader: Reader) -> str:
    """`metaq.metrics.digest` of all of a file's tensors, each of which is decoded; without torch.

    Raises:
        FormatError: a chunk is damaged.
    """
    sha, tensors = hashlib.sha256(), reader.load()
    for entry in reader.header.tensors:
        tensor = tensors[entry.name]
        sha.update(entry.name.encode("unicode_escape") + f"\0torch.{entry.dtype}\0{tensor.shape}\0".encode())
        sha.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def payload_bytes(reader: Reader) -> int:
    """Bytes of a file's chunks, checksums and header apart."""
    return sum(chunk.payload_bytes for chunk in reader.header.chunks)
