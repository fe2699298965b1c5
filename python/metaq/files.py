"""Files whole or not at all: atomic writing, and reading with errors that say what was expected."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np

from metaq.errors import InputError

Content = TypeVar("Content")

TEMPORARY_PREFIX = ".metaq-"
_PIECE_BYTES = 1 << 20
_MOST_READ = 1 << 30  # at a time: more is more than the system reads at once
_NO_SYNCING = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what file systems say that sync no folders


class Closable(ABC):
    """What is closed at the end of a ``with``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    with atomic_file(path, len(data)) as file:
        file.write(data)


@contextmanager
def atomic_file(path: str | os.PathLike[str], size_bytes: int | None = None, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` at the end: a temporary sibling, synced, then renamed over it.

    At the end it is there after a loss of power, too.

    Args:
        size_bytes: that it will have, where that is known; a message about a full disk says it.
        mode: its permissions, but for the umask, unless a file is replaced, which has its own.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link stays, what it points to is written
    temporary = None
    try:
        if target.exists() and not target.is_file():
            found = "a directory" if target.is_dir() else "a device or pipe"
            raise InputError(f"{path}: expected a file to write, found {found}")
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY_PREFIX, suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_file(temporary, target, mode)
    except OSError as error:
        raise write_error(path, error, size_bytes) from None
    finally:
        if temporary is not None:
            with suppress(OSError):  # it is not there any more, or what went wrong first is what to tell
                os.unlink(temporary)


def replace_file(path: str | os.PathLike[str], target: str | os.PathLike[str], mode: int = 0o666) -> None:
    """Rename a file over another, whose permissions it gets, or, where there is none, ``mode`` as far as files may."""
    try:
        own = stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        own = mode & ~_umask()
    os.chmod(path, own)
    os.replace(path, target)
    sync_folder(Path(target).parent)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Have the disk know a folder's names, without which a file renamed into it may not be there after a loss of power.

    Nothing where that cannot be: not every file system syncs folders, and some may be written to and not read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNCING:
            raise
    finally:
        os.close(descriptor)


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a file and its permissions, whole or not at all.

    Raises:
        InputError: the source cannot be read, or the target not written.
    """

    def reading(read: Callable[[], Content]) -> Content:
        try:
            return read()
        except OSError as error:
            raise InputError(f"{source}: expected a readable file, found {error.strerror}") from None

    with reading(lambda: open(source, "rb")) as original:
        status = os.fstat(original.fileno())
        with atomic_file(target, status.st_size, status.st_mode & 0o777) as copy:
            while piece := reading(lambda: original.read(_PIECE_BYTES)):
                copy.write(piece)


def write_error(path: str | os.PathLike[str], error: OSError, size_bytes: int | None = None) -> InputError:
    """What to raise where a place cannot be written. A full disk is named first.

    Args:
        size_bytes: of what was to be written there, where that is known.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: expected a writable place, found {error.strerror or error}")
    expected = "more bytes" if size_bytes is None else f"{size_bytes} bytes"
    return InputError(f"disk full: {path}: expected room for {expected}, found {error.strerror}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class FileBytes(Closable):
    """A file's bytes, read from the disk where they are asked for; whoever changes the file meanwhile harms nobody.

    A memory map would end the process where the file has become shorter.

    Args:
        begin: where in the file the bytes begin, if another lies in it.
        size_bytes: how many they are; if not given, all that follow.

    Attributes:
        begin: that place.
        size_bytes: how many bytes there were when the file was opened.
        state: the file's size then, and when it was written to last, in nanoseconds: what changes when it is changed.

    Raises:
        InputError: there is no such file, it is a directory, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], begin: int = 0, size_bytes: int | None = None) -> None:
        self._path = path
        with _reading(path):
            self._descriptor = os.open(path, os.O_RDONLY)
            self._closing = weakref.finalize(self, os.close, self._descriptor)
            status = os.fstat(self._descriptor)
        self.begin, self.size_bytes = begin, status.st_size - begin if size_bytes is None else size_bytes
        self.state = status.st_size, status.st_mtime_ns

    def __len__(self) -> int:
        return self.size_bytes

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def read(self, place: int, size_bytes: int) -> bytes:
        """Bytes from a place on; fewer where the file ends.

        Raises:
            InputError: they cannot be read any more.
        """
        parts: list[bytes] = []
        size_bytes = min(size_bytes, self.size_bytes - place)
        place += self.begin
        with _reading(self._path):
            while size_bytes > 0 and (part := os.pread(self._descriptor, min(size_bytes, _MOST_READ), place)):
                parts.append(part)
                place, size_bytes = place + len(part), size_bytes - len(part)
        return b"".join(parts)

    def array(self, place: int, size_bytes: int) -> np.ndarray:
        """Just so many bytes from a place on, uint8; errors are those of `fill`."""
        octets = np.empty(size_bytes, np.uint8)
        self.fill(place, octets.data)
        return octets

    def fill(self, place: int, room: memoryview) -> None:
        """Fill memory with the bytes from a place on.

        Raises:
            InputError: they cannot be read any more, or the file ends before.
        """
        place += self.begin
        with _reading(self._path):
            while len(room):
                if not (count := os.preadv(self._descriptor, [room[:_MOST_READ]], place)):
                    raise InputError(f"{self._path}: expected {len(room)} more bytes at byte {place}, found its end")
                room, place = room[count:], place + count

    def current_size(self) -> int:
        """How many of the bytes there are by now."""
        return min(self.size_bytes, max(0, os.fstat(self._descriptor).st_size - self.begin))

    def close(self) -> None:
        """Let go of the file."""
        self._closing()


def open_bytes(path: str | os.PathLike[str]) -> FileBytes | bytes:
    """A file to be read where it is looked at; of what has no places to read at, such as a pipe, all bytes.

    Raises:
        InputError: there is no such file, it is a directory or a device, or it cannot be read.
    """
    with _reading(path):
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode):
            with open(path, "rb") as pipe:
                return pipe.read()
    return FileBytes(path) if stat.S_ISREG(mode) else read_bytes(path)


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Failures within say that the file cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected a readable file, found {reason}") from None


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether there is a pipe of this name, such as a shell gives for ``<(...)``."""
    return _kind(path) == stat.S_IFIFO


def refuse_devices(path: str | os.PathLike[str]) -> None:
    """Raise an InputError for what may have no end, or never begin: a device, a socket or a pipe."""
    kind = _kind(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        raise InputError(f"{path}: expected a file, found a device or a socket")
    if kind == stat.S_IFIFO:
        raise InputError(f"{path}: expected a file, found a pipe; write what comes through it to a file first")


def _kind(path: str | os.PathLike[str]) -> int | None:
    """None where nothing is, or nothing can be said, as opening it will tell."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
        InputError: there is no such file, it is a directory, a device or a pipe, or it cannot be read.
    """
    refuse_devices(path)
    with _reading(path):
        return Path(path).read_bytes()


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a file of JSON holds.

    Raises:
        InputError: as of `read_bytes`, or the file has no JSON in UTF-8, or a text that UTF-8 does not have.
    """
    try:
        found = json.loads(read_bytes(path))
        json.dumps(found, ensure_ascii=False).encode()  # halves of surrogate pairs, which no file can be given
        return found
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found something else ({error})") from None
