"""`.mtq` files within `.safetensors` files, which is how a folder for `AutoModel.from_pretrained` holds them.

Such a file has two kinds of uint8 tensors beside plain ones:

    metaq.payload.N     a whole `.mtq` file; N is its number among those of the folder
    NAME                16 bytes that stand for a tensor: "metaq", three bytes of 0, N, and the tensor's place in that
                        `.mtq` file, each of four bytes, the least significant first

`transformers` finds out from the names in a file which parameters there are. It renames them, merges some, and sends
each to its device before it looks at any value. So every name is there, and what stands under it says by itself where
its weights are. A payload is not cut into a piece for each tensor, because tensors share its header, chunks and
statistics.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metaq.errors import FormatError, InputError
from metaq.files import FileBytes, refuse_devices
from metaq.format.dtypes import BY_NAME
from metaq.format.network import Layout
from metaq.format.reader import Reader
from metaq.format.safe_open import OpenFile
from metaq.io.safetensors import Put, layout_of, opened_again, opening, packed_header, write_pieces
from metaq.io.source import StoredTensor, tensor_of

if TYPE_CHECKING:
    from torch import Tensor

QUANT_METHOD, VERSION = "metaq", 1  # what `quantization_config` in a folder's config.json says
PAYLOAD = "metaq.payload."
METADATA = {"format": "pt"}  # without which transformers refuses a file

_REFERENCE = struct.Struct("<8sII")
_MAGIC = b"metaq\0\0\0"
_MOST_BYTES = 10**15  # of a payload
_PIECE_BYTES = 1 << 24  # of a payload that is copied, at a time
_MOST_HEADER_BYTES = 10**8  # as the safetensors library has it


class Reference(NamedTuple):
    """What stands for a tensor: the number of the payload that it is in, and its place there."""

    payload: int
    tensor: int

    def octets(self) -> np.ndarray:
        """The 16 bytes, uint8."""
        return np.frombuffer(_REFERENCE.pack(_MAGIC, *self), np.uint8)


def read_reference(octets: np.ndarray) -> Reference | None:
    """The reference that an array of uint8 is, or None if it is a tensor by itself.

    Example:
        >>> read_reference(Reference(0, 3).octets())
        Reference(payload=0, tensor=3)
    """
    if octets.dtype != np.uint8 or octets.shape != (_REFERENCE.size,):
        return None
    magic, payload, tensor = _REFERENCE.unpack(octets.tobytes())
    return Reference(payload, tensor) if magic == _MAGIC else None


def write_wrapped(source: Path, target: Path, number: int) -> list[str]:
    """Wrap a `.mtq` file in a `.safetensors` file; returns the names in it.

    Args:
        number: of the payload among those of the folder.

    Raises:
        InputError: a file cannot be read or written, or a tensor has the name of a payload.
        FormatError: the source's header or size is not that of a whole `.mtq` file.
    """
    data = FileBytes(source)
    names = [row[0] for row in Reader(data, str(source)).rows]
    payload = f"{PAYLOAD}{number}"
    layouts = _layouts(names, payload, len(data))

    def fill(put: Put) -> None:
        for index, name in enumerate(names):
            put(name, 0, Reference(number, index).octets())
        for first in range(0, len(data), _PIECE_BYTES):
            put(payload, first, data.array(first, min(_PIECE_BYTES, len(data) - first)))

    write_pieces(target, layouts, METADATA, fill)
    return list(layouts)


def wrapping_bytes(names: Iterable[str], number: int) -> int:
    """How many bytes a `.safetensors` file has at most beside the `.mtq` file of these names that is wrapped in it."""
    header, _, size_bytes = packed_header(_layouts(list(names), f"{PAYLOAD}{number}", _MOST_BYTES), METADATA)
    return len(header) + size_bytes - _MOST_BYTES


def _layouts(names: Sequence[str], payload: str, size_bytes: int) -> dict[str, Layout]:
    octet = BY_NAME["uint8"]
    for name in names:
        if name.startswith(PAYLOAD):
            raise InputError(f"tensor {name!r}: expected a name that does not begin with {PAYLOAD!r}, found one")
    return {name: Layout(octet, (_REFERENCE.size,)) for name in names} | {payload: Layout(octet, (size_bytes,))}


class Entry(NamedTuple):
    """What stands under a name in a `.safetensors` file, and where; its bytes are read when they are asked for.

    Nothing is mapped, since a file that becomes shorter would end the process.

    Attributes:
        dtype: as the format names it.
        begin: where in the file its bytes begin.
        size_bytes: how many they are.
        state: of the file, as of `FileBytes`.
        reference: what it refers to, if it is a reference.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int
    state: tuple[int, int]
    reference: Reference | None

    @property
    def payload(self) -> int | None:
        """The number of the payload that it is, or None if it is none.

        Raises:
            InputError: it has the name of a payload, but no number.
        """
        text = self.name.removeprefix(PAYLOAD)
        if text == self.name:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise InputError(f"{self.path}: expected a number behind {PAYLOAD!r}, found {self.name!r}")
        return int(text)

    def open(self) -> FileBytes:
        """Its bytes.

        Raises:
            InputError: the file cannot be read, or has changed since the entry was read.
        """
        return opened_again(self.path, self.state, self.begin, self.size_bytes)

    def octets(self) -> np.ndarray:
        """A copy of its bytes, uint8; errors are those of `open`."""
        with self.open() as data:
            return data.array(0, self.size_bytes)

    def reader(self) -> Reader:
        """The `.mtq` file that it is, if it is a payload; errors are those of `open` and `Reader`."""
        return Reader(self.open(), f"{self.path}, {self.name}")

    def tensor(self) -> Tensor:
        """What it is, if it is neither; errors are those of `open`, and an InputError for a dtype of others."""
        dtype, shape = layout_of(self.path, self.name, self.dtype, self.shape)
        return tensor_of(StoredTensor(dtype, shape, self.octets()))


