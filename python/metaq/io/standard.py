"""Standard input and output, and pipes, in place of a file, through a temporary one: no format is read in one pass."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaq.errors import FormatError, InputError
from metaq.files import atomic_file, is_pipe, refuse_devices, write_error
from metaq.io import recognised_suffix

STANDARD = Path("-")
_PIECE_BYTES = 1 << 20


@contextmanager
def readable(source: Path) -> Iterator[Path]:
    """The source; for "-" or a pipe a temporary file of what comes, with the suffix of its format.

    Raises:
        InputError: what comes is of no known format, or the source is a device.
    """
    if source != STANDARD and not is_pipe(source):
        refuse_devices(source)
        yield source
        return
    name = "standard input" if source == STANDARD else str(source)
    with tempfile.TemporaryDirectory(prefix="metaq-") as folder:
        path = Path(folder, "input")
        with atomic_file(path) as file:
            for piece in _pieces(source, name):
                file.write(piece)
        try:
            path = path.rename(path.with_suffix(recognised_suffix(path)))
            yield path
        except (InputError, FormatError) as error:
            raise type(error)(str(error).replace(str(path), name)) from None


def _pieces(source: Path, name: str) -> Iterator[bytes]:
    """What comes from standard input or a pipe."""
    try:
        if source == STANDARD:
            if sys.stdin is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            yield from iter(lambda: sys.stdin.buffer.read(_PIECE_BYTES), b"")
            return
        with open(source, "rb") as pipe:
            yield from iter(lambda: pipe.read(_PIECE_BYTES), b"")
    except OSError as error:
        raise InputError(f"{name}: expected bytes to read, found {error.strerror}") from None


@contextmanager
def writable(output: Path, suffix: str) -> Iterator[Path]:
    """The output, or for "-" a temporary file that is sent to standard output at the end.

    Args:
        suffix: of the temporary file.

    Raises:
        InputError: standard output is a terminal, or there is no room behind it.
    """
    if output != STANDARD:
        yield output
        return
    if sys.stdout is None:
        raise InputError("standard output: expected it to be open, found it closed")
    if sys.stdout.isatty():
        raise InputError("standard output: expected a file or a pipe, found a terminal")
    with tempfile.TemporaryDirectory(prefix="metaq-") as folder:
        path = Path(folder, f"output{suffix}")
        yield path
        try:
            with open(path, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody reads on, which is no failure of ours
            raise
        except OSError as error:
            raise write_error("standard output", error, path.stat().st_size) from None
