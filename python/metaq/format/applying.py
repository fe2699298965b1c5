"""A difference and its base to the network that it makes (docs/format.md, "Differences")."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from metaq.errors import InputError
from metaq.files import open_bytes
from metaq.format.base_checksum import base_checksum, shortened
from metaq.format.dtypes import CODED_FLOATS, new_array
from metaq.format.header import TensorEntry
from metaq.format.network import Layout, Network, OctetNetwork, pieces
from metaq.format.reader import Array, NewArray, Reader
from metaq.format.sequence import CHANGES
from metaq.progress import Progress
from metaq.threads import stream

# Takes a tensor's name, the place of the first element among those of the flattened tensor, and elements' bytes.
Put = Callable[[str, int, np.ndarray], None]
Work = Callable[[Put], int]  # puts some elements; gives the number of their bytes


class Application:
    """A difference, and the base that it is of.

    Attributes:
        layouts: of the result's tensors: first the base's, in their order, then new ones.
        aliases: second names of the result's shared tensors, each with the first name.
        metadata: the result's.

    Raises:
        InputError: the file is no difference, or one of another base; nothing has been made then.
    """

    def __init__(self, reader: Reader, base: Network, progress: Progress | None = None) -> None:
        self.reader, self.base, self.progress = reader, base, progress or Progress()
        if reader.base is None:
            raise InputError(f"{reader.name}: expected a difference, found a whole model")
        self.metadata = reader.header.metadata
        entries = reader.header.tensors
        for entry in entries:
            self._check(entry)
        self.progress.begin("checking the base")
        found = base_checksum(base)
        if found != reader.base:
            raise InputError(
                f"{reader.name}: expected the base {shortened(reader.base)}, found {shortened(found)}"
                f"{f' in {base.name}' if base.name else ''}: other weights, or the same with a difference applied to"
                " them; begin with the network that it was made from, and apply differences in their order"
            )
        self._entries = {entry.name: (place, entry) for place, entry in enumerate(entries)}
        removed = {entry.name for entry in entries if entry.is_removed}
        names = [name for name in base.layouts if name not in removed]
        names += [entry.name for entry in entries if entry.name not in base.layouts]
        self.layouts = {name: self._layout(name) for name in names}
        self.aliases = self._aliases()

    def run(self, put: Put, only: Iterable[str] | None = None) -> None:
        """Make every tensor, a piece at a time on each thread; ``put`` takes pieces of all but second names.

        Args:
            only: first names of those that are wanted, if not all are.

        Raises:
            InputError: the base cannot be read any more, or a sum is of an infinite difference.
            FormatError: the difference is damaged.
        """
        names = [name for name in self.layouts if name not in self.aliases] if only is None else list(only)
        own = {name: self.layouts[name] for name in names}
        self.progress.begin("applying", sum(layout.size_bytes for layout in own.values()))

        def work(part: Work) -> None:
            size = part(put)
            self.progress.advance(size, size)

        for _ in stream(work, self._parts(own), os.cpu_count() or 1):
            pass

    def _check(self, entry: TensorEntry) -> None:
        """Whether the base has what a tensor is made of. Its checksum says more; this says what is wrong."""
        where = f"{self.reader.name}: {self.base.name or 'base'}, tensor "
        if entry.is_removed:
            found = self.base.layouts.get(entry.name)
            if found is None or found.dtype != entry.dtype:
                expected = f"one of {entry.dtype}, which the difference removes"
                raise InputError(f"{where}{entry.name!r}: expected {expected}, found {_described(found)}")
        elif entry.change is not None:
            change, found = entry.change, self.base.layouts.get(entry.change.source)
            if found is None or found.dtype != entry.dtype or found.size < change.common:
                expected = f"{change.common} elements or more of {entry.dtype}"
                raise InputError(f"{where}{change.source!r}: expected {expected}, found {_described(found)}")
        elif entry.target is None and _is_sum(entry):
            found = self.base.layouts.get(entry.name)
            if found is None or found.shape != entry.shape or found.dtype not in CODED_FLOATS:
                expected = f"shape {entry.shape} of floats, as in the difference"
                raise InputError(f"{where}{entry.name!r}: expected {expected}, found {_described(found)}")

    def _owner(self, name: str) -> tuple[int, TensorEntry] | None:
        """The entry that says what a tensor of the result is, if the difference has one."""
        if name not in self._entries:
            return None
        place, entry = self._entries[name]
        return (place, entry) if entry.target is None else (entry.target, self.reader.header.tensors[entry.target])

    def _layout(self, name: str) -> Layout:
        owner = self._owner(name)
        if owner is None:
            return Layout(*self.base.layouts[name])
        entry = owner[1]
        if entry.change is not None:
            return Layout(entry.dtype, entry.change.shape)
        return Layout(*self.base.layouts[entry.name]) if _is_sum(entry) else Layout(entry.dtype, entry.shape)

    def _aliases(self) -> dict[str, str]:
        """Second names of the difference, and those of the base whose both names the difference leaves alone."""
        aliases: dict[str, str] = {}
        first_of: dict[object, str] = {}
        for name in self.layouts:
            if name in self._entries:
                identity: object = self._owner(name)[0]  # type: ignore[index]
            else:
                identity = self.base.aliases.get(name, name)
            first = first_of.setdefault(identity, name)
            if first != name:
                aliases[name] = first
        return aliases

    def _parts(self, layouts: dict[str, Layout]) -> Iterator[Work]:
        chunks: dict[int, list[tuple[int, range]]] = {}
        for chunk, found in enumerate(self.reader.chunk_runs()):
            if found[0].plane == CHANGES:
                chunks.setdefault(found[0].tensor, []).append((chunk, found[0].elements))
        for name, layout in layouts.items():
            owner = self._owner(name)
            if owner is None:
                for piece in pieces(layout.size):
                    yield self._copied(name, name, piece)
                continue
            place, entry = owner
            if entry.change is None:
                yield self._whole(name, place, entry)
                continue
            for chunk, elements in chunks.get(place, []):
                yield self._changed(name, entry.change.source, chunk, elements)
            for piece in pieces(0 if entry.change.differing else entry.change.common):
                yield self._copied(name, entry.change.source, piece)
            if entry.size:
                yield self._whole(name, place, entry, entry.change.common)

    def _copied(self, name: str, source: str, piece: range) -> Work:
        def work(put: Put) -> int:
            octets = self.base.octets(source, piece)
            put(name, piece.start, octets)
            return octets.size

        return work

    def _changed(self, name: str, source: str, chunk: int, elements: range) -> Work:
        def work(put: Put) -> int:
            octets = self.reader.apply_chunk(chunk, self.base.octets(source, elements))
            put(name, elements.start, octets)
            return octets.size

        return work

    def _whole(self, name: str, place: int, entry: TensorEntry, first: int = 0) -> Work:
        """What the file holds of a tensor, or the sum of that and the base's."""

        def work(put: Put) -> int:
            memory = new_array(entry.dtype, entry.shape)[1]
            self.reader.fill([(place, 0, entry.size, memory)], threads=1)
            if not _is_sum(entry):
                octets = memory.reshape(-1).view(np.uint8)
            elif not np.isfinite(memory).all():
                raise InputError(f"{self.reader.name}, tensor {name!r}: expected finite values, found infinity")
            else:
                whole = self.base.octets(entry.name, range(entry.size))
                octets = _sum(self.base.layouts[entry.name], whole, memory.reshape(-1))
            put(name, first, octets)
            return octets.size

        return work


