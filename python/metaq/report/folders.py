"""The checkpoint files of a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from metaq.errors import InputError
from metaq.files import open_bytes
from metaq.format.reader import Reader
from metaq.io.huggingface import MTQ, SAFETENSORS, read_checkpoint_folder, read_folder
from metaq.io.payload import Entry, check_reference, has_payload, read_entries


@dataclass(frozen=True)
class Part:
    """A `.mtq` file in a folder, by itself or within a `.safetensors` file.

    Attributes:
        name: what it is called among the others.
        reader: opens it.
    """

    name: str
    reader: Callable[[], Reader]


@dataclass(frozen=True)
class Plain:
    """Tensors that lie beside `.mtq` files without compression."""

    tensors: int = 0
    weights: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class MtqFolder:
    """The `.mtq` files of a folder, in order.

    Attributes:
        parts: the files.
        plain: what lies beside them.
        wrapping_bytes: of `.safetensors` files that they are in, all that is not theirs or plain; None without such.
    """

    parts: list[Part]
    plain: Plain = field(default_factory=Plain)
    wrapping_bytes: int | None = None


def mtq_folder(path: Path) -> MtqFolder:
    """A folder of `.mtq` files, or of `.safetensors` files that have such in them.

    Raises:
        InputError: the folder has neither, or its index is malformed or names a file that is missing.
        FormatError: a tensor of a `.safetensors` file is a reference that leads nowhere.
    """
    if is_wrapped(path):
        return _wrapped_folder(path)
    return MtqFolder([Part(shard.name, partial(_open, shard)) for shard in mtq_paths(path)])


def _open(path: Path) -> Reader:
    return Reader(open_bytes(path), str(path))


def _wrapped_folder(path: Path) -> MtqFolder:
    folder = read_folder(path, SAFETENSORS)
    files = {shard: read_entries(place) for shard, place in folder.paths().items()}
    folder.check(lambda shard: (entry.name for entry in files[shard]))
    parts: dict[int, Part] = {}
    wrapping_bytes = sum(place.stat().st_size for place in folder.paths().values())
    for shard, entries in files.items():
        payloads = {entry.payload: entry for entry in entries if entry.payload is not None}
        for number, entry in payloads.items():
            if number in parts:
                found = f"{entry.name!r} in another too"
                raise InputError(f"{entry.path}: expected each payload in one file, found {found}")
            name = shard if len(payloads) == 1 else f"{shard}, {entry.name}"
            parts[number] = Part(name, entry.reader)
            wrapping_bytes -= entry.size_bytes
    others = [entry for entries in files.values() for entry in entries if entry.payload is None]
    plain = _plain(others, {number: len(part.reader().rows) for number, part in parts.items()})
    return MtqFolder(list(parts.values()), plain, wrapping_bytes - plain.size_bytes)


def _plain(entries: list[Entry], counts: Mapping[int, int]) -> Plain:
    """Those that are no references, which lead to one of so many tensors of each payload."""
    found: list[Entry] = []
    for entry in entries:
        if entry.reference is None:
            found.append(entry)
        else:
            check_reference(entry.reference, entry.name, counts)
    weights, size_bytes = sum(math.prod(entry.shape) for entry in found), sum(entry.size_bytes for entry in found)
    return Plain(len(found), weights, size_bytes)


def mtq_paths(path: Path) -> list[Path]:
    """The `.mtq` files that a folder's index names, or all of them where there is no index, in order.

    Raises:
        InputError: the folder has none, or its index is malformed or names one that is missing.
    """
    if any(path.glob(f"*{MTQ}.index.json")):
        return list(read_folder(path, MTQ).paths().values())
    found = sorted(file for file in path.glob(f"*{MTQ}") if file.is_file())
    if not found:
        expected = f"a folder with *{MTQ} files, or with *{SAFETENSORS} files that have such in them"
        raise InputError(f"{path}: expected {expected}, found none")
    return found


def checkpoint_paths(path: Path) -> list[Path]:
    """`mtq_paths` of a folder that has `.mtq` files, the shards of any other, in order.

    Raises:
        InputError: the folder has no checkpoint, or its index is malformed or names a file that is missing.
    """
    return mtq_paths(path) if _has_mtq(path) else list(read_checkpoint_folder(path).paths().values())


def is_wrapped(path: Path) -> bool:
    """Whether a folder has `.mtq` files within `.safetensors` files, and none by themselves."""
    return not _has_mtq(path) and any(map(has_payload, path.glob(f"*{SAFETENSORS}")))


def _has_mtq(path: Path) -> bool:
    return any(path.glob(f"*{MTQ}")) or any(path.glob(f"*{MTQ}.index.json"))