def read_entries(path: Path) -> list[Entry]:
    """All that is in a `.safetensors` file, in its order.

    Raises:
        InputError: it is no such file.
    """
    refuse_devices(path)
    with opening(path):
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:  # which checks the header
            names = list(file.offset_keys())
    with FileBytes(path) as data:
        header_bytes = int.from_bytes(data.read(0, 8), "little")
        try:
            header = json.loads(data.read(8, header_bytes))
            return [_entry(path, data, name, header[name], 8 + header_bytes) for name in names]
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{path}: expected the file as it was at the start, found it changed") from None


def _entry(path: Path, data: FileBytes, name: str, fields: Mapping[str, Any], begin: int) -> Entry:
    first, last = fields["data_offsets"]
    dtype, shape = fields["dtype"], tuple(fields["shape"])
    is_like_one = (dtype, shape, last - first) == ("U8", (_REFERENCE.size,), _REFERENCE.size)
    reference = read_reference(data.array(begin + first, _REFERENCE.size)) if is_like_one else None
    return Entry(path, name, dtype, shape, begin + first, last - first, data.state, reference)


def check_reference(reference: Reference, name: str, counts: Mapping[int, int]) -> None:
    """Raise a FormatError if a reference leads nowhere.

    Args:
        name: under which it stands.
        counts: how many tensors each payload of the folder has, by its number.
    """
    if reference.payload not in counts:
        found = f"one to payload {reference.payload}"
        raise FormatError(f"tensor {name!r}: expected a reference to one of the folder's payloads, found {found}")
    if reference.tensor >= counts[reference.payload]:
        found = f"one to tensor {reference.tensor}"
        raise FormatError(f"tensor {name!r}: expected a reference to one of {counts[reference.payload]}, found {found}")


