"""Large `.safetensors` files to `.mtq` files and back, with a few chunks for each thread in memory."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaq.assign import nearest, reconstruct
from metaq.checkpoints.plan import Fate, Treatment
from metaq.codebook import Codebook, IntegerCodebook, UniformCodebook
from metaq.coding import SYMBOL_LIMIT
from metaq.files import atomic_file, forget_pages
from metaq.format import planes
from metaq.format.header import ChunkEntry, Header, TensorEntry
from metaq.format.reader import Reader
from metaq.format.sequence import Run, cut_for, runs
from metaq.format.writer import encode_chunk, encode_header, sealed
from metaq.io.onnx import GRAPH
from metaq.io.safetensors import Put, SafetensorsFile, write_pieces
from metaq.progress import Progress
from metaq.quantizers import rdoq, trellis
from metaq.quantizers.rounding import round_as_float16
from metaq.tensors import DTYPES, FORMAT_DTYPES, new_tensor, words_of
from metaq.threads import StoppedError, stream

Books = Mapping[str, UniformCodebook]


PIECE_SYMBOLS = 1 << 18  # turned into symbols at a time, so that temporary tensors stay small


@dataclass(frozen=True)
class Sums:
    """Of quantized weights: ``Σ(w - ŵ)²`` and the bits they take; and the size of the file, 0 if none was written."""

    squared_error: float = 0.0
    bits: float = 0.0
    size_bytes: int = 0

    def __add__(self, other: Sums) -> Sums:
        squared_error, bits = self.squared_error + other.squared_error, self.bits + other.bits
        return Sums(squared_error, bits, self.size_bytes + other.size_bytes)


@dataclass(frozen=True)
class _Coded:
    """What has become of a chunk."""

    entry: ChunkEntry
    payload: bytes
    sums: Sums


class StreamEncoder:
    """A `.safetensors` file, of whose tensors it is known what becomes of them.

    Args:
        coder: name of the coder for symbols.
        is_nearest: every weight on the nearest level, whatever it costs in bits.
        stop: given up, with a StoppedError, as soon as this is set.
    """

    def __init__(
        self,
        file: SafetensorsFile,
        treatments: Mapping[str, Treatment],
        coder: str,
        is_nearest: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self.file, self.treatments, self.coder, self.is_nearest = file, treatments, coder, is_nearest
        self.stop = stop or threading.Event()

    def encode(self, path: Path, books: Books, threads: int, progress: Progress) -> Sums:
        """Write a `.mtq` file, whole or not at all.

        Args:
            books: codebooks of the quantized tensors.

        Raises:
            InputError: the source cannot be read any more, or the place cannot be written.
        """
        sums, chunks = Sums(), []
        entries = [self._entry(name, books) for name in self.file.tensors]
        with atomic_file(path) as file, tempfile.TemporaryFile(dir=path.parent) as payloads:
            for coded in self._coded(entries, books, threads, progress):
                sums += coded.sums
                chunks.append(coded.entry)
                payloads.write(sealed(coded.payload))
            file.write(encode_header(Header(self.file.metadata, entries, chunks)))
            payloads.seek(0)
            shutil.copyfileobj(payloads, file, 1 << 20)
            return sums + Sums(size_bytes=file.tell())

    def measure(self, names: list[str], books: Books, threads: int, progress: Progress) -> Sums:
        """What some quantized tensors by themselves would come to; nothing is written."""
        entries = [self._entry(name, books) for name in names]
        return sum((coded.sums for coded in self._coded(entries, books, threads, progress)), Sums())

    def _entry(self, name: str, books: Books) -> TensorEntry:
        found = self.treatments[name]
        codebook: Codebook | None = None
        if found.fate is Fate.QUANTIZED:
            codebook = books[name]
        elif found.fate is Fate.INTEGERS:
            codebook = IntegerCodebook()
        elif found.levels is not None:
            codebook = found.levels.codebook
        dtype, shape = self.file.tensors[name]
        return TensorEntry(name, FORMAT_DTYPES[dtype], shape, codebook)

    def _coded(self, entries: list[TensorEntry], books: Books, threads: int, progress: Progress) -> Iterator[_Coded]:
        def code(chunk: list[Run]) -> _Coded:
            if self.stop.is_set():
                raise StoppedError("stopped")
            blocks, sums = self._blocks(chunk, entries, books)
            entry, payload = encode_chunk(chunk, blocks, self.coder)
            of_weights = sum(len(run.elements) for run in chunk if self._is_quantized(entries[run.tensor]))
            sums += Sums(bits=8 * len(payload) * of_weights / entry.symbols)
            widths = [1 if run.plane is not None else entries[run.tensor].dtype.itemsize for run in chunk]
            size = sum(width * len(run.elements) for width, run in zip(widths, chunk, strict=True))
            progress.advance(size, len(payload))
            return _Coded(entry, payload, sums)

        return stream(code, cut_for(self.coder, runs(entries)), threads, self.stop)

    def _is_quantized(self, entry: TensorEntry) -> bool:
        return self.treatments[entry.name].fate is Fate.QUANTIZED

    def _blocks(self, chunk: list[Run], entries: list[TensorEntry], books: Books) -> tuple[list[np.ndarray], Sums]:
        """The int32 symbols of a chunk's runs."""
        weights: dict[str, Tensor] = {}
        blocks = []
        for run in chunk:
            name = entries[run.tensor].name
            if not self.is_nearest and self._is_quantized(entries[run.tensor]):
                weights[name] = self.file.read(name, run.elements).reshape(run.shape)
                blocks.append(np.empty(0, np.int32))
                continue
            block = np.empty(len(run.elements), np.int32)
            for first in range(0, block.size, PIECE_SYMBOLS):
                part = self.file.read(name, run.elements[first : first + PIECE_SYMBOLS])
                block[first : first + PIECE_SYMBOLS] = self._symbols(name, part, run.plane, books)
            blocks.append(block.reshape(run.shape))
        if not weights:
            return blocks, Sums()
        symbols, sums = quantize(weights, books, self.coder)
        names = [entries[run.tensor].name for run in chunk]
        return [
            symbols[name].numpy() if name in symbols else block for name, block in zip(names, blocks, strict=True)
        ], sums

    def _symbols(self, name: str, part: Tensor, plane: int | None, books: Books) -> np.ndarray:
        """Those of some elements, each for itself."""
        found, symbols = self.treatments[name], part
        if found.levels is not None:
            return found.levels.symbols(words_of(part))
        if plane is not None:
            kept = round_as_float16(part) if found.fate is Fate.ROUNDED else part
            of_plane: np.ndarray = planes.split(words_of(kept), part.dtype.is_floating_point)[plane]
            return of_plane
        if found.fate is Fate.QUANTIZED:
            symbols = _within(nearest(part, books[name]), books[name], part.dtype)
        integers: np.ndarray = symbols.numpy()
        return integers


