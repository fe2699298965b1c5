"""Commands that train and measure networks. What they need is imported when they run, so that help need not wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli.bars import StoppedByUserError, spinner, step_bars
from metaq.cli.options import (
    AsJson,
    Device,
    Force,
    MtqFile,
    Overrides,
    Quiet,
    RecipeName,
    check_outputs,
    complete_recipe,
)
from metaq.errors import InputError
from metaq.report.printable import printable

if TYPE_CHECKING:
    from metaq.experiments.recipe import Recipe


def recipes(as_json: AsJson = False) -> None:
    """List the recipes that `metaq train` takes by name: the network, the data, the method, and what it is for."""
    from metaq.report.recipes import recipe_rows
    from metaq.report.tables import show

    rows = recipe_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    show(rows)


def train(
    recipe: RecipeName,
    folder: Annotated[
        Path | None, typer.Option(help="The folder of the run; runs/RECIPE if not given.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    override: Overrides = None,
    device: Device = "cpu",
    seeds: Annotated[
        int | None,
        typer.Option(help="Run with so many seeds: mean and deviation of what comes out.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Remove the files of an earlier run in the folder, and begin anew.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a network by a recipe: float first, then towards a small file; write the file and a report."""
    from metaq.experiments.recipe import load_recipe
    from metaq.experiments.seeds import run_seeds, seed_folder, seed_recipes
    from metaq.report.tables import print_result, result_entries

    if resume and force:
        raise InputError("train: expected --resume or --force, found both")
    loaded = load_recipe(recipe, override or [])
    folder = folder or Path("runs") / loaded.name
    again = "the same command with --resume"
    if seeds is None:
        _claim(folder, resume, force)
        result = run_recipe(loaded, folder, resume, again, device, quiet)
        print_result(result if as_json else result_entries(result), as_json, quiet)
        return
    for seeded in seed_recipes(loaded, seeds):
        _claim(seed_folder(folder, seeded), resume, force)
    summary = run_seeds(loaded, folder, seeds, lambda one, place: run_recipe(one, place, True, again, device, quiet))
    print_seeds(summary, as_json, quiet)


def _claim(folder: Path, resume: bool, force: bool) -> None:
    """Refuse, or remove, the files of an earlier run, unless it is to be resumed."""
    from metaq.report.demo import earlier_files, forget_run

    if force:
        forget_run(folder)
    found = [] if resume else earlier_files(folder)
    if found:
        hint = "add --resume to go on with an earlier run, --force to remove its files, or name another folder"
        raise InputError(f"{folder}: expected no file of a run, found {', '.join(found)}; {hint}")


def print_seeds(summary: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """The figures of several seeds: a row for each, and their mean and deviation."""
    from metaq.report.tables import show

    if as_json:
        print(json.dumps(summary, indent=2))
    elif not quiet:
        show([*summary["runs"], *({"seed": name, **summary[name]} for name in ("mean", "deviation"))])


def evaluate(
    source: MtqFile,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe to measure by, if the file names none.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of the network that a .mtq file holds, on its recipe's test set."""
    from metaq.experiments.evaluation import evaluate_file
    from metaq.report.tables import print_result

    with spinner(f"evaluating {source.name}"):
        result = evaluate_file(source, recipe)
    print_result(result, as_json)


def demo(
    folder: Annotated[
        Path, typer.Option(help="The folder to write to; the files of an earlier demo in it are written anew.")
    ] = Path("demo"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train LeNet-5 on scikit-learn's digits towards a small file, read it back, and show its size and accuracy.

    This takes about a minute and downloads nothing.
    """
    from metaq.experiments.recipe import load_recipe
    from metaq.experiments.run import REPORT
    from metaq.report.demo import check_in_new_process, demo_entries, forget_run
    from metaq.report.tables import print_result

    forget_run(folder)
    again = f"metaq train lenet5-digits --folder {folder} --resume"
    result = run_recipe(load_recipe("lenet5-digits"), folder, False, again, "cpu", quiet)
    with spinner("reading the file back in a new process", quiet):
        check_in_new_process(folder, result)
        entries = demo_entries(folder, result)
    print_result(entries, as_json, quiet)
    if not (as_json or quiet):
        print(f"Every weight read back bit-identical, accuracy the same. Look at {printable(str(folder / REPORT))}.")


def complexity(
    levels: Annotated[int, typer.Option(min=2, max=1 << 16, help="The number of levels of each random hull.")] = 256,
    draws: Annotated[int, typer.Option(min=1, max=10**9, help="The number of random hulls.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="The seed of the draws.")] = 0,
    plot: Annotated[Path, typer.Option(help="The place to write the histogram to, as SVG.")] = Path("complexity.svg"),
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Count the vertices of random hulls, which are what the simil-knapsack really has to search."""
    check_outputs(plot, force=force)
    from metaq.report.complexity import study, write_plot
    from metaq.report.tables import print_result

    with spinner("drawing hulls", quiet):
        result = study(levels, draws, seed)
        write_plot(result, plot)
    fits = {
        f"{fit} fit, log10 P(N = {levels})": result[fit] and result[fit]["log10_tail"]
        for fit in ("moments", "likelihood")
    }
    entries = {**{key: result[key] for key in ("levels", "draws", "mean", "largest")}, **fits, "plot": str(plot)}
    print_result(result if as_json else entries, as_json, quiet)


def run_recipe(recipe: Recipe, folder: Path, resume: bool, again: str, device: str, quiet: bool) -> dict[str, Any]:
    """A run under a progress bar for each of its stages, and its report; ``again`` is how to go on after Ctrl-C."""
    from metaq.experiments.run import Run
    from metaq.report.page import write_report

    with step_bars(quiet) as advance:

        def advance_stage(stage: str, done: int, total: int) -> None:
            advance(f"training, {stage}", done, total)

        try:
            result = Run(recipe, folder, resume, advance_stage, device).train()
        except KeyboardInterrupt:
            raise StoppedByUserError(f"stopped; the epochs done are kept: {again} goes on from there") from None
    with spinner("writing the report", quiet):
        write_report(folder)
    return result
