"""A sweep that takes seconds, and runs that train nothing, for tests of who does what when."""

import json
import time

import pytest

from metaq.experiments import run
from metaq.experiments.checkpoint import COMPRESS, RunProgress
from metaq.experiments.recipe import load_recipe
from metaq.experiments.sweeps import trials
from metaq.experiments.sweeps.ranges import parse_range
from metaq.experiments.sweeps.storage import Heartbeat, Store
from metaq.experiments.sweeps.trials import Plan, sweep

SHORT = [
    "threads=1",
    "data.held_out=1200",
    "float_training.epochs=1",
    "training.epochs=2",
    "training.last_phase_epochs=1",
    "method.schedule=[[0, 0.0], [0.1, 1.0]]",
]
RANGES = ["method.strength=1e-5:1e-3:log"]


def short_plan(folder, ranges=RANGES, overrides=(), **options):
    recipe = load_recipe("lenet5-digits", [*SHORT, *overrides])
    return Plan(recipe, tuple(parse_range(text, recipe) for text in ranges), folder, **options)


def short_store(folder, study="digits"):
    return Store(f"sqlite:///{folder}/sweep.db", study, Heartbeat(interval_seconds=1, grace_seconds=3))


class MadeUpRun:
    """In place of `Run`: the same files as far as a sweep reads them, and a pause in each epoch after the first."""

    pause_seconds = 0.02

    def __init__(self, recipe, folder, resume, advance, device):
        self.recipe, self.folder = recipe, folder
        self.progress = RunProgress(stage=COMPRESS)

    def train_file(self, after_epoch):
        path = self.folder / run.METRICS
        done = path.read_text().count("\n") if path.exists() else 0
        for epoch in range(done, self.recipe.training.epochs):
            time.sleep(self.pause_seconds if epoch else 0)
            line = {"stage": COMPRESS, "epoch": epoch, "file_bytes": 100 - epoch, "validation_accuracy": 0.9}
            with path.open("a") as metrics:
                metrics.write(json.dumps(line) + "\n")
            after_epoch()
        self.progress.best_file, self.progress.best_accuracy = bytes(100), 0.9


@pytest.fixture(scope="package")
def plan():
    """A function from a folder to the plan of a short sweep."""
    return short_plan


@pytest.fixture(scope="package")
def store():
    """A function from a folder to a store in it."""
    return short_store


@pytest.fixture
def made_up_runs(monkeypatch):
    """Lets the sweeps of this process train nothing."""
    monkeypatch.setattr(trials, "Run", MadeUpRun)


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
