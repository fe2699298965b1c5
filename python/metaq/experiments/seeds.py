"""One recipe with several seeds: how much of a figure is chance."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.experiments import run
from metaq.experiments.recipe import SEED_COUNT, Recipe, as_tree
from metaq.files import read_bytes, write_atomically

SEEDS = "seeds.json"
_MOST_SEEDS = 1000
_FIGURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "file_bytes": lambda result: result["file_bytes"],
    "ratio": lambda result: result["ratio"],
    "validation_accuracy": lambda result: result["validation_accuracy"],
    "test_accuracy": lambda result: result["test_after"]["accuracy"],
    "test_accuracy_before": lambda result: result["test_before"]["accuracy"],
}


def seed_recipes(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe with ``count`` seeds, from its own on.

    Raises:
        InputError: ``count`` is less than 2, or of more seeds than there are.
    """
    most = min(_MOST_SEEDS, SEED_COUNT - recipe.seed)
    if not 2 <= count <= most:
        raise InputError(f"seeds: expected 2 to {most}, found {count}")
    return [dataclasses.replace(recipe, seed=recipe.seed + number) for number in range(count)]


def seed_folder(folder: Path, recipe: Recipe) -> Path:
    """Where the run of one seed goes."""
    return folder / f"seed-{recipe.seed}"


def run_seeds(
    recipe: Recipe, folder: Path, count: int, run_one: Callable[[Recipe, Path], dict[str, Any]]
) -> dict[str, Any]:
    """Run a recipe with several seeds; write ``seeds.json`` and return its content.

    A seed whose result is in its folder is not run again, so that a stopped call goes on where it was.

    Args:
        run_one: runs a recipe in a folder, going on with what is there; returns the content of ``result.json``.

    Returns:
        ``runs``, the figures of each seed; ``mean`` and ``deviation`` of each figure over the seeds. The deviation is
        that of a sample: the squares are divided by the number of seeds less one.

    Raises:
        InputError: ``count`` is less than 2.
    """
    runs = []
    for seeded in seed_recipes(recipe, count):
        result = _earlier_result(seeded, seed_folder(folder, seeded)) or run_one(seeded, seed_folder(folder, seeded))
        runs.append({"seed": seeded.seed, **{name: figure(result) for name, figure in _FIGURES.items()}})
    content = {
        "recipe": recipe.name,
        "seeds": count,
        "mean": {name: statistics.mean(one[name] for one in runs) for name in _FIGURES},
        "deviation": {name: statistics.stdev(one[name] for one in runs) for name in _FIGURES},
        "runs": runs,
        "config": as_tree(recipe),
    }
    write_atomically(folder / SEEDS, (json.dumps(content, indent=2) + "\n").encode())
    return content


def _earlier_result(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    path = folder / run.RESULT
    result = json.loads(read_bytes(path)) if path.exists() else None
    return result if result is not None and result["config"] == as_tree(recipe) else None
