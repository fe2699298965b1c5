"""`.safetensors` files: whole, or a piece at a time."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metaq.errors import InputError
from metaq.files import atomic_file
from metaq.tensors import DTYPES, octets_of

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
assert set(_NAMES) == set(DTYPES.values())

Layout = tuple[torch.dtype, tuple[int, ...]]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in the file's order, and its metadata.

    Raises:
        InputError: not a readable `.safetensors` file.
    """
    with _opening(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.offset_keys()}, dict(file.metadata() or {})


class SafetensorsFile:
    """A `.safetensors` file read a piece at a time. Nothing is mapped: mapped pages would count as resident memory.

    Attributes:
        tensors: dtype and shape by name, in the file's order.
        metadata: the file's own.

    Raises:
        InputError: not a readable `.safetensors` file, or one with a dtype that `.mtq` files do not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Layout] = {}
        self._offsets: dict[str, int] = {}
        with _opening(path):
            with safe_open(path, framework="pt") as file:
                self.metadata: dict[str, str] = dict(file.metadata() or {})
                for name in file.offset_keys():
                    view = file.get_slice(name)
                    self.tensors[name] = self._dtype(name, view.get_dtype()), tuple(view.get_shape())
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with its owner
            offset = 8 + struct.unpack("<Q", self._file.read(8))[0]
        for name, (dtype, shape) in self.tensors.items():  # without gaps, as opening has checked
            self._offsets[name] = offset
            offset += math.prod(shape) * dtype.itemsize

    def _dtype(self, name: str, found: str) -> torch.dtype:
        if found not in _DTYPES:
            raise InputError(f"{self.path}, tensor {name!r}: expected one of {', '.join(_DTYPES)}, found {found}")
        return _DTYPES[found]

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.tensors.values())

    def read(self, name: str, elements: range) -> Tensor:
        """Some elements of a tensor, flattened.

        Raises:
            InputError: the file cannot be read, or has become shorter.
        """
        dtype, _ = self.tensors[name]
        part = torch.empty(len(elements), dtype=dtype)
        room = octets_of(part).data
        offset = self._offsets[name] + elements.start * dtype.itemsize
        with _opening(self.path):
            while len(room):
                count = os.preadv(self._file.fileno(), [room], offset)
                if count == 0:
                    raise InputError(f"{self.path}: expected tensor {name!r} to be whole, found the file's end")
                room, offset = room[count:], offset + count
        return part

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Errors within become one that names the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a .safetensors file, found otherwise ({reason})") from None


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors; shared ones are written once for each name, since the format knows no sharing.

    Raises:
        InputError: a place that cannot be written, or a tensor under the one name that the format keeps for itself.
    """
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}

    def fill(put: Put) -> None:
        for name, tensor in state.items():
            put(name, 0, tensor)

    write_pieces(path, layout, metadata, fill)


Put = Callable[[str, int, Tensor], None]


def write_pieces(
    path: Path, layout: Mapping[str, Layout], metadata: Mapping[str, str], fill: Callable[[Put], None]
) -> None:
    """Write a file whose tensors come in pieces, in any order.

    Args:
        layout: dtype and shape of each tensor. Their order is kept but for wider elements, which come first.
        fill: is given a function that takes a tensor's name, the place of its first element among those of the
            flattened tensor, and elements; it may be called from several threads.

    Raises:
        InputError: as `write_safetensors`.
    """
    if "__metadata__" in layout:
        raise InputError(f"{path}: expected no tensor called '__metadata__' in a .safetensors file, found one")
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, size = {}, 0
    # Readers view the bytes as elements, which must lie at multiples of their width.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):
        offsets[name], size = size, size + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offsets[name], size]}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.flush()
        file.truncate(8 + len(header) + size)

        def put(name: str, first: int, elements: Tensor) -> None:
            start = 8 + len(header) + offsets[name] + first * elements.dtype.itemsize
            _write_at(file, octets_of(elements).data, start)

        fill(put)


def _write_at(file: BinaryIO, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(file.fileno(), data, offset)
        data, offset = data[count:], offset + count
