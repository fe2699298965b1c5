"""Standard input, output and error as the command line uses them, whatever they are connected to."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from metaq.report.printable import one_line


class _Output(io.FileIO):
    """Standard output, whose errors name it."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


def prepare() -> None:
    """Make the standard streams safe to use.

    A name that the terminal's encoding lacks is no failure. The descriptor of a stream that is closed would be that of
    the next file, into which all that is printed would go: it is taken by one that refuses to be read or written.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _occupy(descriptor, flags)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is sys.__stdout__:
        encoding = None if sys.stdout is None else sys.stdout.encoding
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        raw = io.BufferedWriter(_Output(1, "wb", closefd=False))
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(  # type: ignore[misc]
            raw, encoding, errors="backslashreplace", line_buffering=is_terminal
        )
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def _occupy(descriptor: int, flags: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        found = os.open(os.devnull, flags)
        if found != descriptor:
            os.dup2(found, descriptor)
            os.close(found)


def say(message: str) -> None:
    """A line on standard error; nothing where that cannot be written, since the exit code tells too."""
    with suppress(OSError, ValueError):
        print(f"metaq: {one_line(message)}", file=sys.stderr, flush=True)


def give_up_output() -> None:
    """Send what is left for standard output nowhere, if nobody reads it or it is full, without another error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
