"""The kinds of compressed folders. Loads nothing, so that the command line's help need not wait."""

from __future__ import annotations

from enum import StrEnum


class FolderKind(StrEnum):
    """What the shards of a compressed folder are: `.mtq` files, or safetensors files with these in them."""

    MTQ = "mtq"
    SAFETENSORS = "safetensors"

    @property
    def suffix(self) -> str:
        """Of the shards' file names."""
        return f".{self.value}"
