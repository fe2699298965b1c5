"""`safe_open`: tensors of a `.mtq` file one at a time, as safetensors' function of that name gives them."""

from __future__ import annotations

import os
from typing import Generic, TypeVar

from metaq.files import Closable, open_bytes
from metaq.format.limits import Limits
from metaq.format.reader import NewArray, Reader

Array = TypeVar("Array")


class OpenFile(Closable, Generic[Array]):
    """A `.mtq` file of which only the chunks that are asked for are read and decoded.

    Tensors asked for in the file's order are decoded some at a time, ahead, on all cores. What else was decoded with a
    tensor is kept for later, up to 64 MiB of it. Several threads may ask.

    Args:
        file: its path, or a reader of it, which is closed with this.
        new: makes the arrays.
        limits: beyond which a file at a path is refused.

    Raises:
        InputError: the file cannot be read, or is beyond the limits.
        FormatError: its header or its size is not that of a whole `.mtq` file.
    """

    def __init__(
        self, file: str | os.PathLike[str] | Reader, new: NewArray[Array], limits: Limits | None = None
    ) -> None:
        self._reader = file if isinstance(file, Reader) else Reader(open_bytes(file), str(file), limits=limits)
        self._new = new
        self._next = 0  # behind the tensor that was asked for last
        self._ahead: dict[str, Array] = {}  # decoded, not asked for yet

    def close(self) -> None:
        """Let go of the file; tensors taken from it stay."""
        self._ahead = {}
        self._reader.close()

    def keys(self) -> list[str]:
        """Names of the tensors, in the file's order."""
        return [row[0] for row in self._reader.rows]

    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        return dict(self._reader.header.metadata)

    def get_tensor(self, name: str) -> Array:
        """One whole tensor.

        Raises:
            InputError: no tensor has that name.
            FormatError: a chunk of it is damaged.
        """
        index = self._reader.index(name)
        is_in_order, self._next = index == self._next, index + 1
        ahead = self._ahead  # which another thread may replace
        tensor: Array | None = ahead.pop(name, None)
        if tensor is None and is_in_order:
            ahead = self._reader.group(index, self._new)
            tensor = ahead.pop(name)
            self._ahead = ahead
        return self._reader.tensor(name, new=self._new) if tensor is None else tensor

    def get_slice(self, name: str) -> TensorSlice[Array]:
        """A tensor to take rows of, without decoding it now.

        Raises:
            InputError: no tensor has that name.
        """
        return TensorSlice(self._reader, name, self._new)


class TensorSlice(Generic[Array]):
    """A tensor of a file, of which ``[first:last]`` decodes the chunks that hold those rows and no others."""

    def __init__(self, reader: Reader, name: str, new: NewArray[Array]) -> None:
        self._reader = reader
        self._name = name
        self._new = new
        self._shape = reader.shape(name)

    def get_shape(self) -> list[int]:
        """The whole tensor's shape."""
        return list(self._shape)

    def __getitem__(self, index: slice | int | tuple[slice | int, ...]) -> Array:
        first, *others = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice) and first.step in (None, 1):
            taken: Array = self._reader.tensor(self._name, first, self._new)[(slice(None), *others)]
        else:
            taken = self._reader.tensor(self._name, new=self._new)[index]
        return taken
