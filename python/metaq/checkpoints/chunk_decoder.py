"""`.mtq` files to `.safetensors` files, with a few chunks for each thread in memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metaq.files import open_bytes
from metaq.format.dtypes import Dtype, new_array
from metaq.format.network import Layout
from metaq.format.reader import Reader
from metaq.io.onnx import GRAPH
from metaq.io.safetensors import Put, write_pieces
from metaq.io.source import StoredTensor
from metaq.progress import Progress
from metaq.threads import StoppedError, stream


def decode_to_safetensors(
    reader: Reader, target: Path, threads: int, progress: Progress, stop: threading.Event | None = None
) -> None:
    """A `.mtq` file's tensors as a `.safetensors` file, whole or not at all.

    Raises:
        InputError: the place cannot be written.
        FormatError: the source is not a whole and unchanged `.mtq` file.
    """
    entries = reader.header.tensors
    owners = [index if entry.target is None else entry.target for index, entry in enumerate(entries)]
    names: dict[int, list[str]] = {}
    for owner, entry in zip(owners, entries, strict=True):
        if entry.name != GRAPH:
            names.setdefault(owner, []).append(entry.name)

    def fill(put: Put) -> None:
        def decode(wanted: dict[int, range]) -> None:
            if stop is not None and stop.is_set():
                raise StoppedError("stopped")
            size = 0
            for index, part in reader.elements(wanted, _new_memory).items():
                octets = part.view(np.uint8)
                for name in names.get(index, []):
                    put(name, wanted[index].start, octets)
                size += octets.size
            progress.advance(size, size)

        for _ in stream(decode, batches(reader), threads, stop):
            pass

    layouts = {
        entry.name: Layout(entry.dtype, entries[owner].shape)
        for owner, entry in zip(owners, entries, strict=True)
        if entry.name != GRAPH
    }
    write_pieces(target, layouts, reader.header.metadata, fill)


def batches(reader: Reader) -> Iterator[dict[int, range]]:
    """Ranges of tensors' elements that cover every one once, each batch those that begin in a chunk.

    Tensors that are scanned by columns are in one batch: all of their chunks have elements of every row.
    """
    entries = reader.header.tensors
    for chunk in reader.chunk_runs():
        wanted: dict[int, range] = {}
        for run in chunk:
            matrix = entries[run.tensor].matrix
            if matrix is not None and matrix.by_columns:
                if run.first_row == 0:
                    wanted[run.tensor] = range(entries[run.tensor].size)
            elif run.plane in (None, 0):
                wanted[run.tensor] = run.elements
        if wanted:
            yield wanted


def open_reader(path: Path) -> Reader:
    """A file, its header read and checked.

    Raises:
        InputError: it cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    return Reader(open_bytes(path), str(path))


def decoded_bytes(reader: Reader) -> int:
    """The size of a file's tensors, each counted once."""
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in reader.header.tensors if entry.target is None)


def stored_tensors(reader: Reader, with_graph: bool) -> dict[str, StoredTensor]:
    """All of a file's tensors in memory; second names share the first one's bytes.

    Args:
        with_graph: whether the tensor that holds an `.onnx` model without values is one of them.
    """
    memory = reader.load(_new_memory)
    octets = {id(array): array.reshape(-1).view(np.uint8) for array in memory.values()}
    tensors = {
        entry.name: StoredTensor(entry.dtype, memory[entry.name].shape, octets[id(memory[entry.name])])
        for entry in reader.header.tensors
    }
    return tensors if with_graph else {name: tensor for name, tensor in tensors.items() if name != GRAPH}


def _new_memory(dtype: Dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An array to be filled, of a dtype that NumPy itself has."""
    memory = new_array(dtype, shape)[1]
    return memory, memory
