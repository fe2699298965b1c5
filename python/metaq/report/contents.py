"""What a `.mtq` file holds and what each part of it costs: in one pass, in which each chunk is decoded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metaq import coding
from metaq.files import open_bytes
from metaq.format.digest import weights_sha256
from metaq.format.header import Change, TensorEntry
from metaq.format.reader import Reader
from metaq.progress import Progress
from metaq.report.blocks import blocks, payload_bytes
from metaq.report.folders import MtqFolder, mtq_folder
from metaq.report.symbol_statistics import Symbols, compact, counts, entropy_bits_of_counts, tuple_entropy

Row = dict[str, Any]

_ORDERS = (1, 2, 4)


@dataclass(frozen=True)
class Contents:
    """What is in a file or a folder, as `metaq inspect` shows it.

    Attributes:
        rows: one for each tensor of a file, or for each file of a folder.
        summary: what holds for all of it.
        metadata: texts that the file keeps; a folder has none of its own.
        files: of a folder, its files' contents.
    """

    rows: list[Row]
    summary: Row
    metadata: dict[str, str] = field(default_factory=dict)
    files: list[Contents] | None = None

    def as_dict(self) -> Row:
        """The contents as `metaq inspect --json` prints them."""
        if self.files is not None:
            return {**self.summary, "files": [file.as_dict() for file in self.files]}
        return {**self.summary, "metadata": self.metadata, "tensors": self.rows}


def inspect_file(path: Path, progress: Progress) -> Contents:
    """`inspect` of a file.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    return _inspect(Reader(open_bytes(path), str(path), takes_differences=True), path.name, progress)


def inspect_folder(path: Path, progress: Progress) -> Contents:
    """`inspect_file` of each `.mtq` file of a folder, also of those within `.safetensors` files, and their sums.

    Raises:
        InputError: the folder has no `.mtq` file, lacks one that its index names, or one cannot be read.
        FormatError: one is not a whole and unchanged `.mtq` file, or a reference to a tensor in one leads nowhere.
    """
    folder = mtq_folder(path)
    files: list[Contents] = []
    rows: list[Row] = []
    for part in folder.parts:
        found = _inspect(part.reader(), part.name, progress)
        weights = sum(math.prod(row["shape"]) for row in found.rows if not row["kind"].startswith("alias"))
        row: Row = {"file": part.name, "tensors": len(found.rows), "weights": weights}
        row |= {"file_bytes": found.summary["file_bytes"]}
        rows.append(row | {"file_bits_per_weight": 8 * row["file_bytes"] / max(1, weights)})
        files.append(Contents(found.rows, {"file": part.name, **found.summary}, found.metadata))
    summary = _sums(path, folder, rows, ("tensors", "weights", "file_bytes"))
    summary["file_bits_per_weight"] = 8 * summary["file_bytes"] / max(1, summary["weights"])
    return Contents(rows, summary, files=files)


def _inspect(reader: Reader, name: str, progress: Progress) -> Contents:
    progress.begin(f"reading {name}", payload_bytes(reader))
    return inspect(reader, progress)


def _sums(path: Path, folder: MtqFolder, rows: list[Row], keys: Sequence[str]) -> Row:
    """What a folder's files have together, those that `.mtq` files are wrapped in included."""
    plain = folder.plain
    beside = {"tensors": plain.tensors, "weights": plain.weights, "file_bytes": plain.size_bytes}
    beside["file_bytes"] += folder.wrapping_bytes or 0
    found: Row = {"folder": str(path), "shards": len(rows)}
    found |= {key: sum(row[key] for row in rows) + beside[key] for key in keys}
    if folder.wrapping_bytes is not None:
        found |= {"wrapping_bytes": folder.wrapping_bytes, "plain_tensors": plain.tensors}
        found |= {"plain_bytes": plain.size_bytes}
    return found


