"""The pieces of a checkpoint of `torch.distributed.checkpoint`, in `.mtq` files of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from metaq.differences import StateNetwork
from metaq.errors import InputError
from metaq.files import open_bytes
from metaq.format.applying import Application, in_memory
from metaq.format.reader import Reader
from metaq.io.source import StoredTensor, tensor_of
from metaq.tensors import new_tensor

BASE = "base"  # a file's metadata: the folder of the checkpoint that it is a difference from, seen from its own


@dataclass(frozen=True)
class StoredPiece:
    """Where a piece of a checkpoint lies: the file in its folder, and the tensor's name there."""

    file: str
    name: str


class PieceLayout(NamedTuple):
    """A piece's dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class CheckpointFolder:
    """A checkpoint that `MtqStorageWriter` wrote: where its pieces are, and what is in them.

    Raises:
        InputError: there is none, or one of another writer.
    """

    def __init__(self, path: Path, metadata: Metadata | None = None) -> None:
        self.path = path
        if metadata is None:
            try:
                metadata = FileSystemReader(path).read_metadata()
            except OSError as error:
                raise InputError(f"{path}: expected a checkpoint's folder, found {error.strerror}") from None
        self._tensors = metadata.state_dict_metadata
        self._stored: Mapping[MetadataIndex, Any] = metadata.storage_data
        for found in self._stored.values():
            if not isinstance(found, StoredPiece):
                kind = type(found).__name__
                raise InputError(f"{path}: expected a checkpoint of MtqStorageWriter, found pieces as {kind}")

    def stored(self, index: MetadataIndex) -> StoredPiece:
        """Where a piece is."""
        found: StoredPiece = self._stored[index]
        return found

    def layout(self, index: MetadataIndex) -> PieceLayout | None:
        """A piece's dtype and shape; None of what is no tensor, or not there."""
        of_tensor = self._tensors.get(index.fqn)
        if index not in self._stored or not isinstance(of_tensor, TensorStorageMetadata):
            return None
        shapes = (tuple(chunk.sizes) for chunk in of_tensor.chunks if chunk.offsets == index.offset)
        shape = next(shapes, None)
        return None if shape is None else PieceLayout(of_tensor.properties.dtype, shape)

    def pieces_alike(self, layouts: Mapping[MetadataIndex, PieceLayout | None]) -> dict[str, Tensor]:
        """Of another checkpoint's pieces those that this has too, by the names that they have there, as stored."""
        wanted: dict[str, dict[str, str]] = {}
        for index, layout in layouts.items():
            if layout is not None and self.layout(index) == layout:
                piece = self.stored(index)
                wanted.setdefault(piece.file, {})[piece_name(index)] = piece.name
        found: dict[str, Tensor] = {}
        for file, names in wanted.items():
            pieces = self.opened(file, list(names.values()))
            found |= {name: pieces.tensor(own) for name, own in names.items()}
        return found

    def opened(self, file: str, names: Sequence[str]) -> Pieces:
        """A file's pieces of these names.

        Raises:
            InputError: the file is not there, or its base is not there or another.
            FormatError: the file is damaged.
        """
        path = self.path / file
        reader = Reader(open_bytes(path), str(path), takes_differences=True)
        if reader.base is None:
            return Pieces(reader, {})
        if BASE not in reader.header.metadata:
            raise InputError(f"{path}: expected the place of its base in its metadata, found none")
        own = {index: self.layout(index) for index, piece in self._stored.items() if piece.file == file}
        place = Path(os.path.normpath(Path(os.path.realpath(self.path), reader.header.metadata[BASE])))
        base = StateNetwork(CheckpointFolder(place).pieces_alike(own), name=str(place))
        made = in_memory(Application(reader, base), list(dict.fromkeys(names)))
        tensors = {}
        for name in names:
            layout = made.layouts[name]
            tensors[name] = tensor_of(StoredTensor(*layout, made.octets(name, range(layout.size))))
        return Pieces(reader, tensors)


class Pieces:
    """Pieces of a file: read when they are asked for, or those of a difference, which are made already."""

    def __init__(self, reader: Reader, made: Mapping[str, Tensor]) -> None:
        self._reader, self._made = reader, made

    def tensor(self, name: str, rows: slice = slice(None)) -> Tensor:
        """A piece as it is stored, or some of its rows."""
        if name in self._made:
            return self._made[name][rows] if rows != slice(None) else self._made[name]
        found: Tensor = self._reader.tensor(name, rows, new_tensor)
        return found


def piece_name(index: MetadataIndex) -> str:
    """Of a piece in its file: the tensor's, and where in that it begins, unless at the very start."""
    if index.offset is None or not any(index.offset):
        return str(index.fqn)
    return f"{index.fqn}[{','.join(map(str, index.offset))}]"


def octet_tensor(data: bytes | memoryview) -> Tensor:
    """Bytes as uint8, in memory of their own."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
