"""Entries of a compressed model as `.mtq` shards that have the names and dtypes of the shards the model came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metaq.checkpoints.source_names import Place, part
from metaq.checkpoints.tensor_plan import sum_of_squares
from metaq.codebook import UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, code_integers, encode
from metaq.errors import InputError
from metaq.format.network import Layout
from metaq.format.reader import Reader
from metaq.io.source import TensorSource
from metaq.matrix_layout import MatrixLayout
from metaq.tensors import DTYPES


@dataclass(frozen=True)
class Shard:
    """A file, and what compression came to in it.

    Attributes:
        data: the whole file.
        squared_error: ``Σ(w - ŵ)²`` over the quantized weights.
        energy: ``Σw²`` over them.
        weights: how many they are.
        bits: what they take.
    """

    data: bytes
    squared_error: float
    energy: float
    weights: int
    bits: float


class Summary:
    """What compression came to in all shards together, by the names that a configuration has for targets.

    Attributes:
        size_bytes: of all files.
        weights: how many weights are quantized.
        bits: what one of them takes; 0 if there is none.
        max_error: their squared error, relative to their energy; 0 if there is none.
    """

    def __init__(self, shards: Iterable[Shard]) -> None:
        found = list(shards)
        energy = sum(shard.energy for shard in found)
        self.size_bytes = sum(len(shard.data) for shard in found)
        self.weights = sum(shard.weights for shard in found)
        self.bits = sum(shard.bits for shard in found) / max(1, self.weights)
        self.max_error = sum(shard.squared_error for shard in found) / energy if energy else 0.0


def entries_at(
    model: CompressedModel, places: Mapping[str, Place], sources: Iterable[TensorSource]
) -> dict[str, CodedTensor | Tensor]:
    """The entries of a model by the names that sources have for what is at these places.

    Raises:
        InputError: experts in one tensor have scales of columns together.
    """
    layouts = {name: layout for source in sources for name, layout in source.layouts.items()}
    entries: dict[str, CodedTensor | Tensor] = {}
    for name, place in places.items():
        entry = model.tensors[place.own]
        if isinstance(entry, Alias):
            entry = model.tensors[entry.name]
        assert not isinstance(entry, Alias)
        entries[name] = entry if place.expert is None else _expert(entry, place, layouts[name].shape[0])
    return entries


def _expert(entry: CodedTensor | Tensor, place: Place, rows: int) -> CodedTensor | Tensor:
    """Rows of an expert's matrix."""
    if isinstance(entry, Tensor):
        return part(entry, place, rows)
    symbols, matrix = part(entry.symbols, place, rows).contiguous(), entry.matrix
    if matrix is not None:
        matrix = _layout_of_expert(matrix, entry.symbols.shape, place, rows)
    return replace(entry, symbols=symbols, matrix=matrix)


def _layout_of_expert(matrix: MatrixLayout, shape: torch.Size, place: Place, rows: int) -> MatrixLayout | None:
    if matrix.leading == 1 and matrix.column_logs is not None:
        found = "scales of columns of all experts together"
        raise InputError(f"tensor {place.own!r}: expected scales of rows, or of each expert's columns, found {found}")
    row_logs = matrix.row_logs
    if row_logs is not None:
        of_rows = np.broadcast_to(row_logs.reshape(shape[0], -1), (shape[0], shape[1]))
        row_logs = of_rows[place.expert, place.first_row : place.first_row + rows]
    if row_logs is None and matrix.column_logs is None and not matrix.by_columns:
        return None
    return MatrixLayout(1, row_logs, matrix.column_logs, matrix.by_columns)


def encode_shard(
    source: TensorSource, entries: Mapping[str, CodedTensor | Tensor], is_kept: Callable[[str], bool], coder: str
) -> Shard:
    """The file of one shard.

    Args:
        source: the shard.
        entries: by the names of the source, second names apart, in any dtypes; the same object where tensors are one.
        is_kept: whether a tensor is to stay as it is in the source, bit for bit.
        coder: that ``entries`` were made for.
    """
    tensors: dict[str, CodedTensor | Tensor | Alias] = {}
    first: dict[tuple[int, Layout, bool], str] = {}
    for name, layout in source.layouts.items():
        if name in source.aliases:
            tensors[name] = Alias(source.aliases[name])
            continue
        known = first.setdefault((id(entries[name]), layout, is_kept(name)), name)
        tensors[name] = Alias(known) if known != name else _entry(source, name, entries[name], is_kept(name))
    data = encode(CompressedModel(tensors, dict(source.metadata), coder), coder)
    coded = {name: entry for name, entry in tensors.items() if isinstance(entry, CodedTensor)}
    quantized = {name: entry for name, entry in coded.items() if isinstance(entry.codebook, UniformCodebook)}
    squared_error, energy = _error_and_energy(source, quantized)
    weights = sum(source.layouts[name].size for name in quantized)
    return Shard(data, squared_error, energy, weights, _bits(Reader(data, source.name), set(quantized)))


def _entry(source: TensorSource, name: str, found: CodedTensor | Tensor, is_kept: bool) -> CodedTensor | Tensor:
    """A tensor's entry in the dtype of the source."""
    layout = source.layouts[name]
    dtype = DTYPES[layout.dtype]
    if dtype.is_floating_point and not is_kept:
        changed = replace(found, dtype=dtype) if isinstance(found, CodedTensor) else found.to(dtype)
        values = changed.decompress() if isinstance(changed, CodedTensor) else changed
        if bool(torch.isfinite(values).all()):
            return changed
    return code_integers(source.read(name, range(layout.size)).reshape(layout.shape))


def _error_and_energy(source: TensorSource, quantized: Mapping[str, CodedTensor]) -> tuple[float, float]:
    error = energy = 0.0
    for name, entry in quantized.items():
        weights = source.read(name, range(source.layouts[name].size)).double()
        energy += sum_of_squares(weights)
        error += sum_of_squares(weights - entry.decompress().reshape(-1).double())
    return error, energy


def _bits(reader: Reader, quantized: set[str]) -> float:
    """What some tensors take: their share, by their symbols, of the chunks that they are in."""
    bits = 0.0
    for chunk, runs in zip(reader.header.chunks, reader.chunk_runs(), strict=True):
        own = [run for run in runs if run.plane is None and reader.header.tensors[run.tensor].name in quantized]
        bits += 8 * chunk.payload_bytes * sum(len(run.elements) for run in own) / max(1, chunk.symbols)
    return bits
