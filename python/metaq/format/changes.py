"""What makes one network of another, without loss, as a `.mtq` file (docs/format.md, "Differences")."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from metaq import _native
from metaq.format import planes
from metaq.format.base_checksum import base_checksum
from metaq.format.header import Change, TensorEntry
from metaq.format.network import Layout, Network, pieces, whole_source
from metaq.format.sequence import runs
from metaq.format.writer import Source, encode, encode_chunk
from metaq.progress import Progress

_SAMPLE_ELEMENTS = 1 << 16  # of a tensor, from which it is told whether it is better held as a whole


def encode_difference(base: Network, new: Network, progress: Progress | None = None, coder: str | None = None) -> bytes:
    """The difference that makes ``new`` of ``base``, bit for bit; what is equal takes nothing.

    Tensors of the base's name and dtype are coded as changes of it, also where all names have another prefix. Those
    that equal one of the base's refer to it. Others are held as they are. What is coded is read a piece at a time,
    the rest is in memory.

    Args:
        coder: name of the coder for what is held as it is; "rans" by default.

    Raises:
        InputError: names or metadata that no file can hold, or networks that cannot be read.
    """
    progress = progress or Progress()
    with ThreadPoolExecutor(1) as pool:
        checksum = pool.submit(base_checksum, base)
        progress.begin("comparing", sum(layout.size_bytes for layout in new.layouts.values()))
        sources = Comparison(base, new, progress).sources()
        changes = [source.entry for source in sources if source.entry.change and source.entry.change.differing]
        coded = sum(entry.change.common * entry.dtype.itemsize for entry in changes if entry.change)
        progress.begin("coding changes", coded)
        return encode(sources, new.metadata, coder or "rans", checksum.result())


class Comparison:
    """Finds what a difference has of each tensor."""

    def __init__(self, base: Network, new: Network, progress: Progress) -> None:
        self.base, self.new, self.progress = base, new, progress
        self._places: dict[str, int] = {}  # of names that have an entry
        self._digests: dict[str, bytes] = {}  # of tensors of the base

    def sources(self) -> list[Source]:
        """An entry for each tensor that is not the base's, in the new network's order, and for each that is gone."""
        found: list[Source] = []
        for name, layout in self.new.layouts.items():
            source = self._source(name, layout, found)
            if source is not None:
                self._places[name] = len(found)
                found.append(source)
            self.progress.advance(layout.size_bytes, 0)
        return found + [Source(entry, None) for entry in self.removed()]

    def removed(self) -> list[TensorEntry]:
        """Entries of the base's tensors that are gone."""
        gone = {name: layout for name, layout in self.base.layouts.items() if name not in self.new.layouts}
        return [TensorEntry(name, layout.dtype, (0,), is_removed=True) for name, layout in gone.items()]

    def _source(self, name: str, layout: Layout, found: list[Source]) -> Source | None:
        first = self.new.aliases.get(name)
        if first in self._places:
            place = self._places[first]
            return Source(TensorEntry(name, layout.dtype, (), target=place), None)
        before = name if name in self.base.layouts else self.renamed(name, layout)
        if before is None:
            return self._whole(name, layout)
        is_alike = before == name and self.base.layouts[name] == layout
        common = layout.size if is_alike else _common_elements(self.base.layouts[before], layout)
        is_equal = all(self.is_equal(name, before, piece) for piece in pieces(common))
        if is_alike and is_equal:
            return None
        if not common or layout.dtype.name == "bool":  # of which no entry can be a changed one
            return self._whole(name, layout)
        if not is_equal and self._is_better_whole(name, before, common):
            return self._whole(name, layout)
        return self._changed(name, before, common, 0 if is_equal else common)

    def _whole(self, name: str, layout: Layout) -> Source:
        return whole_source(name, layout, self.new.octets(name, range(layout.size)))

    def _changed(self, name: str, source: str, common: int, differing: int) -> Source:
        """The writer puts the right number of differing elements in the place of one that is not 0."""
        layout = self.new.layouts[name]
        beyond = range(common, layout.size)
        entry = TensorEntry(name, layout.dtype, (len(beyond),), change=Change(layout.shape, common, differing, source))
        words = self.new.octets(name, beyond).view(f"u{layout.dtype.itemsize}") if beyond else None

        def elements(part: range) -> tuple[np.ndarray, np.ndarray]:
            before, now = self.base.octets(source, part), self.new.octets(name, part)
            self.progress.advance(now.size, 0)
            return before, now

        return Source(entry, words, elements)

    def is_equal(self, name: str, source: str, piece: range) -> bool:
        """Whether elements are those of a tensor of the base, bit for bit."""
        before, now = self.base.octets(source, piece), self.new.octets(name, piece)
        wide = np.uint64 if before.size % 8 == 0 else np.uint8
        return np.array_equal(before.view(wide), now.view(wide))

    def _is_better_whole(self, name: str, source: str, common: int) -> bool:
        """Whether some elements from the middle take less by themselves than as changes."""
        layout = self.new.layouts[name]
        if layout.size == 1:
            return True
        first = max(0, (common - _SAMPLE_ELEMENTS) // 2)
        part = range(first, min(common, first + _SAMPLE_ELEMENTS))
        now = self.new.octets(name, part)
        as_changes, _ = _native.difference_encode(self.base.octets(source, part), now, layout.dtype.code)
        sample = TensorEntry(name, layout.dtype, (len(part),))
        split = planes.split(now.view(f"u{layout.dtype.itemsize}"), layout.dtype.is_float)
        whole = sum(
            len(encode_chunk([run], [split[run.plane].reshape(run.shape)], "rans")[1])
            for run in runs([sample])
            if run.plane is not None
        )
        return whole < len(as_changes)

    def renamed(self, name: str, layout: Layout) -> str | None:
        """A tensor of the base with the same content; or the only one that is gone and whose name ends alike."""
        if layout.dtype.name == "bool" or not layout.size:
            return None
        own, alike = None, []
        for candidate, of_candidate in self.base.layouts.items():
            if of_candidate.dtype != layout.dtype or of_candidate.size != layout.size:
                continue
            own = own or _digest(self.new, name)
            if candidate not in self._digests:
                self._digests[candidate] = _digest(self.base, candidate)
            if self._digests[candidate] == own:
                return candidate
            if candidate not in self.new.layouts and _end_alike(candidate, name):
                alike.append(candidate)
        return alike[0] if len(alike) == 1 else None


def _end_alike(first: str, second: str) -> bool:
    """Whether one name is the other behind a prefix."""
    return first.endswith(f".{second}") or second.endswith(f".{first}")


def _digest(network: Network, name: str) -> bytes:
    sha = hashlib.sha256()
    for piece in pieces(network.layouts[name].size):
        sha.update(network.octets(name, piece).data)
    return sha.digest()


def _common_elements(before: Layout, now: Layout) -> int:
    """How many elements, from the first, correspond: all of a tensor of the same size, whole rows of others."""
    if before.dtype != now.dtype or now.dtype.name == "bool":
        return 0
    if before.size == now.size:
        return now.size
    if not before.shape or not now.shape or before.shape[1:] != now.shape[1:]:
        return 0
    return min(before.size, now.size)
