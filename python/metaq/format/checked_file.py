"""A `.mtq` file in memory: the native decoder, and in words what it finds wrong (docs/robustness.md)."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NoReturn

import numpy as np

from metaq import _native, coding
from metaq.codebook import Codebook, IntegerCodebook, TableCodebook, UniformCodebook
from metaq.errors import FormatError, InputError
from metaq.files import FileBytes
from metaq.floats import default_floats
from metaq.format.base_checksum import shortened
from metaq.format.dtypes import DTYPES
from metaq.format.header import (
    ALIAS,
    CHANGED,
    KINDS_OF_SYMBOLS,
    MAGIC,
    MAX_HEADER_BYTES,
    REMOVED,
    TABLE,
    UNIFORM,
    Change,
    ChunkEntry,
    Header,
    TensorEntry,
)
from metaq.format.limits import Limits
from metaq.format.sequence import RowRun
from metaq.matrix_layout import MatrixLayout

ALL_ELEMENTS = 2**64 - 1
TASK_BYTES = 1 << 18  # of tensors: a thread takes longer to start than to decode less
_MOST_SHOWN_AGAIN = 1 << 16  # symbols of a chunk that a coder refused, and is asked once more to say why

# A tensor's position, its first element that is wanted, how many are, and memory for just those, of any dtype.
Request = tuple[int, int, int, np.ndarray]

# By status, what was expected and what was found, with the error's numbers; others say it in words of their own.
_EXPECTED_AND_FOUND = {
    "wrong_version": ("format version 1", "version {found}; a newer metaq may read it"),
    "truncated": ("at least {expected} bytes", "{found}; the file is truncated"),
    "bytes_left_over": ("{expected} bytes", "{found}"),
    "header_checksum": ("a header that matches its checksum", "one that does not"),
    "header_coding": ("a text-coded header", "it {what}"),
    "header_left_over": ("the end of the header", "{found} more bytes"),
    "reserved_flags": ("flags 0 or 1", "{found}, for {feature}; a newer metaq may read it"),
    "bad_varint": ("a shortest varint below 2^63", "another"),
    "bad_utf8": ("UTF-8", "{octets}"),
    "repeated_key": ("distinct metadata keys", "{name} twice"),
    "repeated_name": ("distinct tensor names", "{name} twice"),
    "too_many_tensors": ("at most 2^20 tensors", "{found}"),
    "unknown_dtype": ("a known dtype", "{found} for tensor {name}; a newer metaq may read it"),
    "unknown_kind": ("a kind of 0 to {expected}", "{found} for tensor {name}; {reader}"),
    "kept_bool": ("bool tensors to be coded", "a kept or changed one, {name}"),
    "bad_alias": ("an earlier tensor of the same dtype", "alias {name} of entry {found}"),
    "too_many_dimensions": ("at most 32 dimensions", "{found} for tensor {name}"),
    "too_many_elements": ("fewer than 2^40 elements", "more, with {found} in one dimension, for tensor {name}"),
    "unknown_codebook": ("codebook kind 0, 1 or 2", "{found} for tensor {name}; a newer metaq may read it"),
    "bad_step": ("a positive finite step", "{step:g} for tensor {name}"),
    "bad_codebook_reference": ("a codebook defined before", "reference {found} for tensor {name}"),
    "codebook_dtype": ("a codebook for {what}", "a {kind} for tensor {name}"),
    "difference_dtype": ("differences to be float32", "{what} for tensor {name}"),
    "scaled_codebook": ("a uniform codebook of scaled tensor {name}", "a {kind}"),
    "bad_layout": ("a layout of 1 to 7", "{found} for tensor {name}; a newer metaq may read it"),
    "bad_leading": ("one leading dimension or more, but fewer than {expected}", "{found} for tensor {name}"),
    "empty_matrix": ("a scaled tensor to have elements", "none in tensor {name}"),
    "bad_row_scale": ("row scales that keep the step finite", "2^({found}/8) for tensor {name}"),
    "bad_common": ("1 to {expected} elements in common with the base", "{found} for tensor {name}"),
    "bad_differing": ("at most {expected} differing elements", "{found} for tensor {name}"),
    "bad_source": ("0 or 1 for the name in the base", "{found} for tensor {name}"),
    "chunk_of_changes": ("chunk {chunk} to be of one changed tensor and of coder 9, or of neither", "another"),
    "chunk_symbols": ("1 to {expected} symbols", "{found}"),
    "chunk_sum": ("chunks of {expected} symbols in all", "{found}"),
    "chunk_inside_row": ("chunk {chunk} to end between rows", "an end inside one"),
    "chunk_checksum": ("chunk {chunk} to match its checksum", "one that does not"),
    "symbol_range": ("{expected} to {most}", "{found} to {greatest}"),
    "plane_range": ("symbols of bytes, -128 to 127", "{found} to {greatest}"),
}
_PRIORS = 2  # the flag that docs/format.md reserves for them
_CODEBOOKS = ("UniformCodebook", "TableCodebook", "IntegerCodebook")


class CheckedFile:
    """A `.mtq` file: its header, checked; its chunks, checked as they are decoded.

    Args:
        data: the whole file; one on disk is read while it is decoded. Memory of other types than `bytes` may change
            meanwhile.
        name: what errors call it.
        cache_bytes: how much of what was decoded beside what was asked for may be kept for later.
        takes_differences: whether the file may be a difference, whose values are no weights.
        limits: beyond which it is refused.

    Raises:
        InputError: it is a difference, where those are not taken, or beyond the limits.
        FormatError: the bytes are not a version 1 file, whole and unchanged.
    """

    def __init__(
        self,
        data: bytes | memoryview | FileBytes,
        name: str = "data",
        cache_bytes: int = 1 << 26,
        takes_differences: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self._data = data if isinstance(data, FileBytes) else memoryview(data).cast("B")
        self.limits = limits or Limits()
        self._file = self._opened(cache_bytes, takes_differences)
        if self._file.error is not None:
            self._fail(self._file.error)
        self.rows = self._file.tensors()

    def _opened(self, cache_bytes: int, takes_differences: bool) -> _native.File:
        how = (coding.identifiers(), cache_bytes, takes_differences, *self.limits.numbers())
        if isinstance(self._data, FileBytes):
            return _native.File(self._data.fileno(), self._data.begin, self._data.size_bytes, *how)
        return _native.File(np.frombuffer(self._data, np.uint8), isinstance(self._data.obj, bytes), *how)

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return len(self._data)

    def read(self, place: int, size_bytes: int) -> bytes:
        """Bytes of the file; fewer where it ends.

        Raises:
            InputError: they cannot be read any more.
        """
        if isinstance(self._data, FileBytes):
            return self._data.read(place, size_bytes)
        return bytes(self._data[place : place + size_bytes])

    def close(self) -> None:
        """Let go of the file's bytes."""
        del self._file
        if isinstance(self._data, FileBytes):
            self._data.close()
        else:
            self._data.release()

    @cached_property
    @default_floats()
    def header(self) -> Header:
        """All that the file says before its chunks."""
        books = [_codebook(*row) for row in self._file.codebooks()]
        changes = {tensor: Change(*row) for tensor, row in self._file.changes()}
        matrices = {tensor: _matrix(*row) for tensor, row in self._file.matrices()}
        tensors = [
            TensorEntry(
                name,
                DTYPES[dtype],
                shape,
                books[codebook] if kind in KINDS_OF_SYMBOLS else None,
                target if kind == ALIAS else None,
                matrices.get(index),
                changes.get(index),
                kind == REMOVED,
            )
            for index, (name, dtype, kind, shape, codebook, target) in enumerate(self.rows)
        ]
        chunks = [ChunkEntry(coder, symbols, size) for coder, symbols, _, size in self._file.chunks()]
        return Header(dict(self._file.metadata()), tensors, chunks, self.base)

    @property
    def base(self) -> str | None:
        """Of a difference, its base's checksum in hexadecimal; None for a model."""
        base = self._file.base()
        return None if base is None else base.hex()

    @property
    def payload_offsets(self) -> list[int]:
        """Where in the file each chunk's payload begins."""
        return [offset for _, _, offset, _ in self._file.chunks()]

    @property
    def decoded_chunks(self) -> int:
        """How many chunks have been decoded so far, those decoded again counted again."""
        return self._file.decoded_chunks

    def device_image(self) -> tuple[bytes, int]:
        """The file as small devices decode it (docs/devices.md), and how many bytes of arena that takes at most.

        Raises:
            FormatError: a chunk is damaged, or is of a coder that the native decoder has not.
        """
        in_memory = CheckedFile(self.read(0, self.size_bytes), self.name)  # all of it, whatever this one reads from
        image, arena_bytes, error = in_memory._file.pack()
        if error is not None:
            self._fail(error)
        return image, arena_bytes

    def streams(self, threads: int) -> tuple[bytes, ...]:
        """What `metaq.gpu.streams` takes of the chunks; the file is bytes in memory."""
        return self._file.streams(threads)

    def chunk_runs(self) -> list[list[RowRun]]:
        """The runs that each chunk covers."""
        return [[RowRun(*row) for row in self._file.runs(chunk)] for chunk in range(len(self.header.chunks))]

    def end_of_group(self, first: int) -> int:
        """The end of the tensors that are best decoded together with the first, for one who asks for all in order."""
        return self._file.end_of_group(first, os.cpu_count() or 1)

    def decode_chunk(self, chunk: int) -> list[np.ndarray]:
        """The symbols of each run of a chunk, in one dimension: int32 of coded tensors, int8 of planes.

        Raises:
            FormatError: the chunk is damaged.
        """
        runs = self._file.runs(chunk)
        blocks: list[np.ndarray] = [
            np.empty(math.prod(shape), np.int32 if plane is None else np.int8) for _, plane, _, shape in runs
        ]
        error = self._file.decode_chunk(chunk, blocks, self._decode_elsewhere)
        if error is not None:
            self._fail(error)
        return blocks

    def fill(
        self, requests: list[Request], as_symbols: bool = False, is_session: bool = False, threads: int | None = None
    ) -> None:
        """Decode elements of tensors; each chunk that they lie in once.

        Args:
            requests: which, and to where.
            as_symbols: coded tensors as int32 symbols rather than as values.
            is_session: what else was decoded is kept for later calls that say so too.
            threads: how many at most; if not given, as many as there is work and cores for.

        Raises:
            FormatError: a chunk that is needed is damaged.
        """
        size_bytes = sum([memory.nbytes for *_, memory in requests])
        threads = min(threads or os.cpu_count() or 1, 1 + size_bytes // TASK_BYTES)
        error = self._file.decode(requests, as_symbols, is_session, threads, self._decode_elsewhere)
        if error is not None:
            self._fail(error)

    def check_payloads(self) -> None:
        """Check every chunk's checksum, without decoding.

        Raises:
            FormatError: a chunk is damaged.
        """
        for number, (_, _, offset, size) in enumerate(self._file.chunks()):
            content = memoryview(self.read(offset, size + 4))
            if zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
                expected, found = f"chunk {number} to match its checksum", "one that does not"
                raise FormatError(f"{self.name}: expected {expected}, found {found}")

    def apply_chunk(self, chunk: int, base: np.ndarray) -> np.ndarray:
        """The elements that a chunk of changes makes of as many of the base: the bytes of both, uint8 in one dimension.

        Raises:
            FormatError: the chunk is damaged.
        """
        out = np.empty(base.size, np.uint8)
        error = self._file.apply_chunk(chunk, base, out)
        if error is not None:
            self._fail(error)
        return out

    def _decode_elsewhere(
        self, chunk: int, coder: int, payload: bytes, shapes: list[tuple[int, int, int]]
    ) -> list[np.ndarray]:
        """What native code leaves to the coders of Python."""
        with self._naming(f", chunk {chunk}"):
            return coding.by_identifier(coder).decode(payload, shapes)

    @contextmanager
    def _naming(self, place: str) -> Iterator[None]:
        """Errors within say which file, and which part of it, they are about."""
        try:
            yield
        except (FormatError, InputError) as error:
            raise FormatError(f"{self.name}{place}: {error}") from None

    def _fail(self, error: _native.FileError) -> NoReturn:
        if error.status == "difference":
            found = f"a difference from the base {shortened(error.name.hex())}"
            remedy = "metaq apply BASE FILE -o NEW, or metaq.load_into(model, path), applies it to that base"
            raise InputError(f"{self.name}: expected a whole model, found {found}; {remedy}")
        if error.status == "beyond_limits":
            expected, found = f"at most {error.expected[0]} {error.what}", f"{error.found[0]}"
            remedy = f"if you trust the file, allow it more {error.what} (metaq.Limits)"
            raise InputError(f"{self.name}: expected {expected}, found {found}; {remedy}")
        if error.status == "read_failed":
            self._fail_to_read()
        if error.status == "unknown_coder":
            with self._naming(""):
                coding.by_identifier(error.found[0])
        if error.status in ("stream_truncated", "stream_corrupt"):
            self._fail_in_stream(error)
        expected, found = self._expected_and_found(error)
        raise FormatError(f"{self.name}{self._place(error)}: expected {expected}, found {found}")

    def _fail_to_read(self) -> NoReturn:
        found = len(self.read(0, self.size_bytes)) if isinstance(self._data, memoryview) else self._data.current_size()
        what = f"{found}; it has become shorter" if found < self.size_bytes else "some that cannot be read"
        raise FormatError(f"{self.name}: expected {self.size_bytes} bytes, as when it was opened, found {what}")

    def _fail_in_stream(self, error: _native.FileError) -> NoReturn:
        """A coder can say more of a bad stream than that it is bad; of one that takes long it is not asked again."""
        assert error.chunk is not None
        coder, symbols, offset, size = self._file.chunks()[error.chunk]
        name = "difference" if coder == coding.DIFFERENCE else coding.by_identifier(coder).name
        stream = f"{self.name}, chunk {error.chunk}: {name} stream"
        if coder == coding.DIFFERENCE or symbols > _MOST_SHOWN_AGAIN:
            found = "its end" if error.status == "stream_truncated" else "another"
            raise FormatError(f"{stream}: expected one as encoders write it, found {found}")
        shapes = [shape for *_, shape in self._file.runs(error.chunk)]
        self._decode_elsewhere(error.chunk, coder, self.read(offset, size), shapes)
        raise FormatError(f"{stream}: expected symbols that stand for values, found others")

    def _place(self, error: _native.FileError) -> str:
        """Behind the file's name: where it is that something is wrong."""
        if error.status in ("symbol_range", "plane_range"):
            assert error.tensor is not None
            what = ": symbols" if error.status == "symbol_range" else ""
            return f", chunk {error.chunk}, tensor {self.rows[error.tensor][0]!r}{what}"
        if error.status in ("chunk_symbols", "chunk_sum"):
            return ": header" + (f", chunk {error.chunk}" if error.chunk is not None else "")
        return "" if error.header_byte is None else f": header byte {error.header_byte}"

    def _expected_and_found(self, error: _native.FileError) -> tuple[str, str]:
        (least, most), (found, greatest) = error.expected, error.found
        byte = error.header_byte or 0
        if error.status == "not_mtq":
            return f"a .mtq file, which starts with {MAGIC!r}", repr(self.read(0, 3))
        if error.status == "header_size" and not 0 < found <= MAX_HEADER_BYTES:
            return f"a header of 1 to {MAX_HEADER_BYTES} bytes", str(found)
        if error.status == "header_size":
            return f"a header that {least} bytes can hold", f"{found} bytes"
        if error.status == "header_truncated" and error.what:
            return f"at most {least} {error.what}", str(found)
        if error.status == "header_truncated":
            return f"{least - byte} more bytes", str(found - byte)
        if error.status == "bad_levels":
            return {
                "count": ("1 to 2^20 levels", str(found)),
                "origin": (f"an origin of 0 to {least}", str(found)),
            }.get(error.what, ("finite and strictly increasing levels", "others"))
        if error.status not in _EXPECTED_AND_FOUND:
            expected, _, other = error.words.partition("expected ")[2].partition(", found ")
            return expected, other
        values = {
            "expected": least,
            "most": most,
            "found": found,
            "greatest": greatest,
            "chunk": error.chunk,
            "what": error.what,
            "octets": repr(error.name[:20]),
            "name": repr(error.name[:800].decode("utf-8", "replace"))[:200],
            "kind": _CODEBOOKS[found] if error.status in ("codebook_dtype", "scaled_codebook") else "",
            "feature": "a table of priors" if found & _PRIORS else "what this version does not know",
            "reader": "a difference may have it" if found in (CHANGED, REMOVED) else "a newer metaq may read it",
            "step": struct.unpack("<f", struct.pack("<I", found))[0] if error.status == "bad_step" else 0.0,
        }
        words, other = _EXPECTED_AND_FOUND[error.status]
        return words.format(**values), other.format(**values)


def _codebook(kind: int, step: float, origin: int, levels: bytes) -> Codebook:
    if kind == UNIFORM:
        return UniformCodebook(step)
    return (
        TableCodebook(tuple(np.frombuffer(levels, np.float32).tolist()), origin) if kind == TABLE else IntegerCodebook()
    )


def _matrix(leading: int, row_logs: bytes | None, column_logs: bytes | None, by_columns: bool) -> MatrixLayout:
    rows, columns = (None if logs is None else np.frombuffer(logs, np.int8) for logs in (row_logs, column_logs))
    return MatrixLayout(leading, rows, columns, by_columns)
