"""The command that sweeps over a recipe's entries; it imports what it needs when it runs, as all commands do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli.bars import StoppedByUserError, step_bars
from metaq.cli.experiments import print_seeds, run_recipe
from metaq.cli.options import AsJson, Device, Overrides, Quiet, RecipeName
from metaq.errors import InputError
from metaq.report.printable import printable

if TYPE_CHECKING:
    from optuna.study import Study

    from metaq.experiments.recipe import Recipe


def sweep(
    recipe: RecipeName,
    trials: Annotated[
        int, typer.Option(help="The number of trials of the study, those of earlier calls included.")
    ] = 40,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="SECTION.KEY=VALUES",
            help="Vary an entry of the recipe: LOW:HIGH, LOW:HIGH:log or 'A|B|C'; may be repeated. "
            "Without any, the method's strength, and the step between its levels.",
        ),
    ] = None,
    override: Overrides = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="The database of the study, such as sqlite:///sweep.db; in the folder if not given. "
            "Commands with the same one work together.",
            show_default=False,
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="The name of the study; the recipe's if not given.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The folder of the trials; runs/STUDY-sweep if not given.", show_default=False)
    ] = None,
    device: Device = "cpu",
    choose: Annotated[
        int | None,
        typer.Option(help="Train no more: measure this trial on the test set, once and for all.", show_default=False),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Choose the smallest file whose held-out error is at most this fraction.", show_default=False
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Train the chosen trial with so many seeds: mean and deviation.", show_default=False),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Try a recipe with other values in many trials: file size against held-out error, as a table, a page and JSON.

    The same command goes on with a study that was stopped. The test set stays unused until one trial is chosen.
    """
    from metaq.experiments.recipe import load_recipe

    if choose is not None and max_error is not None:
        raise InputError("sweep: expected --choose or --max-error, found both")
    is_choice = choose is not None or max_error is not None
    if seeds is not None and not is_choice:
        raise InputError("sweep: expected --choose or --max-error with --seeds, found neither")
    loaded = load_recipe(recipe, override or [])
    name = study or loaded.name
    folder = folder or Path("runs") / f"{name}-sweep"
    place = _Place(storage or f"sqlite:///{folder / 'sweep.db'}", name, folder, device, quiet, as_json)
    if is_choice:
        _choose(place, choose, max_error, seeds)
    else:
        _sweep(place, loaded, ranges or [], trials)


@dataclass(frozen=True)
class _Place:
    """Where a sweep is kept and trained, and how it is shown."""

    storage: str
    study: str
    folder: Path
    device: str
    quiet: bool
    as_json: bool


def _sweep(place: _Place, recipe: Recipe, texts: list[str], trials: int) -> None:
    from metaq.experiments.sweeps import trials as library
    from metaq.experiments.sweeps.ranges import default_ranges, parse_range
    from metaq.experiments.sweeps.storage import Store

    if trials < 1:
        raise InputError(f"trials: expected at least 1, found {trials}")
    ranges = tuple(parse_range(text, recipe) for text in texts) or default_ranges(recipe)
    plan = library.Plan(recipe, ranges, place.folder, place.device)
    with step_bars(place.quiet) as advance:

        def advance_trial(what: str, done: int, total: int) -> None:
            advance("trials" if what == "trials" else f"this trial, {what}", done, total)

        try:
            study = library.sweep(plan, Store(place.storage, place.study), trials, advance_trial)
        except KeyboardInterrupt:
            raise StoppedByUserError("stopped; what is trained is kept: the same command goes on from there") from None
    found = _write(study, place)
    if place.as_json:
        print(json.dumps(found, indent=2))
    elif not place.quiet:
        _show(found, place.folder)


def _choose(place: _Place, number: int | None, max_error: float | None, seeds: int | None) -> None:
    from metaq.experiments.sweeps.choice import CHOSEN, choose, smallest_within
    from metaq.experiments.sweeps.storage import Store, existing_study
    from metaq.report.page import write_report
    from metaq.report.tables import print_result, result_entries

    study = existing_study(Store(place.storage, place.study), place.folder)
    number = smallest_within(study, max_error) if number is None and max_error is not None else number
    assert number is not None, "the command asks for one of both"
    with step_bars(place.quiet) as advance:
        recipe, result = choose(study, number, place.folder, advance, place.device)
    write_report(place.folder / CHOSEN)
    _write(study, place)
    if seeds is not None:
        _run_seeds(place, recipe, result, seeds)
        return
    entries = {"trial": number, **result_entries(result), "folder": place.folder / CHOSEN}
    print_result({"trial": number, **result} if place.as_json else entries, place.as_json, place.quiet)


def _run_seeds(place: _Place, recipe: Recipe, result: dict[str, Any], count: int) -> None:
    """Several seeds of the chosen trial, whose own seed has been run."""
    from metaq.experiments.seeds import run_seeds
    from metaq.experiments.sweeps.choice import CHOSEN

    def run_one(seeded: Recipe, folder: Path) -> dict[str, Any]:
        if seeded.seed == recipe.seed:
            return result
        return run_recipe(seeded, folder, True, "the same command", place.device, place.quiet)

    print_seeds(run_seeds(recipe, place.folder / CHOSEN, count, run_one), place.as_json, place.quiet)


def _write(study: Study, place: _Place) -> dict[str, Any]:
    """Write the sweep's JSON and page; returns the content of the former."""
    from metaq.experiments.sweeps.choice import write_outcome
    from metaq.report.sweep import write_page

    found = write_outcome(study, place.folder)
    write_page(found, place.folder)
    return found


def _show(found: dict[str, Any], folder: Path) -> None:
    from metaq.report.sweep import PAGE, summary, trial_rows
    from metaq.report.tables import show

    show(trial_rows(found), f"{found['study']}: {summary(found)}; those on the front are marked")
    page = printable(str(folder / PAGE))
    print(f"Errors are those on held-out images. Look at {page}; --choose TRIAL measures one on the test set.")
