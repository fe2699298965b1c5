"""`.safetensors` files, read and written a piece at a time. Writing needs nothing but NumPy."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from metaq.errors import InputError
from metaq.files import FileBytes, atomic_file, write_error
from metaq.format.dtypes import BY_NAME, DTYPES
from metaq.format.header import fits_limits
from metaq.format.network import Layout
from metaq.io.format import Format
from metaq.io.source import StoredTensor, TensorSource, stored

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    BY_NAME["float32"]: "F32",
    BY_NAME["float16"]: "F16",
    BY_NAME["bfloat16"]: "BF16",
    BY_NAME["float64"]: "F64",
    BY_NAME["float8_e4m3fn"]: "F8_E4M3",
    BY_NAME["float8_e5m2"]: "F8_E5M2",
    BY_NAME["uint8"]: "U8",
    BY_NAME["int8"]: "I8",
    BY_NAME["int16"]: "I16",
    BY_NAME["int32"]: "I32",
    BY_NAME["int64"]: "I64",
    BY_NAME["bool"]: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
assert set(_NAMES) == set(DTYPES.values())

# Takes a tensor's name, the place of the first element among those of the flattened tensor, and elements' bytes.
Put = Callable[[str, int, np.ndarray], None]


class Safetensors(Format):
    """`.safetensors` files. Shared tensors are written once for each name: the format knows no sharing."""

    name = "safetensors"
    suffixes = (".safetensors",)
    reads_pieces = True
    package = "safetensors"
    extra = "torch"

    def recognises(self, start: bytes, size_bytes: int) -> bool:
        """Whether it begins with a header's length and its first character."""
        return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size_bytes

    def open(self, path: Path, key: str | None = None) -> TensorSource:
        """The file, which is read as it is asked for."""
        self.refuse_key(path, key)
        return SafetensorsFile(path)

    def write(self, path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
        """Wider elements first, otherwise in the order given."""
        layouts = {name: Layout(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}

        def fill(put: Put) -> None:
            for name, tensor in tensors.items():
                put(name, 0, tensor.octets)

        write_pieces(path, layouts, metadata, fill)


class SafetensorsFile:
    """A `.safetensors` file as a `TensorSource`, in the file's order.

    Nothing is mapped, since mapped pages would count as resident memory, and nothing stays open, since a folder may
    have more shards than a process may open files.

    Raises:
        InputError: not a readable `.safetensors` file, or one with a dtype that `.mtq` files do not have.
    """

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import safe_open
        except ImportError:
            raise Safetensors().missing(path) from None
        self.path, self.name = path, str(path)
        self.layouts: dict[str, Layout] = {}
        self.aliases: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        with opening(path):
            with safe_open(path, framework="numpy") as file:
                self.metadata: dict[str, str] = dict(file.metadata() or {})
                for name in file.offset_keys():
                    view = file.get_slice(name)
                    self.layouts[name] = layout_of(path, name, view.get_dtype(), tuple(view.get_shape()))
            with FileBytes(path) as data:
                offset = 8 + int.from_bytes(data.read(0, 8), "little")
                self._state = data.state
        for name, layout in self.layouts.items():  # without gaps, as opening has checked
            self._offsets[name] = offset
            offset += layout.size_bytes

    def read(self, name: str, elements: range) -> Tensor:
        """Some elements of a tensor, flattened.

        Raises:
            InputError: the file cannot be read, or has changed.
        """
        import torch

        from metaq.tensors import DTYPES, octets_of

        dtype, _ = self.layouts[name]
        part = torch.empty(len(elements), dtype=DTYPES[dtype])
        with opened_again(self.path, self._state) as data:
            data.fill(self._offsets[name] + elements.start * dtype.itemsize, octets_of(part).data)
        return part

    def close(self) -> None:
        """Do nothing, because nothing stays open."""


def layout_of(path: Path, name: str, found: str, shape: tuple[int, ...]) -> Layout:
    """A tensor's dtype and shape, from the name that the format has for the dtype.

    Raises:
        InputError: `.mtq` files do not have such tensors.
    """
    if found not in _DTYPES:
        raise InputError(f"{path}, tensor {name!r}: expected one of {', '.join(_DTYPES)}, found {found}")
    if not fits_limits(shape):
        expected = "at most 32 dimensions and 2^40 elements"
        raise InputError(f"{path}, tensor {name!r}: expected {expected}, found shape {shape}")
    return Layout(_DTYPES[found], shape)


def opened_again(path: Path, state: tuple[int, int], begin: int = 0, size_bytes: int | None = None) -> FileBytes:
    """A file that was looked at before, to be read where it is looked at.

    Args:
        state: what `FileBytes.state` was then.
        begin, size_bytes: as of `FileBytes`.

    Raises:
        InputError: it cannot be read, or has changed since then.
    """
    data = FileBytes(path, begin, size_bytes)
    if data.state != state:
        raise InputError(f"{path}: expected the file as it was at the start, found it changed")
    return data


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Errors of the library and of the system within become one that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a .safetensors file, found something else ({reason})") from None


def write_pieces(
    path: Path, layouts: Mapping[str, Layout], metadata: Mapping[str, str], fill: Callable[[Put], None]
) -> None:
    """Write a file whose tensors come in pieces, in any order.

    Args:
        layouts: of each tensor. Their order is kept but for wider elements, which come first.
        fill: is given a function that puts pieces in their places; it may be called from several threads.

    Raises:
        InputError: a place that cannot be written, or a tensor under the one name that the format keeps for itself.
    """
    header, offsets, size = packed_header(layouts, metadata, str(path))
    start, end = len(header), len(header) + size
    with atomic_file(path, end) as file:
        file.write(header)
        file.flush()
        file.truncate(end)

        def put(name: str, first: int, octets: np.ndarray) -> None:
            place = start + offsets[name] + first * layouts[name].dtype.itemsize
            try:
                _write_at(file, octets.data, place)
            except OSError as error:
                raise write_error(path, error, end) from None

        fill(put)


def packed_header(
    layouts: Mapping[str, Layout], metadata: Mapping[str, str], name: str = "file"
) -> tuple[bytes, dict[str, int], int]:
    """What a file begins with, where behind it each tensor begins, and how many bytes the tensors take.

    Args:
        name: what errors call the file.

    Raises:
        InputError: a tensor is under the one name that the format keeps for itself.
    """
    if "__metadata__" in layouts:
        raise InputError(f"{name}: expected no tensor called '__metadata__' in a .safetensors file, found one")
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, size = {}, 0
    # Readers view the bytes as elements, which must lie at multiples of their width.
    for tensor, layout in sorted(layouts.items(), key=lambda item: -item[1].dtype.itemsize):
        offsets[tensor], size = size, size + layout.size_bytes
        place = [offsets[tensor], size]
        entries[tensor] = {"dtype": _NAMES[layout.dtype], "shape": layout.shape, "data_offsets": place}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, offsets, size


def _write_at(file: BinaryIO, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(file.fileno(), data, offset)
        data, offset = data[count:], offset + count


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the file's order, and its metadata.

    Raises:
        InputError: as `SafetensorsFile`.
    """
    file = SafetensorsFile(path)
    try:
        state = {
            name: file.read(name, range(layout.size)).reshape(layout.shape) for name, layout in file.layouts.items()
        }
    finally:
        file.close()
    return state, file.metadata


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write torch's tensors.

    Raises:
        InputError: as `write_pieces`.
    """
    Safetensors().write(path, stored(state), metadata)
