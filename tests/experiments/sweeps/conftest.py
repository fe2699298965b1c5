"""A sweep that takes seconds."""

import pytest

from metaq.experiments import run
from metaq.experiments.recipe import load_recipe
from metaq.experiments.sweeps.ranges import parse_range
from metaq.experiments.sweeps.storage import Heartbeat, Store
from metaq.experiments.sweeps.trials import Plan, sweep

SHORT = [
    "threads=1",
    "data.held_out=1200",
    "float_training.epochs=1",
    "training.epochs=2",
    "training.last_phase_epochs=1",
    "method.schedule=[[0, 0.0], [5, 1.0]]",
]
RANGES = ["method.strength=1e-5:1e-3:log"]


def short_plan(folder, ranges=RANGES, overrides=(), **options):
    recipe = load_recipe("lenet5-digits", [*SHORT, *overrides])
    return Plan(recipe, tuple(parse_range(text, recipe) for text in ranges), folder, **options)


def short_store(folder, study="digits"):
    return Store(f"sqlite:///{folder}/sweep.db", study, Heartbeat(interval_seconds=1, grace_seconds=3))


@pytest.fixture(scope="package")
def plan():
    """A function from a folder to the plan of a short sweep."""
    return short_plan


@pytest.fixture(scope="package")
def store():
    """A function from a folder to a store in it."""
    return short_store


@pytest.fixture
def untouched_test_set(monkeypatch):
    """Counts looks at the test set, of which there must be none until the list is emptied."""
    looks = []
    evaluate = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda *arguments: looks.append(arguments) or evaluate(*arguments))
    return looks


@pytest.fixture(scope="package")
def finished(tmp_path_factory):
    """The folder of a sweep of three trials."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep(short_plan(folder), short_store(folder), 3, lambda *_: None)
    return folder