def quantize(weights: Mapping[str, Tensor], books: Books, coder: str) -> tuple[dict[str, Tensor], Sums]:
    """Symbols of tensors that are in memory, and their error."""
    of_weights = {name: books[name] for name in weights}
    if coder in trellis.CODERS:
        symbols = trellis.quantize(weights, of_weights)
    else:
        symbols, _ = rdoq.quantize(weights, of_weights)
    error = 0.0
    for name, tensor in weights.items():
        found, exact = _within(symbols[name], books[name], tensor.dtype).view(-1), tensor.reshape(-1)
        for first in range(0, exact.numel(), PIECE_SYMBOLS):
            part = slice(first, first + PIECE_SYMBOLS)
            missed = exact[part].double() - reconstruct(found[part], books[name], tensor.dtype).double()
            error += float(missed.square().sum())
    return symbols, Sums(error)


def _within(symbols: Tensor, codebook: UniformCodebook, dtype: torch.dtype) -> Tensor:
    """Symbols, changed in place so that none stands for more than the dtype's largest value."""
    most = int(min(SYMBOL_LIMIT - 1, torch.finfo(dtype).max / codebook.step))
    return symbols.clamp_(-most, most)


def decode_to_safetensors(
    reader: Reader, target: Path, threads: int, progress: Progress, stop: threading.Event | None = None
) -> None:
    """A `.mtq` file's tensors as a `.safetensors` file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
        FormatError: a chunk of the source is damaged.
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
            for index, part in reader.elements(wanted, new_tensor).items():
                for name in names.get(index, []):
                    put(name, wanted[index].start, part)
                size += part.numel() * part.dtype.itemsize
            forget_pages(reader.data)
            progress.advance(size, size)

        for _ in stream(decode, batches(reader), threads, stop):
            pass

    layout = {
        entry.name: (DTYPES[entry.dtype], entries[owner].shape)
        for owner, entry in zip(owners, entries, strict=True)
        if entry.name != GRAPH
    }
    write_pieces(target, layout, reader.header.metadata, fill)


def batches(reader: Reader) -> Iterator[dict[int, range]]:
    """Ranges of tensors' elements that cover every one once, each batch those that begin in a chunk."""
    for chunk in reader.chunk_runs():
        wanted = {run.tensor: run.elements for run in chunk if run.plane in (None, 0)}
        if wanted:
            yield wanted


def decoded_bytes(reader: Reader) -> int:
    """The size of a `.mtq` file's tensors, each counted once."""
    entries = reader.header.tensors
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries if entry.target is None)
