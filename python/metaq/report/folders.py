"""The checkpoint files of a folder."""

from __future__ import annotations

from pathlib import Path

from metaq.errors import InputError
from metaq.io.huggingface import MTQ, SAFETENSORS, read_folder

__all__ = ["MTQ", "SAFETENSORS", "shard_paths"]


def shard_paths(path: Path, *suffixes: str) -> list[Path]:
    """The shards that a folder's index names, or where there is no index all files of one suffix, in order.

    Args:
        suffixes: the first of which the folder has files counts.

    Raises:
        InputError: the folder has no such file, or its index is malformed or names one that is missing.
    """
    for suffix in suffixes:
        if any(path.glob(f"*{suffix}.index.json")):
            return [path / shard for shard in read_folder(path, suffix).shards]
        found = sorted(file for file in path.glob(f"*{suffix}") if file.is_file())
        if found:
            return found
    raise InputError(f"{path}: expected a folder with {' or '.join(suffixes)} files, found none")
