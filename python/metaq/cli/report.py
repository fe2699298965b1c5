"""The command that draws size against accuracy of all results; it imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli.bars import spinner
from metaq.cli.options import AsJson, Force, Quiet, check_outputs
from metaq.errors import InputError
from metaq.report.printable import printable

_FOLDERS = Path("results"), Path("runs")


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results of `metaq train`, or folders with such; the folders results and runs if none is given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The place to write the page to.")] = Path(
        "report.html"
    ),
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw size against accuracy for every task of which there are results, beside published points."""
    from metaq.report.run_results import read_results
    from metaq.report.tables import show
    from metaq.report.tasks import task_entries, task_rows, tasks_of
    from metaq.report.tasks_page import write_page

    check_outputs(output, force=force)
    with spinner("drawing", quiet):
        results = read_results(paths or _own_folders())
        for result in results:
            check_outputs(output, force=force, source=result.path)
        tasks = tasks_of(results)
        write_page(tasks, output)
    if as_json:
        print(json.dumps([task_entries(task) for task in tasks], indent=2))
    elif not quiet:
        for task in tasks:
            show(task_rows(task), task.title)
        print(f"Look at {printable(str(output))}.")


def _own_folders() -> list[Path]:
    folders = [folder for folder in _FOLDERS if folder.is_dir()]
    if not folders:
        hint = "train a recipe with metaq train, or name result files or folders"
        raise InputError(f"report: expected a folder results or runs here, found neither; {hint}")
    return folders