def verify_file(path: Path, progress: Progress) -> Row:
    """Check and decode every byte of a file, and name its weights by a SHA-256 as `metaq.metrics.digest` does.

    Of a difference, which has no weights, its base is named.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    return _verify(Reader(open_bytes(path), str(path), takes_differences=True), str(path), path.name, progress)


def verify_folder(path: Path, progress: Progress) -> tuple[list[Row], Row]:
    """`verify_file` of each `.mtq` file of a folder, also of those within `.safetensors` files, and their sums.

    Plain tensors in `.safetensors` files have no checksum; of those it is checked that they are as long as they should.

    Raises:
        InputError: the folder has no `.mtq` file, lacks one that its index names, or one cannot be read.
        FormatError: one is not a whole and unchanged `.mtq` file, or a reference to a tensor in one leads nowhere.
    """
    folder = mtq_folder(path)
    rows = [_verify(part.reader(), part.name, part.name, progress) for part in folder.parts]
    verdict = "whole and unchanged"
    if folder.plain.tensors:
        verdict += ", but for plain tensors, which have no checksum"
    return rows, {**_sums(path, folder, rows, ("tensors", "file_bytes")), "verdict": verdict}


def _verify(reader: Reader, file: str, name: str, progress: Progress) -> Row:
    progress.begin(f"verifying {name}")
    result: Row = {"file": file, "verdict": "whole and unchanged", "tensors": len(reader.header.tensors)}
    digest = weights_sha256(reader)  # decodes it all but changes, for which it would take the base
    reader.check_payloads()
    named = {"weights_sha256": digest} if reader.base is None else {"difference_from": reader.base}
    return result | {"file_bytes": reader.size_bytes, **named}


def inspect(reader: Reader, progress: Progress | None = None) -> Contents:
    """A row for each tensor of a file: what it is, and what it costs; and what holds for the whole file.

    The tensors of a chunk are one stream of bytes; its size is shared out by their zero-order entropies.

    Raises:
        FormatError: a chunk is damaged.
    """
    sizes, symbols = _sizes_and_symbols(reader, progress or Progress())
    entries = reader.header.tensors
    rows = []
    for index, entry in enumerate(entries):
        row: Row = {"tensor": entry.name, "dtype": entry.dtype.name, "shape": list(entry.shape), "kind": "kept"}
        weights = entry.size
        if entry.target is not None:
            row["kind"] = f"alias of {entries[entry.target].name}"
        elif entry.is_removed:
            row["kind"] = "removed"
        elif entry.change is not None:
            row |= _change(entry.name, entry.change)
            weights = math.prod(entry.change.shape)
        elif entry.codebook is not None:
            row |= {"kind": _kind(entry), **_statistics(symbols.get(index, []), entry.size)}
        row |= {"bits_per_weight": 8 * sizes[index] / max(1, weights), "bytes": round(sizes[index], 1)}
        rows.append(row)
    coded = [_joined(parts) for index, parts in symbols.items() if entries[index].dtype.is_float]
    coded_bytes = payload_bytes(reader)
    summary: Row = {} if reader.base is None else {"difference_from": reader.base}
    summary |= {
        "file_bytes": reader.size_bytes,
        "header_and_checksum_bytes": reader.size_bytes - coded_bytes,
        "coder": ", ".join(sorted({coding.name_of(chunk.coder) for chunk in reader.header.chunks})),
    }
    summary |= {f"entropy_order_{order}_bits_per_weight": tuple_entropy(coded, order) for order in _ORDERS}
    return Contents(rows, summary, reader.header.metadata)


def _change(name: str, change: Change) -> Row:
    """What is said of a changed tensor: where it comes from, and how much of it differs."""
    of = "" if change.source == name else f" from {change.source}"
    kind = f"changed{of}" if change.differing else f"equal{of}"
    return {"shape": list(change.shape), "kind": kind, "changed_share": change.differing / change.common}


def _kind(entry: TensorEntry) -> str:
    """What a tensor of symbols is called: ``coded``, or ``scaled`` and by what."""
    if entry.matrix is None:
        return "coded"
    parts = [
        *(["rows"] if entry.matrix.row_logs is not None else []),
        *(["columns"] if entry.matrix.column_logs is not None else []),
    ]
    scales = [f"by {' and '.join(parts)}"] if parts else []
    return "scaled " + ", ".join([*scales, *(["column by column"] if entry.matrix.by_columns else [])])


def shared_sizes(reader: Reader) -> list[float]:
    """Bytes of each tensor in a file, the `bytes` of `inspect` unrounded, without what else that finds out."""
    return _sizes_and_symbols(reader, Progress(), keeps_symbols=False)[0]


def _sizes_and_symbols(
    reader: Reader, progress: Progress, keeps_symbols: bool = True
) -> tuple[list[float], dict[int, list[Symbols]]]:
    """Bytes of each tensor, and of the coded ones the symbols, flattened, in parts."""
    sizes = [0.0] * len(reader.header.tensors)
    symbols: dict[int, list[Symbols]] = {}
    for size, chunk in blocks(reader):
        # Half a bit for each block, so that constant ones do not divide by zero.
        bits = [entropy_bits_of_counts(counts(block.symbols)) + 0.5 for block in chunk]
        for block, share in zip(chunk, bits, strict=True):
            sizes[block.tensor] += size * share / sum(bits)
            if keeps_symbols and not block.is_plane:
                symbols.setdefault(block.tensor, []).append(compact(block.symbols).reshape(-1))
        progress.advance(size, size)
    return sizes, symbols


def _statistics(parts: list[Symbols], size: int) -> Row:
    joined = _joined(parts)
    occurrences = counts(joined)
    return {
        "levels": len(occurrences),
        "zeros": int((joined == 0).sum()),
        "zero_order_bits_per_weight": entropy_bits_of_counts(occurrences) / max(1, size),
    }


def _joined(parts: list[Symbols]) -> Symbols:
    if len(parts) != 1:
        parts[:] = [np.concatenate(parts) if parts else np.zeros(0, np.int8)]
    return parts[0]