class WrappedTensors:
    """The tensors of `.safetensors` files that have `.mtq` files in them, decoded as they are asked for.

    Args:
        files: all those of a folder.

    Raises:
        InputError: a file is not a `.safetensors` file, or no payload is in any.
        FormatError: the header or the size of a payload is not that of a whole `.mtq` file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._entries: dict[str, Entry] = {}  # those that are no payloads
        self._payloads: dict[int, _Payload] = {}
        self._last: int | None = None  # the number of the payload that was read last
        for path in files:
            for entry in read_entries(path):
                if entry.payload is None:
                    self._entries[entry.name] = entry
                    continue
                if entry.payload in self._payloads:
                    found = f"{entry.name!r} in another too"
                    raise InputError(f"{path}: expected each payload in one file, found {found}")
                self._payloads[entry.payload] = _Payload(entry)
        if not self._payloads:
            place = files[0].parent if files else "folder"
            remedy = "`metaq compress FOLDER -o OUTPUT --as safetensors` makes such files"
            raise InputError(f"{place}: expected a tensor '{PAYLOAD}0' in its files, found none; {remedy}")

    def close(self) -> None:
        """Let go of the files; tensors taken from them stay."""
        for payload in self._payloads.values():
            payload.close()

    def names_in(self, path: Path) -> list[str]:
        """The names that a file has, those of payloads included."""
        entries = [*self._entries.values(), *self.payloads().values()]
        return [entry.name for entry in entries if entry.path == path]

    def payloads(self) -> dict[int, Entry]:
        """The `.mtq` files, by their numbers."""
        return {number: payload.entry for number, payload in self._payloads.items()}

    def reference(self, tensor: Tensor) -> Reference | None:
        """What a tensor of a file refers to, if it is a reference."""
        if tensor.shape != (_REFERENCE.size,) or tensor.element_size() != 1 or tensor.is_floating_point():
            return None
        return read_reference(tensor.cpu().numpy())

    def tensor_at(self, reference: Reference, name: str) -> Tensor:
        """The tensor that a reference stands for, on the CPU.

        Args:
            name: what errors call it.

        Raises:
            FormatError: the reference leads nowhere, or a chunk of the payload is damaged.
        """
        check_reference(reference, name, {number: len(payload.rows) for number, payload in self._payloads.items()})
        payload = self._payloads[reference.payload]
        if self._last not in (None, reference.payload):
            self._payloads[self._last].close()
        self._last = reference.payload
        return payload.tensor(reference.tensor)

    def items(self) -> Iterator[tuple[str, Reference | None, Tensor]]:
        """Every name, in the files' order, what stands under it if that is a reference, and its tensor.

        Second names of one tensor in a file come with the same object.
        """
        for path in dict.fromkeys(entry.path for entry in self._entries.values()):
            yield from self.items_in(path)

    def items_in(self, path: Path) -> Iterator[tuple[str, Reference | None, Tensor]]:
        """As `items`, of one file."""
        seen: dict[tuple[int, int], Tensor] = {}
        for name, entry in self._entries.items():
            if entry.path != path:
                continue
            reference = entry.reference
            if reference is None:
                yield name, None, entry.tensor()
                continue
            first = self._first(reference)
            found = seen[first] if first in seen else self.tensor_at(reference, name)
            if first in self._shared:
                seen[first] = found
            yield name, reference, found

    @cached_property
    def _shared(self) -> set[tuple[int, int]]:
        """Where tensors are that have several names."""
        return {
            (number, row[5])
            for number, payload in self._payloads.items()
            for index, row in enumerate(payload.rows)
            if row[5] != index
        }

    def _first(self, reference: Reference) -> tuple[int, int]:
        """The place of the first name of what is referred to."""
        payload = self._payloads.get(reference.payload)
        if payload is None or reference.tensor >= len(payload.rows):
            return reference
        return reference.payload, payload.rows[reference.tensor][5]


class _Payload:
    """A `.mtq` file within another file, read like one by itself, and open while it is read."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        reader = entry.reader()
        self.rows = reader.rows
        reader.close()
        self._file: OpenFile[Tensor] | None = None

    def tensor(self, index: int) -> Tensor:
        """The tensor at a place in the file."""
        from metaq.tensors import new_tensor

        if self._file is None:
            self._file = OpenFile(self.entry.reader(), new_tensor)
        return self._file.get_tensor(self.rows[index][0])

    def close(self) -> None:
        """Let go of the file, and of what was decoded ahead: too much, if every payload kept some."""
        if self._file is not None:
            self._file.close()
        self._file = None


def has_payload(path: Path) -> bool:
    """Whether a `.safetensors` file has a `.mtq` file in it; False where it is no such file. Reads the header alone."""
    try:
        refuse_devices(path)
        with open(path, "rb") as file:
            size_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size_bytes)) if size_bytes < _MOST_HEADER_BYTES else {}
    except (InputError, OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and any(name.startswith(PAYLOAD) for name in header)
