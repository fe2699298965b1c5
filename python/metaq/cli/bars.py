"""Progress bars on standard error, for whatever may take over two seconds; nothing where that is not a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaq.progress import Progress
from metaq.report.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[str, int, int], None]
"""Told what is being done, how many steps of it are done, and how many there are."""


class StoppedByUserError(Exception):
    """The user pressed Ctrl-C; the message says how to go on."""


class _ByteBar(Progress):
    """A bar with bytes, their ratio and the time left."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, ratio="", visible=False)
        self._read = self._written = 0
        self._lock = threading.Lock()

    def begin(self, what: str, total_bytes: int | None = None) -> None:
        self._bars.reset(self._task, description=what, total=total_bytes, ratio="", visible=True)
        self._read = self._written = 0

    def advance(self, read_bytes: int, written_bytes: int) -> None:
        with self._lock:
            self._read += read_bytes
            self._written += written_bytes
            ratio = f"{self._read / self._written:.2f}x" if self._written not in (0, self._read) else ""
            self._bars.update(self._task, completed=self._read, ratio=ratio)


@contextmanager
def byte_bar(quiet: bool = False) -> Iterator[Progress]:
    """A bar for work that counts bytes; it appears when the work begins, and goes when the work is done."""
    from rich.progress import DownloadColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (DownloadColumn(), TextColumn("{task.fields[ratio]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with _bars(columns, quiet) as bars:
        yield _ByteBar(bars)


@contextmanager
def step_bars(quiet: bool = False) -> Iterator[Advance]:
    """A function to tell of steps done, which opens a bar for each thing that it is told of."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

    with _bars((MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()), quiet) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            elif done < bars.tasks[tasks[what]].completed:
                bars.reset(tasks[what])  # the same again, such as the next trial
            bars.update(tasks[what], completed=done, total=total)

        yield advance


@contextmanager
def spinner(what: str, quiet: bool = False) -> Iterator[None]:
    """A bar with the elapsed time alone, for work whose length nobody knows."""
    from rich.progress import TimeElapsedColumn

    with _bars((TimeElapsedColumn(),), quiet) as bars:
        bars.add_task(what, total=None)
        yield


@contextmanager
def resumable(output: Path, quiet: bool = False) -> Iterator[Progress]:
    """A byte bar for work towards ``output``; after Ctrl-C, a StoppedByUserError that says how to go on if one can."""
    try:
        with byte_bar(quiet) as progress:
            yield progress
    except KeyboardInterrupt:
        from metaq.checkpoints import work_folder

        if str(output) != "-" and work_folder(output).exists():
            kept = "what is finished is kept: the same command with --resume goes on from there"
            raise StoppedByUserError(f"stopped; {kept}") from None
        raise


def _bars(columns: tuple[Any, ...], quiet: bool) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Description(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    # The stream is asked itself, because rich takes FORCE_COLOR, which build servers set, for a terminal.
    is_shown = sys.stderr.isatty() and not quiet
    return Bars(
        Description(), BarColumn(), *columns, console=Console(stderr=True), transient=True, disable=not is_shown
    )