def open_difference(difference: bytes | memoryview | str | os.PathLike[str], name: str = "difference") -> Reader:
    """A difference in memory or at a path, to be read.

    Args:
        name: what messages call one in memory.

    Raises:
        InputError: the path cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    if isinstance(difference, bytes | memoryview):
        return Reader(difference, name, takes_differences=True)
    return Reader(open_bytes(difference), str(difference), takes_differences=True)


def in_memory(application: Application, names: Sequence[str] | None = None) -> OctetNetwork:
    """The result, or some of its tensors; of shared ones the first name that is wanted stands for all.

    Raises:
        InputError: as `Application.run`.
        FormatError: the difference is damaged.
    """
    layouts = {name: application.layouts[name] for name in names or application.layouts}
    first: dict[str, str] = {}
    firsts = {name: first.setdefault(application.aliases.get(name, name), name) for name in layouts}
    aliases = {name: of_name for name, of_name in firsts.items() if of_name != name}
    octets = {owner: np.empty(layouts[own].size_bytes, np.uint8) for owner, own in first.items()}

    def put(name: str, place: int, part: np.ndarray) -> None:
        start = place * application.layouts[name].dtype.itemsize
        octets[name][start : start + part.size] = part

    application.run(put, only=first)
    by_name = {own: octets[owner] for owner, own in first.items()}
    return OctetNetwork(layouts, aliases, by_name, application.metadata)


def apply_to(reader: Reader, base: Network, new: NewArray[Array]) -> dict[str, Array]:
    """The network that a difference makes of its base, in memory.

    Raises:
        InputError: as `Application`.
        FormatError: the difference is damaged.
    """
    application = Application(reader, base)
    result: dict[str, Array] = {}
    memory: dict[str, np.ndarray] = {}
    for name, layout in application.layouts.items():
        if name in application.aliases:
            result[name] = result[application.aliases[name]]
        else:
            result[name], array = new(layout.dtype, layout.shape)
            memory[name] = array.reshape(-1).view(np.uint8)

    def put(name: str, first: int, octets: np.ndarray) -> None:
        start = first * application.layouts[name].dtype.itemsize
        memory[name][start : start + octets.size] = octets

    application.run(put)
    return result


def _is_sum(entry: TensorEntry) -> bool:
    """Whether a tensor is added to the base's, rather than taking its place."""
    return entry.codebook is not None and entry.dtype.is_float


def _described(layout: Layout | None) -> str:
    return "no such tensor" if layout is None else f"shape {layout.shape} of {layout.dtype}"


def _sum(layout: Layout, octets: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The bytes of the base's elements with their differences, as `metaq.differences.add` has it."""
    name = layout.dtype.name
    words = octets.view(f"u{layout.dtype.itemsize}")
    with np.errstate(over="ignore", invalid="ignore"):
        if name == "bfloat16":
            base = (words.astype(np.uint32) << 16).view(np.float32)
            bits = (base + difference).view(np.uint32)
            total = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        else:
            base = octets.view(name)
            wide = np.float64 if name == "float64" else np.float32
            total = (base.astype(wide) + difference.astype(wide)).astype(name).view(words.dtype)
    return np.where((difference == 0) | np.isnan(base), words, total).view(np.uint8)
