"""How far long work has come, for whoever shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Told of what is done; this one shows nothing."""

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        """A pass over so many bytes begins, or work of unknown length."""

    def advance(self, read_bytes: int, written_bytes: int) -> None:
        """So many more bytes have been read, and so many written for them; may be called from several threads."""


class _Shown(Progress):
    """A bar with bytes, their ratio and the time left."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, ratio="")
        self._read = self._written = 0
        self._changing = threading.Lock()

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        self._bars.reset(self._task, description=what, total=total_bytes, ratio="")
        self._read = self._written = 0

    def advance(self, read_bytes: int, written_bytes: int) -> None:
        with self._changing:
            self._read += read_bytes
            self._written += written_bytes
            ratio = f"{self._read / self._written:.2f}x" if self._written not in (0, self._read) else ""
            self._bars.update(self._task, completed=self._read, ratio=ratio)


@contextmanager
def shown() -> Iterator[Progress]:
    """A bar on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True)
    description, ratio = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[ratio]}")
    columns = description, BarColumn(), DownloadColumn(), ratio, TimeRemainingColumn()
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Shown(bars)
