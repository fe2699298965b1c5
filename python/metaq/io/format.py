"""What every kind of checkpoint file is: its name, how it is told from others, how it is read and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from metaq.errors import InputError
from metaq.io.source import StoredTensor, TensorSource


class Format(ABC):
    """A kind of checkpoint file. Adding one is a file with a subclass, and one line in `metaq.io.formats`.

    Attributes:
        name: what messages call it.
        suffixes: of its files; the first is that of new ones.
        reads_pieces: whether sources are read a piece at a time; otherwise the whole file is held in memory.
        package: the package that is needed beside metaq's own, if one is.
        extra: the extra of metaq-nn that installs it.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    reads_pieces: ClassVar[bool] = False
    package: ClassVar[str | None] = None
    extra: ClassVar[str | None] = None

    @abstractmethod
    def recognises(self, start: bytes, size_bytes: int) -> bool:
        """Whether a file of so many bytes that begins with these (as many as `START_BYTES`, if there are) is one."""

    @abstractmethod
    def open(self, path: Path, key: str | None = None) -> TensorSource:
        """A file's tensors.

        Args:
            key: under which the state dict is, in files that hold more than one.

        Raises:
            InputError: the file is not readable, not of this format, or has no such key.
        """

    @abstractmethod
    def write(self, path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
        """Write a file, whole or not at all.

        Raises:
            InputError: tensors that the format cannot hold, or a place that cannot be written.
        """

    def missing(self, path: Path) -> InputError:
        """What to raise where the package is not installed."""
        expected = f"expected the package {self.package} for {self.suffixes[0]} files"
        return InputError(f"{path}: {expected}, found none: pip install 'metaq-nn[{self.extra}]'")

    def refuse_key(self, path: Path, key: str | None) -> None:
        """Raise an InputError if a key is given, for formats in which tensors lie under none."""
        if key is not None:
            raise InputError(
                f"{path}: expected no key for a {self.name} file, whose tensors lie under none, found {key!r}"
            )


START_BYTES = 512  # that tell formats apart
