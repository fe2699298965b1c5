"""What a sweep found, for people: rows of its trials, and one self-contained HTML page with the Pareto front."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.report.tables import Row

try:
    from metaq.report import plots
    from metaq.report.html import html
except ModuleNotFoundError as error:
    raise InputError(f"report: expected module {error.name!r}, found none; pip install 'metaq-nn[train]'") from None

PAGE = "sweep.html"


def write_page(sweep: dict[str, Any], folder: Path) -> Path:
    """Write ``sweep.html``, from the content of ``sweep.json``; returns its path."""
    rows = trial_rows(sweep)
    chosen = sweep["chosen"] and sweep["chosen"]["trial"]
    page = html(
        "sweep.html.j2",
        sweep=sweep,
        rows=rows,
        headings=list(dict.fromkeys(key for row in rows for key in row)),
        counts=summary(sweep),
        plot=plots.pareto_front(sweep["trials"], chosen),
    )
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def trial_rows(sweep: dict[str, Any]) -> list[Row]:
    """A row for each trial, by size; those without a size last."""

    def order(trial: dict[str, Any]) -> tuple[Any, ...]:
        return trial["file_bytes"] is None, trial["file_bytes"], trial["trial"]

    trials = sorted(sweep["trials"], key=order)
    return [_row(trial) for trial in trials]


def summary(sweep: dict[str, Any]) -> str:
    """How many trials there are, by what became of them."""
    states = Counter(trial["state"] for trial in sweep["trials"])
    return ", ".join(f"{count} {state}" for state, count in states.most_common())


def _row(trial: dict[str, Any]) -> Row:
    row = {
        "trial": trial["trial"],
        "front": "*" if trial["is_on_front"] else "",
        "file_bytes": trial["file_bytes"],
        "held_out_error": None if trial["held_out_error"] is None else f"{trial['held_out_error']:.2%}",
        **trial["values"],
        "state": trial["state"],
        "remark": trial.get("reason", ""),
    }
    return {key: value for key, value in row.items() if value not in (None, "")}
