"""The checkpoint files of a folder."""

from __future__ import annotations

from pathlib import Path

from metaq.errors import InputError
from metaq.io.huggingface import MTQ, read_checkpoint_folder, read_folder


def mtq_paths(path: Path) -> list[Path]:
    """The `.mtq` files that a folder's index names, or all of them where there is no index, in order.

    Raises:
        InputError: the folder has none, or its index is malformed or names one that is missing.
    """
    if any(path.glob(f"*{MTQ}.index.json")):
        return list(read_folder(path, MTQ).paths().values())
    found = sorted(file for file in path.glob(f"*{MTQ}") if file.is_file())
    if not found:
        raise InputError(f"{path}: expected a folder with *{MTQ} files, found none")
    return found


def checkpoint_paths(path: Path) -> list[Path]:
    """`mtq_paths` of a folder that has `.mtq` files, the shards of any other, in order.

    Raises:
        InputError: the folder has no checkpoint, or its index is malformed or names a file that is missing.
    """
    has_mtq = any(path.glob(f"*{MTQ}")) or any(path.glob(f"*{MTQ}.index.json"))
    return mtq_paths(path) if has_mtq else list(read_checkpoint_folder(path).paths().values())
