"""A file system that fails, or a process that dies, at the n-th call that would change a file."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from contextlib import contextmanager, suppress
from enum import Enum

_CALLS = ("chmod", "fsync", "mkdir", "open", "pwrite", "rename", "replace", "rmdir", "unlink")
_CHANGING = os.O_CREAT | os.O_WRONLY | os.O_RDWR


class Fault(Enum):
    """What becomes of the n-th call."""

    DEATH = "death"  # it is not done, and nor is any call after it, as if the process had been killed
    ONE_FAILURE = "one failure"
    FAILURES = "failures"  # it fails, and every call after it


class KilledError(BaseException):
    """No code of the library catches it by name, and nothing that it cleans up changes a file any more."""


class FaultyFiles:
    """Counts calls that would change a file, and fails from the n-th on.

    Args:
        at: the number of the call, from 1 on; 0 for none.
    """

    def __init__(self, at: int = 0, fault: Fault = Fault.DEATH) -> None:
        self.at, self.fault, self.calls = at, fault, 0

    def count(self) -> None:
        """Raise the error of this call, if it is to have one."""
        self.calls += 1
        is_over = self.at and (self.calls == self.at or (self.calls > self.at and self.fault is not Fault.ONE_FAILURE))
        if is_over and self.fault is Fault.DEATH:
            raise KilledError
        if is_over:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def faulty(monkeypatch, at: int = 0, fault: Fault = Fault.DEATH):
    """The counter of a file system that is faulty as long as the context lasts."""
    files = FaultyFiles(at, fault)

    class Writer(io.BufferedWriter):
        def write(self, data):
            files.count()
            return super().write(data)

        def close(self):
            with suppress(OSError):  # of what is left in its buffer, where the file is lost already
                super().close()

    def wrapped(name, original):
        def call(*arguments, **options):
            if name != "open" or arguments[1] & _CHANGING:
                files.count()
            return original(*arguments, **options)

        return call

    temporary_file = tempfile.TemporaryFile
    with monkeypatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        patch.setattr(os, "fdopen", lambda descriptor, mode: Writer(io.FileIO(descriptor, mode)))
        patch.setattr(tempfile, "TemporaryFile", lambda **options: CountingFile(temporary_file(**options), files))
        yield files


class CountingFile:
    """A temporary file whose writes are counted."""

    def __init__(self, file, files: FaultyFiles) -> None:
        self._file, self._files = file, files

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *failure):
        return self._file.__exit__(*failure)

    def write(self, data):
        self._files.count()
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)
