"""One self-contained HTML page for all tasks of which there are results: size against accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metaq.files import write_atomically
from metaq.report.html import html
from metaq.report.task_plot import size_plot
from metaq.report.tasks import TEXT_COLUMNS, Task, task_rows


def write_page(tasks: Sequence[Task], path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    page = html(
        "tasks.html.j2",
        tasks=[(task, size_plot(task), task_rows(task)) for task in tasks],
        texts=TEXT_COLUMNS,
        has_published=any(task.published for task in tasks),
    )
    write_atomically(path, page.encode())
