"""The header of a `.mtq` file: its Python form, and that form to bytes (docs/format.md, "Header").

Reading it is the native decoder's (`metaq.format.checked_file`).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metaq.codebook import Codebook, IntegerCodebook, UniformCodebook
from metaq.floats import default_floats
from metaq.format.dtypes import CODED_FLOATS, Dtype
from metaq.matrix_layout import MatrixLayout

MAGIC = b"MTQ"
VERSION = 1

MAX_HEADER_BYTES = 1 << 26
MAX_ELEMENTS = 1 << 40
MAX_DIMENSIONS = 32

CODED, KEPT, ALIAS, SCALED, CHANGED, REMOVED = 0, 1, 2, 3, 4, 5
KINDS_OF_SYMBOLS = (CODED, SCALED)
UNIFORM, TABLE, INTEGER = 0, 1, 2
DIFFERENCE = 1  # a flag


class Change(NamedTuple):
    """How a changed tensor of a difference is made of the base's.

    The first ``common`` elements of both correspond, and so many of them are ``differing``. ``shape`` is the result's,
    ``source`` the name of the base's tensor.
    """

    shape: tuple[int, ...]
    common: int
    differing: int
    source: str


class TensorEntry(NamedTuple):
    """One tensor: coded if it has a codebook, an alias of the entry at ``target`` if it has one, kept otherwise.

    A coded tensor that is seen as a matrix, ``scaled`` in the file's terms, has its layout as ``matrix``. A changed one
    has a ``change``, and its shape is that of what the file keeps of it, the elements behind those in common with the
    base's. A removed one has no elements.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    codebook: Codebook | None = None
    target: int | None = None
    matrix: MatrixLayout | None = None
    change: Change | None = None
    is_removed: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class ChunkEntry(NamedTuple):
    """One chunk: the coder's identifier, the number of symbols, the payload's size in bytes without its checksum."""

    coder: int
    symbols: int
    payload_bytes: int


@dataclass(frozen=True)
class Header:
    """All that a file says before its chunks; of a difference also its base's checksum, in hexadecimal."""

    metadata: dict[str, str]
    tensors: list[TensorEntry]
    chunks: list[ChunkEntry]
    base: str | None = None


def fits_limits(shape: tuple[int, ...]) -> bool:
    """Whether a file may hold a tensor of this shape."""
    # Every dimension counts as at least one, so that no huge dimension hides behind a zero.
    return len(shape) <= MAX_DIMENSIONS and math.prod([length or 1 for length in shape]) < MAX_ELEMENTS


def fits_dtype(codebook: Codebook, dtype: Dtype) -> bool:
    """Whether a codebook may belong to a tensor of this dtype."""
    return not dtype.is_float if isinstance(codebook, IntegerCodebook) else dtype in CODED_FLOATS


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: str) -> bytes:
    """UTF-8, and its length before it."""
    encoded = text.encode("utf-8")
    return varint(len(encoded)) + encoded


def pack_shape(shape: tuple[int, ...]) -> bytes:
    """The number of dimensions, and the dimensions."""
    return bytes([len(shape)]) + b"".join(map(varint, shape))


def pack(header: Header) -> bytes:
    """The header's bytes, before text coding."""
    out = bytearray(b"\0" if header.base is None else bytes([DIFFERENCE]) + bytes.fromhex(header.base))
    out += varint(len(header.metadata))
    for key, value in header.metadata.items():
        out += string(key) + string(value)
    out += varint(len(header.tensors))
    codebooks: dict[bytes, int] = {}  # by their bytes, which tell -0.0 from 0.0
    for entry in header.tensors:
        out += string(entry.name) + bytes([entry.dtype.code])
        if entry.target is not None:
            out += bytes([ALIAS]) + varint(entry.target)
            continue
        out += bytes([_kind(entry)])
        if entry.is_removed:
            continue
        if entry.change is not None:
            out += _pack_change(entry.name, entry.change)
            continue
        out += pack_shape(entry.shape)
        if entry.codebook is not None:
            definition = _pack_codebook(entry.codebook)
            out += varint(codebooks[definition]) if definition in codebooks else b"\0" + definition
            codebooks.setdefault(definition, len(codebooks) + 1)
        if entry.matrix is not None:
            out += _pack_matrix(entry.matrix)
    out += varint(len(header.chunks))
    for position, chunk in enumerate(header.chunks):
        is_last = position == len(header.chunks) - 1
        out += bytes([chunk.coder]) + varint(0 if is_last else chunk.symbols) + varint(chunk.payload_bytes)
    return bytes(out)


def _kind(entry: TensorEntry) -> int:
    if entry.is_removed:
        return REMOVED
    if entry.change is not None:
        return CHANGED
    if entry.codebook is None:
        return KEPT
    return CODED if entry.matrix is None else SCALED


def _pack_change(name: str, change: Change) -> bytes:
    source = b"\0" if change.source == name else b"\1" + string(change.source)
    return pack_shape(change.shape) + varint(change.common) + varint(change.differing) + source


def _pack_matrix(matrix: MatrixLayout) -> bytes:
    logs = [part for part in (matrix.row_logs, matrix.column_logs) if part is not None]
    layout = (matrix.row_logs is not None) | (matrix.column_logs is not None) << 1 | matrix.by_columns << 2
    return bytes([layout]) + varint(matrix.leading) + b"".join(part.tobytes() for part in logs)


@default_floats()
def _pack_codebook(codebook: Codebook) -> bytes:
    if isinstance(codebook, UniformCodebook):
        return bytes([UNIFORM]) + struct.pack("<f", codebook.step)
    if isinstance(codebook, IntegerCodebook):
        return bytes([INTEGER])
    sizes = varint(len(codebook.levels)) + varint(codebook.origin)
    return bytes([TABLE]) + sizes + np.asarray(codebook.levels, dtype="<f4").tobytes()
