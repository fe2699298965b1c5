"""What makes one network of another, to an error or a size: changes of matrices are quantized, all else stays exact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metaq.checkpoints.checkpoint import Checkpoint
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.resumable import WorkFolder
from metaq.errors import InputError
from metaq.files import atomic_file, open_bytes, write_atomically
from metaq.format.changes import Comparison, encode_difference
from metaq.format.dtypes import BY_NAME, CODED_FLOATS
from metaq.format.header import Change, Header, TensorEntry, pack
from metaq.format.network import Layout, Network, pieces
from metaq.format.reader import Reader
from metaq.format.writer import encode_header
from metaq.io.source import StoredTensor, tensor_of
from metaq.progress import Progress

DIFFERENCE = "difference.mtq"  # in the work folder
_PART = "changes.mtq"  # there, what the difference is made of
_FLOAT32 = BY_NAME["float32"]


@dataclass(frozen=True)
class LossyReport:
    """What came of a difference.

    Attributes:
        file_bytes: of the file.
        relative_squared_error: ``Σ‖d - d̂‖² / Σ‖d‖²`` over the changes d of all quantized tensors; 0 if none is.
        bits_per_weight: coded bits per quantized weight; None if none is.
    """

    file_bytes: int
    relative_squared_error: float
    bits_per_weight: float | None


class DifferenceSource:
    """What a difference holds of each tensor that is not the base's, as a `metaq.io.source.TensorSource`.

    Of matrices and filters of the base's name, shape and dtype that is the new weights less the base's, in float32;
    unless that is not finite, or too small for float32. Of all others it is the new tensor.

    Attributes:
        exact: names of the others.
        entries: of tensors without content, which follow the others in the file: those that are gone, and those that
            equal one of another name.
    """

    def __init__(self, base: Network, new: Network, progress: Progress) -> None:
        self.name, self.metadata = new.name, new.metadata
        self.layouts: dict[str, Layout] = {}
        self.aliases: dict[str, str] = {}
        self.exact: set[str] = set()
        self.entries: list[TensorEntry] = []
        self._base, self._new, self._comparison = base, new, Comparison(base, new, progress)
        progress.begin("comparing", sum(layout.size_bytes for layout in new.layouts.values()))
        for name, layout in new.layouts.items():
            self._add(name, layout)
            progress.advance(layout.size_bytes, 0)
        self.entries += self._comparison.removed()

    def read(self, name: str, elements: range) -> Tensor:
        """Elements of a difference or of a new tensor."""
        now = _tensor(self._new, name, elements)
        return now if name in self.exact else _difference(_tensor(self._base, name, elements), now)

    def close(self) -> None:
        """Do nothing, because the networks are whoever's opened them."""

    def _add(self, name: str, layout: Layout) -> None:
        first = self._new.aliases.get(name)
        if first in self.layouts:
            self.layouts[name], self.aliases[name] = self.layouts[first], first
            return
        before = name if name in self._base.layouts else self._comparison.renamed(name, layout)
        if before is not None and self._is_equal(name, before, layout):
            if before != name or self._base.layouts[name] != layout:
                change = Change(layout.shape, layout.size, 0, before)
                self.entries.append(TensorEntry(name, layout.dtype, (0,), change=change))
            return
        if self._base.layouts.get(name) == layout and self._is_quantizable(name, layout):
            self.layouts[name] = Layout(_FLOAT32, layout.shape)
        else:
            self.layouts[name] = layout
            self.exact.add(name)

    def _is_equal(self, name: str, before: str, layout: Layout) -> bool:
        known = self._base.layouts[before]
        if known == layout:
            return all(self._comparison.is_equal(name, before, piece) for piece in pieces(layout.size))
        if known.dtype != layout.dtype or known.size != layout.size or not layout.size or layout.dtype.name == "bool":
            return False
        return all(self._comparison.is_equal(name, before, piece) for piece in pieces(layout.size))

    def _is_quantizable(self, name: str, layout: Layout) -> bool:
        if layout.dtype not in CODED_FLOATS or len(layout.shape) < 2:
            return False
        changes = False
        for piece in pieces(layout.size):
            difference = _difference(_tensor(self._base, name, piece), _tensor(self._new, name, piece))
            if not bool(difference.isfinite().all()):
                return False
            changes = changes or bool(difference.square().any())
        return changes


def write_lossy_difference(
    base: Network, new: Network, config: CompressionConfig, folder: WorkFolder, progress: Progress
) -> LossyReport:
    """Write a difference whose changes are quantized; or one without loss where that is no larger.

    It is the file `DIFFERENCE` of the folder.

    Args:
        config: to what error, of the changes, or to what size.
        folder: where the work is done.

    Raises:
        InputError: no step leads there, a pattern matches no tensor, a network cannot be read, or the place cannot be
            written.
    """
    config.check_names(new.layouts)
    exact, output = encode_difference(base, new, progress), folder.path / DIFFERENCE
    source = DifferenceSource(base, new, progress)
    size = config.size_bytes
    has_changes = len(source.exact) + len(source.aliases) < len(source.layouts)
    if not has_changes and size is not None and len(exact) > size:
        expected = f"at least {len(exact)}, because the difference has nothing that can be quantized"
        raise InputError(f"size_bytes: expected {expected}, found {size}")
    if not has_changes or (size is not None and len(exact) <= size):
        return _written(exact, output)
    checksum = Reader(exact, takes_differences=True).base
    assert checksum is not None
    extra = _header_bytes(checksum, source.entries)
    config = config.of_names(source.layouts)  # patterns may be of tensors that do not change
    checkpoint = Checkpoint({_PART: source}, config, progress, folder, exact=source.exact, extra_bytes=extra)
    totals = checkpoint.write(checkpoint.find_step())
    part = folder.path / _PART
    start, file_bytes = _start_as_difference(part, checksum, source.entries)
    if len(exact) <= file_bytes:
        return _written(exact, output)
    with atomic_file(output, file_bytes) as file, part.open("rb") as whole:
        file.write(start)
        whole.seek(len(start) - file_bytes, os.SEEK_END)
        shutil.copyfileobj(whole, file, 1 << 20)
    return LossyReport(file_bytes, totals.squared_error / checkpoint.energy, totals.bits / checkpoint.count)


def _written(exact: bytes, output: Path) -> LossyReport:
    write_atomically(output, exact)
    return LossyReport(len(exact), 0.0, None)


def _header_bytes(checksum: str, entries: Sequence[TensorEntry]) -> int:
    """At most so many more bytes a header takes with these; the text coder makes no byte more than 1.1 of one."""
    return int(1.1 * len(pack(Header({}, list(entries), [], checksum)))) + 16


def _start_as_difference(part: Path, checksum: str, entries: Sequence[TensorEntry]) -> tuple[bytes, int]:
    """The bytes before the chunks of a difference of a whole file's tensors and more entries; and how many it has."""
    header = Reader(open_bytes(part), str(part)).header
    start = encode_header(Header(header.metadata, [*header.tensors, *entries], header.chunks, checksum))
    return start, len(start) + sum(chunk.payload_bytes + 4 for chunk in header.chunks)


def _tensor(network: Network, name: str, elements: range) -> Tensor:
    dtype = network.layouts[name].dtype
    return tensor_of(StoredTensor(dtype, (len(elements),), network.octets(name, elements)))


def _difference(before: Tensor, now: Tensor) -> Tensor:
    wide = torch.float64 if now.dtype == torch.float64 else torch.float32
    return (now.to(wide) - before.to(wide)).float()
