"""`safe_open`: tensors of a `.mtq` file one at a time, as safetensors' function of that name gives them."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from torch import Tensor

from metaq.files import map_bytes
from metaq.format.reader import Reader


class safe_open:  # noqa: N801 - the name that safetensors has made known
    """A `.mtq` file read from a memory map; only the chunks that are asked for are read and decoded::

        with metaq.safe_open("model.mtq") as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
            first_rows = file.get_slice("embedding.weight")[:100]

    Raises:
        InputError: the file cannot be read.
        FormatError: its header or its size is not that of a whole `.mtq` file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = Reader(map_bytes(path), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; tensors taken from it stay."""
        self._reader.data.release()

    def keys(self) -> list[str]:
        """Names of the tensors, in the file's order."""
        return [entry.name for entry in self._reader.header.tensors]

    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        return dict(self._reader.header.metadata)

    def get_tensor(self, name: str) -> Tensor:
        """One whole tensor.

        Raises:
            InputError: no tensor has that name.
            FormatError: a chunk of it is damaged.
        """
        return self._reader.tensor(name)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to take rows of, without decoding it now.

        Raises:
            InputError: no tensor has that name.
        """
        return TensorSlice(self._reader, name, self._reader.shape(name))


class TensorSlice:
    """A tensor of a file, of which ``[first:last]`` decodes the chunks that hold those rows and no others."""

    def __init__(self, reader: Reader, name: str, shape: tuple[int, ...]) -> None:
        self._reader = reader
        self._name = name
        self._shape = shape

    def get_shape(self) -> list[int]:
        """The whole tensor's shape."""
        return list(self._shape)

    def __getitem__(self, index: slice | int | tuple[slice | int, ...]) -> Tensor:
        first, *others = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice) and first.step in (None, 1):
            return self._reader.tensor(self._name, first)[(slice(None), *others)]
        return self._reader.tensor(self._name)[index]
