"""Checkpoints of any kind as networks: files, `.mtq` files, and folders of shards (`metaq.format.network.Network`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np

from metaq.errors import InputError
from metaq.files import open_bytes
from metaq.format.dtypes import new_array
from metaq.format.network import Layout, Network
from metaq.format.reader import Reader
from metaq.io import open_source
from metaq.io.huggingface import MTQ, Folder, read_checkpoint_folder, read_folder
from metaq.io.source import StateSource, TensorSource

_HELD_TENSORS = 3  # of a .mtq file, whose chunks lie across pieces


class SourceNetwork:
    """The tensors of a checkpoint's file, read a piece at a time where its format lets one.

    Attributes:
        is_part: whether the file holds more than these.
    """

    def __init__(self, source: TensorSource) -> None:
        self.is_part = isinstance(source, StateSource) and source.is_part
        self.name, self.metadata, self.aliases = source.name, source.metadata, source.aliases
        self.layouts: Mapping[str, Layout] = source.layouts
        self._source = source

    def octets(self, name: str, elements: range) -> np.ndarray:
        """The elements' bytes."""
        from metaq.tensors import octets_of

        return octets_of(self._source.read(self.aliases.get(name, name), elements))


class MtqNetwork:
    """The tensors of a `.mtq` file, decoded one at a time."""

    def __init__(self, path: Path) -> None:
        self.name, self._reader = str(path), Reader(open_bytes(path), str(path))
        entries = self._reader.header.tensors
        self.metadata = self._reader.header.metadata
        self.layouts = {entry.name: Layout(entry.dtype, entry.shape) for entry in entries}
        self.aliases = {entry.name: entries[entry.target].name for entry in entries if entry.target is not None}
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def octets(self, name: str, elements: range) -> np.ndarray:
        """A view of the elements' bytes."""
        layout = self.layouts[name]
        with self._lock:
            first = self.aliases.get(name, name)
            if first not in self._held:
                memory = new_array(*layout)[1]
                self._reader.fill([(self._reader.index(first), 0, layout.size, memory)])
                self._held[first] = memory.reshape(-1).view(np.uint8)
                if len(self._held) > _HELD_TENSORS:
                    self._held.popitem(last=False)
            self._held.move_to_end(first)
            whole = self._held[first]
        return whole[elements.start * layout.dtype.itemsize : elements.stop * layout.dtype.itemsize]


class ShardedNetwork:
    """The tensors of several files as one network, in the files' order.

    Raises:
        InputError: two files have a tensor of the same name.
    """

    def __init__(self, name: str, parts: Mapping[str, Network]) -> None:
        self.name, self._parts = name, parts
        self.metadata: dict[str, str] = {}
        self.layouts: dict[str, Layout] = {}
        self.aliases: dict[str, str] = {}
        self.places: dict[str, str] = {}
        for shard, part in parts.items():
            for tensor, layout in part.layouts.items():
                if tensor in self.places:
                    found = f"it in {self.places[tensor]} and {shard}"
                    raise InputError(f"{name}: expected tensor {tensor!r} in one shard, found {found}")
                self.layouts[tensor], self.places[tensor] = layout, shard
            self.aliases |= part.aliases
            self.metadata |= part.metadata

    def octets(self, name: str, elements: range) -> np.ndarray:
        """The elements' bytes."""
        return self._parts[self.places[name]].octets(name, elements)


def found_folder(path: Path) -> Folder:
    """A folder's `.safetensors`, `.bin` or, without either, `.mtq` shards.

    Raises:
        InputError: it has none, or its index is not one.
    """
    if any(path.glob(f"*{MTQ}")) and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        return read_folder(path, MTQ)
    return read_checkpoint_folder(path)


@contextmanager
def opened_network(path: Path, key: str | None = None) -> Iterator[Network]:
    """A checkpoint's tensors: of a file of a known suffix, of a `.mtq` file, or of a folder of shards.

    Args:
        key: under which the state dict is, in files of torch.save that hold more than one.

    Raises:
        InputError: it cannot be read, or is a difference.
        FormatError: a `.mtq` file is not whole and unchanged.
    """
    with ExitStack() as opened:
        if not path.is_dir():
            yield _opened_file(path, key, opened)
            return
        folder = found_folder(path)
        parts = {shard: _opened_file(place, key, opened) for shard, place in folder.paths().items()}
        folder.check(lambda shard: parts[shard].layouts)
        yield ShardedNetwork(str(path), parts)


def _opened_file(path: Path, key: str | None, opened: ExitStack) -> Network:
    if path.suffix != MTQ:
        return SourceNetwork(opened.enter_context(closing(open_source(path, key))))
    if key is not None:
        raise InputError(f"{path}: expected no key for a .mtq file, whose tensors lie under none, found {key!r}")
    return MtqNetwork(path)
