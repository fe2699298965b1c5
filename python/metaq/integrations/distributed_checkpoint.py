"""`torch.distributed.checkpoint` in `.mtq` files, without loss: a storage writer and a storage reader."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from metaq.differences import StateNetwork
from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.format.changes import encode_difference
from metaq.format.whole_network import encode_network
from metaq.integrations.checkpoint_pieces import (
    BASE,
    CheckpointFolder,
    PieceLayout,
    Pieces,
    StoredPiece,
    octet_tensor,
    piece_name,
)
from metaq.tensors import FORMAT_DTYPES

_FILE_BYTES = 1 << 29  # of pieces in a file, which are in memory together; a larger piece has a file of its own


class MtqStorageWriter(FileSystemWriter):
    """Writes a checkpoint's pieces as `.mtq` files, without loss, whole or as differences from an earlier checkpoint.

    Each rank writes its own pieces, to files of up to 512 MiB of tensors, which are in memory together. Pieces that
    the earlier checkpoint has too, of the same place in the tensor, shape and dtype, are written as differences from
    it. That checkpoint must be there when this one is read, unchanged and in the same place seen from this one; it may
    be made of differences itself. All else is as by torch's `FileSystemWriter`, `dcp.async_save` included.

    Args:
        path: the checkpoint's folder, which all ranks see.
        base: the folder of an earlier checkpoint that a `MtqStorageWriter` wrote.
        coder: name of the coder for what is written whole.

    Raises:
        InputError: when it is saved: the earlier checkpoint cannot be read or is the new one, or a file cannot be
            written.

    Example:
        >>> import torch.distributed.checkpoint as dcp
        >>> state = {"weight": torch.randn(64, 64)}
        >>> _ = dcp.save(state, storage_writer=MtqStorageWriter("step-1"))
        >>> state["weight"][3] += 1
        >>> _ = dcp.save(state, storage_writer=MtqStorageWriter("step-2", base="step-1"))
        >>> loaded = {"weight": torch.zeros(64, 64)}
        >>> dcp.load(loaded, storage_reader=MtqStorageReader("step-2"))
        >>> torch.equal(loaded["weight"], state["weight"])
        True
    """

    def __init__(
        self, path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None, coder: str = "rans"
    ) -> None:
        super().__init__(path)
        self.base, self.coder = None if base is None else Path(base), coder

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As `FileSystemWriter`; a base that is the checkpoint's own place is refused first."""
        if self.base is not None and os.path.realpath(self.base) == os.path.realpath(self.path):
            raise InputError(f"{self.path}: expected another place than the base, found the base itself")
        return super().prepare_local_plan(plan)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's pieces."""
        base = None if self.base is None else CheckpointFolder(self.base)
        results: list[WriteResult] = []
        for number, items in enumerate(_grouped(plan.items)):
            file = f"{plan.storage_data.prefix}{number}.mtq"
            pieces = {piece_name(item.index): _resolved(item, planner) for item in items}
            if len(pieces) < len(items):
                found = [piece_name(item.index) for item in items]
                raise InputError(f"{self.path}: expected pieces of distinct names, found {found}")
            write_atomically(Path(self.path, file), self._encoded(items, pieces, base))
            for item, (name, piece) in zip(items, pieces.items(), strict=True):
                results.append(WriteResult(item.index, piece.nbytes, StoredPiece(file, name)))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _encoded(
        self, items: Sequence[WriteItem], pieces: Mapping[str, Tensor], base: CheckpointFolder | None
    ) -> bytes:
        new = {name: _storable(piece) for name, piece in pieces.items()}
        layouts = {item.index: _layout(pieces[piece_name(item.index)]) for item in items}
        known = {} if base is None else base.pieces_alike(layouts)
        if base is None or not known:
            return encode_network(StateNetwork(new), coder=self.coder)
        place = os.path.relpath(os.path.realpath(base.path), os.path.realpath(self.path))  # links may move on
        return encode_difference(StateNetwork(known), StateNetwork(new, {BASE: place}))


class MtqStorageReader(FileSystemReader):
    """Reads checkpoints that `MtqStorageWriter` wrote, on any number of ranks.

    A rank decodes the files with pieces that it needs, of those that are whole no more than the rows that it needs.

    Args:
        path: the checkpoint's folder. Its `.metadata` is a pickle, as torch writes it: read none that you do not trust.

    Raises:
        InputError: when it is loaded: the checkpoint is of another writer, or a difference from one that is not there
            or not as it was.
        FormatError: a file is damaged.
    """

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Remember where pieces are."""
        super().set_up_storage_reader(metadata, is_coordinator, *args, **kwargs)
        self.folder = CheckpointFolder(Path(self.path), metadata)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Load what this rank needs, a file at a time."""
        items: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            items.setdefault(self.folder.stored(item.storage_index).file, []).append(item)
        for file, own in items.items():
            pieces = self.folder.opened(file, [self.folder.stored(item.storage_index).name for item in own])
            for item in own:
                self._load(item, pieces, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _load(self, item: ReadItem, pieces: Pieces, planner: LoadPlanner) -> None:
        name = self.folder.stored(item.storage_index).name
        if item.type == LoadItemType.BYTE_IO:
            planner.load_bytes(item, io.BytesIO(pieces.tensor(name).numpy().tobytes()))
            return
        layout = self.folder.layout(item.storage_index)
        assert layout is not None  # it is no object
        places = [
            slice(first, first + length) for first, length in zip(item.storage_offsets, item.lengths, strict=True)
        ]
        if layout.dtype in FORMAT_DTYPES and places:
            found = pieces.tensor(name, places[0])[(slice(None), *places[1:])]
        else:
            found = pieces.tensor(name).view(layout.dtype).reshape(layout.shape)[tuple(places)]
        target = planner.resolve_tensor(item).detach()
        if target.shape != found.shape:
            raise InputError(f"{self.path}, {name!r}: expected shape {tuple(target.shape)}, found {tuple(found.shape)}")
        target.copy_(found)
        planner.commit_tensor(item, target)


def _grouped(items: Sequence[WriteItem]) -> Iterator[list[WriteItem]]:
    """Items of a file each."""
    group: list[WriteItem] = []
    size = 0
    for item in items:
        own = _size_bytes(item)
        if group and size + own > _FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += own
    if group:
        yield group


def _size_bytes(item: WriteItem) -> int:
    if item.tensor_data is None:
        return 0
    return math.prod(item.tensor_data.chunk.sizes) * int(item.tensor_data.properties.dtype.itemsize)


def _resolved(item: WriteItem, planner: SavePlanner) -> Tensor:
    """A piece on the CPU; bytes as uint8."""
    data: Any = planner.resolve_data(item)
    if item.type == WriteItemType.BYTE_IO:
        return octet_tensor(data.getvalue())
    piece: Tensor = data.detach().cpu()
    return piece


def _storable(piece: Tensor) -> Tensor:
    """A piece as a file holds it: of a dtype that no `.mtq` file has its bytes."""
    if piece.dtype in FORMAT_DTYPES:
        return piece
    return piece.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _layout(piece: Tensor) -> PieceLayout:
    return PieceLayout(piece.dtype, tuple(piece.shape))
