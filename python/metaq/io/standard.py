"""Standard input and output in place of a file, both through a temporary one: no format is read in one pass."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaq.errors import FormatError, InputError
from metaq.files import write_error
from metaq.io import recognised_suffix

STANDARD = Path("-")


@contextmanager
def readable(source: Path) -> Iterator[Path]:
    """The source, or for "-" a temporary file of standard input with the suffix of its format.

    Raises:
        InputError: what comes is of no known format.
    """
    if source != STANDARD:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="metaq-") as folder:
        path = Path(folder, "input")
        try:
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise write_error(path, error) from None
        try:
            path = path.rename(path.with_suffix(recognised_suffix(path)))
            yield path
        except (InputError, FormatError) as error:
            raise type(error)(str(error).replace(str(path), "standard input")) from None


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
