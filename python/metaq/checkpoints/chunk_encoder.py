"""The tensors of one source to a `.mtq` file, a chunk at a time on each thread."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaq.checkpoints.tensor_plan import PIECE_ELEMENTS, Storage, TensorPlan
from metaq.checkpoints.weight_quantizer import Codebooks, WeightQuantizer, squared_error
from metaq.codebook import Codebook, IntegerCodebook
from metaq.files import atomic_file
from metaq.format import planes
from metaq.format.header import ChunkEntry, Header, TensorEntry
from metaq.format.sequence import RowRun, cut_for, runs
from metaq.format.writer import encode_chunk, encode_header, sealed
from metaq.io.source import TensorSource
from metaq.progress import Progress
from metaq.quantizers.rounding import round_as_float16
from metaq.tensors import words_of
from metaq.threads import StoppedError, stream

_FEW = 1 / 256  # of a chunk's symbols: so few others hardly change what its weights take


@dataclass(frozen=True)
class Totals:
    """What compression came to.

    Attributes:
        squared_error: ``Σ(w - ŵ)²`` over the quantized weights.
        bits: what these weights take; 0 where nothing was coded.
        size_bytes: of the file; 0 where nothing was coded.
    """

    squared_error: float = 0.0
    bits: float = 0.0
    size_bytes: int = 0

    def __add__(self, other: Totals) -> Totals:
        squared_error, bits = self.squared_error + other.squared_error, self.bits + other.bits
        return Totals(squared_error, bits, self.size_bytes + other.size_bytes)


@dataclass(frozen=True)
class _Chunk:
    """What has become of a chunk so far: quantized, and coded once there is an entry.

    Attributes:
        totals: what it adds to those of the source, the file's size apart.
        blocks: int32 symbols of its runs; None once they are no longer needed.
    """

    totals: Totals
    blocks: list[np.ndarray] | None
    entry: ChunkEntry | None = None
    payload: bytes = b""


class ChunkEncoder:
    """A source, of whose tensors it is known how they will be held.

    Args:
        plans: by name, of all but second names.
        stop: work is given up, with a StoppedError, as soon as this is set.
        remembers: whether to keep chunks of coded tensors, so that what was measured need not be done again. Takes
            about six bytes a weight.
    """

    def __init__(
        self,
        source: TensorSource,
        plans: Mapping[str, TensorPlan],
        quantizer: WeightQuantizer,
        stop: threading.Event,
        remembers: bool = False,
    ) -> None:
        self.source, self.plans, self.quantizer = source, plans, quantizer
        self.stop, self.remembers = stop, remembers
        self._remembered: dict[int, _Chunk] = {}
        self._codebooks: dict[str, Codebook] = {}

    def write(self, path: Path, codebooks: Codebooks, threads: int, progress: Progress) -> Totals:
        """Write a `.mtq` file, whole or not at all.

        Args:
            codebooks: of the quantized tensors.

        Raises:
            InputError: the source cannot be read any more, or the place cannot be written.
        """
        totals, chunks = Totals(), []
        with atomic_file(path) as file, tempfile.TemporaryFile(dir=path.parent) as payloads:
            for chunk in self._work(codebooks, threads, progress, is_coded=True):
                totals += chunk.totals
                chunks.append(chunk.entry)
                payloads.write(sealed(chunk.payload))
            file.write(self._header(codebooks, chunks))
            payloads.seek(0)
            shutil.copyfileobj(payloads, file, 1 << 20)
            return replace(totals, size_bytes=file.tell())

    def measure(self, codebooks: Codebooks, threads: int, progress: Progress, is_coded: bool) -> Totals:
        """What the file would come to; unless ``is_coded``, only the error."""
        totals, chunks, size = Totals(), [], 0
        for chunk in self._work(codebooks, threads, progress, is_coded):
            totals += chunk.totals
            chunks.append(chunk.entry)
            size += len(sealed(chunk.payload))
        return replace(totals, size_bytes=size + len(self._header(codebooks, chunks))) if is_coded else totals

    def measure_some(self, names: list[str], codebooks: Codebooks, threads: int, progress: Progress) -> Totals:
        """What some quantized tensors by themselves would come to, their headers apart."""
        entries = [self._entry(name, codebooks) for name in names]
        chunks = list(cut_for(self.quantizer.coder, runs(entries)))

        def code(chunk: list[RowRun]) -> Totals:
            return self._coded(chunk, self._quantized(chunk, entries, codebooks), entries, progress).totals

        return sum(stream(code, chunks, threads, self.stop), Totals())

    def symbols(self, codebooks: Codebooks, threads: int, progress: Progress) -> dict[str, tuple[Tensor, Codebook]]:
        """int32 symbols, in the tensors' shapes, and levels of all tensors that are not held in planes."""
        entries, chunks = self._entries(codebooks), self._chunks
        found = {
            entry.name: (torch.empty(entry.shape, dtype=torch.int32), entry.codebook)
            for entry in entries
            if entry.codebook is not None and entry.target is None
        }
        of_symbols = [index for index, chunk in enumerate(chunks) if chunk[0].plane is None]
        for index, outcome in zip(of_symbols, self._work(codebooks, threads, progress, False, of_symbols), strict=True):
            assert outcome.blocks is not None
            self._remembered.pop(index, None)  # or memory would hold all symbols twice
            for run, block in zip(chunks[index], outcome.blocks, strict=True):
                place = run.elements
                whole = found[entries[run.tensor].name][0]
                whole.view(-1)[place.start : place.stop] = torch.from_numpy(block.reshape(-1))
        return found

    @cached_property
    def _chunks(self) -> list[list[RowRun]]:
        return list(cut_for(self.quantizer.coder, runs(self._entries(None))))

    def _entries(self, codebooks: Codebooks | None) -> list[TensorEntry]:
        """Of the whole file; without codebooks, with some in place of those of quantized tensors."""
        places = {name: index for index, name in enumerate(self.source.layouts)}
        entries: list[TensorEntry] = []
        for name, (dtype, shape) in self.source.layouts.items():
            if name in self.source.aliases:
                entries.append(TensorEntry(name, dtype, shape, target=places[self.source.aliases[name]]))
            else:
                entries.append(self._entry(name, codebooks))
        return entries

    def _entry(self, name: str, codebooks: Codebooks | None) -> TensorEntry:
        plan, (dtype, shape) = self.plans[name], self.source.layouts[name]
        codebook: Codebook | None = None
        if plan.storage is Storage.QUANTIZED:
            codebook = IntegerCodebook() if codebooks is None else codebooks[name]
        elif plan.storage is Storage.INTEGERS:
            codebook = IntegerCodebook()
        elif plan.levels is not None:
            codebook = plan.levels.codebook
        return TensorEntry(name, dtype, shape, codebook)

    def _header(self, codebooks: Codebooks, chunks: list[ChunkEntry | None]) -> bytes:
        coded = [chunk for chunk in chunks if chunk is not None]
        return encode_header(Header(dict(self.source.metadata), self._entries(codebooks), coded))

    def _work(
        self,
        codebooks: Codebooks,
        threads: int,
        progress: Progress,
        is_coded: bool,
        indices: list[int] | None = None,
    ) -> Iterator[_Chunk]:
        """Chunks in order, all or those of some places, quantized and, if wanted, coded."""
        if self._codebooks != codebooks:
            self._remembered.clear()
            self._codebooks = dict(codebooks)
        entries, chunks = self._entries(codebooks), self._chunks

        def work(index: int) -> _Chunk:
            if self.stop.is_set():
                raise StoppedError("stopped")
            found = self._remembered.get(index)
            chunk, is_plane = chunks[index], chunks[index][0].plane is not None
            if found is None:
                if is_plane and not is_coded:
                    return _Chunk(Totals(), None)
                found = self._quantized(chunk, entries, codebooks)
            if is_coded and found.entry is None:
                found = self._coded(chunk, found, entries, progress)
            elif not is_coded:
                progress.advance(self._size_bytes(chunk, entries), 0)
            if self.remembers and not is_plane:
                self._remembered[index] = found
                return found
            return replace(found, blocks=None)

        yield from stream(work, range(len(chunks)) if indices is None else indices, threads, self.stop)

    def _coded(self, chunk: list[RowRun], found: _Chunk, entries: list[TensorEntry], progress: Progress) -> _Chunk:
        assert found.blocks is not None
        entry, payload = encode_chunk(chunk, found.blocks, self.quantizer.coder)
        progress.advance(self._size_bytes(chunk, entries), len(payload))
        bits = self._bits_of_weights(chunk, found.blocks, entries, payload)
        return replace(found, totals=replace(found.totals, bits=bits), entry=entry, payload=payload)

    def _bits_of_weights(
        self, chunk: list[RowRun], blocks: list[np.ndarray], entries: list[TensorEntry], payload: bytes
    ) -> float:
        """Of the quantized ones: by their share of a chunk that is nearly all theirs, otherwise coded by themselves."""
        own = [i for i, run in enumerate(chunk) if self._is_quantized(entries[run.tensor].name)]
        count, symbols = sum(blocks[i].size for i in own), sum(block.size for block in blocks)
        if not count or symbols - count <= _FEW * symbols:
            return 8 * len(payload) * count / symbols
        return 8.0 * len(encode_chunk([chunk[i] for i in own], [blocks[i] for i in own], self.quantizer.coder)[1])

    def _is_quantized(self, name: str) -> bool:
        return self.plans[name].storage is Storage.QUANTIZED

    def _size_bytes(self, chunk: list[RowRun], entries: list[TensorEntry]) -> int:
        widths = [1 if run.plane is not None else entries[run.tensor].dtype.itemsize for run in chunk]
        return sum(width * len(run.elements) for width, run in zip(widths, chunk, strict=True))

    def _quantized(self, chunk: list[RowRun], entries: list[TensorEntry], codebooks: Codebooks) -> _Chunk:
        names = [entries[run.tensor].name for run in chunk]
        weights = {
            name: self.source.read(name, run.elements).reshape(run.shape)
            for name, run in zip(names, chunk, strict=True)
            if self._is_quantized(name)
        }
        symbols = self.quantizer.quantize(weights, codebooks) if weights else {}
        blocks = [
            symbols[name].numpy() if name in symbols else self._exact(name, run)
            for name, run in zip(names, chunk, strict=True)
        ]
        return _Chunk(Totals(squared_error(weights, symbols, codebooks)), blocks)

    def _exact(self, name: str, run: RowRun) -> np.ndarray:
        """The symbols of a run that is not of quantized weights: int8 of a plane, otherwise int32."""
        block = np.empty(len(run.elements), np.int32 if run.plane is None else np.int8)
        plan = self.plans[name]
        for first in range(0, block.size, PIECE_ELEMENTS):
            part = self.source.read(name, run.elements[first : first + PIECE_ELEMENTS])
            if plan.levels is not None:
                symbols = plan.levels.symbols(words_of(part))
            elif run.plane is None:
                symbols = part.numpy()
            else:
                kept = round_as_float16(part) if plan.storage is Storage.ROUNDED else part
                symbols = planes.split_one(words_of(kept), part.dtype.is_floating_point, run.plane)
            block[first : first + PIECE_ELEMENTS] = symbols
        return block.reshape(run.shape)
