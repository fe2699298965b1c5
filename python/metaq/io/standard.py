"""Standard input and output in place of a file, both through a temporary one: no format is read in one pass."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaq.errors import FormatError, InputError
from metaq.format.header import MAGIC

STANDARD = Path("-")
_START = 9  # bytes that tell formats apart


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
            raise InputError(f"standard input: expected room in {folder} for it, found {error.strerror}") from None
        try:
            path = path.rename(path.with_suffix(_suffix(path)))
            yield path
        except (InputError, FormatError) as error:
            raise type(error)(str(error).replace(str(path), "standard input")) from None


def _suffix(path: Path) -> str:
    """That of a format, by what the file begins with."""
    with open(path, "rb") as file:
        start = file.read(_START)
    if start.startswith(MAGIC):
        return ".mtq"
    if start.startswith((b"PK\3\4", b"\x80")):  # a zip archive, or a pickle as torch.save wrote them once
        return ".pt"
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return ".safetensors"
    if start.startswith(b"\x08"):  # the first field of a ModelProto, its version
        return ".onnx"
    raise InputError(f"{path}: expected a .safetensors, torch, .onnx or .mtq file, found {start!r} at its start")


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
            raise InputError(f"standard output: expected room for all of it, found {error.strerror}") from None
