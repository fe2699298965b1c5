"""An update log as a file: records that are appended, each there as a whole or not at all (docs/format.md)."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from metaq.errors import FormatError, InputError
from metaq.files import write_error

MAGIC = b"MTQL\x01"  # the last byte is the version
_RECORD = b"STEP"
_FIELDS = struct.Struct("<4sB3xQQ")
_HEAD_BYTES = _FIELDS.size + 4  # its checksum behind it
_END = b"\x01"
_NEWER = "; a newer metaq may read it"
MOST_STEP = 2**64 - 1


class Record(NamedTuple):
    """A whole record: the step, whether its payload is a keyframe, and where the payload lies."""

    step: int
    is_keyframe: bool
    start: int
    size_bytes: int


class LogFile:
    """The records of a log.

    Args:
        file: opened for reading and, to append, for writing; it can seek. It is not closed with this.
        name: what messages call it.

    Attributes:
        records: those that are whole, in order.
        end: the byte behind the last of them. What follows is of a record that was not finished.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.records: list[Record] = []
        self.end = 0

    def scan(self) -> None:
        """Look for records behind those that are known.

        Raises:
            FormatError: the file is no log, or a record's head is damaged.
        """
        size = self.file.seek(0, os.SEEK_END)
        if self.end == 0:
            start = self._read(0, len(MAGIC))
            if not MAGIC.startswith(start):
                found_start = f"{start!r}{_NEWER if start.startswith(MAGIC[:-1]) else ''}"
                expected = f"an update log, which starts with {MAGIC!r}"
                raise FormatError(f"{self.name}: expected {expected}, found {found_start}")
            if len(start) < len(MAGIC):
                return
            self.end = len(MAGIC)
        while self.end + _HEAD_BYTES <= size:
            record = self._record_at(self.end)
            last = record.start + record.size_bytes
            if last >= size:
                return
            if (found := self._read(last, 1)) != _END:
                raise FormatError(f"{self.name}, step {record.step}: expected {_END!r} at its end, found {found!r}")
            self.records.append(record)
            self.end = last + 1

    def unfinished_bytes(self) -> int:
        """How many bytes follow the last whole record."""
        return self.file.seek(0, os.SEEK_END) - self.end

    def payload(self, record: Record) -> bytes:
        """A record's `.mtq` file.

        Raises:
            FormatError: the log has become shorter.
        """
        data = self._read(record.start, record.size_bytes)
        if len(data) < record.size_bytes:
            found = f"{len(data)}; the log has become shorter"
            raise FormatError(f"{self.name}, step {record.step}: expected {record.size_bytes} bytes, found {found}")
        return data

    def append(self, step: int, is_keyframe: bool, payload: bytes, *, is_synced: bool = True) -> int:
        """Write a record, whole or not at all: its last byte follows once all others are on the disk.

        Args:
            is_synced: whether it is; not where the whole file is synced at the end and then takes its place.

        Returns:
            The bytes that it takes.

        Raises:
            InputError: it cannot be written; the log is as it was.
        """
        fields = _FIELDS.pack(_RECORD, not is_keyframe, step, len(payload))
        size = _HEAD_BYTES + len(payload) + len(_END)
        try:
            self._cut()
            self._write(fields + struct.pack("<I", zlib.crc32(fields)))
            self._write(payload)
            if is_synced:
                self._sync()
            self._write(_END)
            if is_synced:
                self._sync()
        except BaseException as error:
            with suppress(OSError, ValueError):
                self._cut()
            if isinstance(error, OSError):
                raise write_error(self.name, error, size) from None
            raise
        self.records.append(Record(step, is_keyframe, self.end + _HEAD_BYTES, len(payload)))
        self.end += size
        return size

    def cut(self) -> None:
        """Remove what is not finished; a file without anything becomes a log without records.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self._cut()
        except OSError as error:
            raise write_error(self.name, error) from None

    def _cut(self) -> None:
        self.file.truncate(self.end)
        self.file.seek(self.end)
        if self.end == 0:
            self._write(MAGIC)
            self.end = len(MAGIC)

    def _record_at(self, place: int) -> Record:
        head = self._read(place, _HEAD_BYTES)
        magic, kind, step, size = _FIELDS.unpack(head[: _FIELDS.size])
        where = f"{self.name}, byte {place}"
        if magic != _RECORD or zlib.crc32(head[: _FIELDS.size]) != int.from_bytes(head[_FIELDS.size :], "little"):
            raise FormatError(f"{where}: expected a step's head that matches its checksum, found another")
        if kind > 1 or (kind == 1 and not self.records):
            expected = "a keyframe" if not self.records else "a keyframe or a difference"
            raise FormatError(f"{where}: expected {expected}, found kind {kind}{_NEWER if kind > 1 else ''}")
        if any(head[5:8]):
            raise FormatError(f"{where}: expected three reserved bytes of 0, found another{_NEWER}")
        if self.records and step <= self.records[-1].step:
            raise FormatError(f"{where}: expected a step above {self.records[-1].step}, found {step}")
        return Record(step, kind == 0, place + _HEAD_BYTES, size)

    def _read(self, place: int, size: int) -> bytes:
        """So many bytes, or fewer where the file ends; a file without a buffer may give some at a time."""
        self.file.seek(place)
        data = self.file.read(size)
        while 0 < len(data) < size and (more := self.file.read(size - len(data))):
            data += more
        return data

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.file.write(rest) :]

    def _sync(self) -> None:
        self.file.flush()
        with suppress(AttributeError, io.UnsupportedOperation):  # files in memory are on no disk
            os.fsync(self.file.fileno())


def checked_file(file: BinaryIO, is_written: bool) -> BinaryIO:
    """A file object that can be read, moved in and, if it is written, written to.

    Raises:
        InputError: it cannot.
    """
    lacking = [
        name
        for name in ("readable", "seekable", *(["writable"] if is_written else []))
        if not getattr(file, name, lambda: False)()
    ]
    if lacking:
        raise InputError(f"update log: expected a path, or a file that is {lacking[0]}, found {type(file).__name__}")
    return file
