"""The trials of a sweep: each trains by the recipe with other values, in a folder of its own, without the test set."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from metaq.errors import DataError, MetaqError
from metaq.experiments import run
from metaq.experiments.checkpoint import COMPRESS
from metaq.experiments.locking import locked
from metaq.experiments.recipe import Recipe, as_tree, recipe_from
from metaq.experiments.run import Advance, Run, usable
from metaq.experiments.sweeps import float_stage
from metaq.experiments.sweeps.pruning import Point, Pruning
from metaq.experiments.sweeps.ranges import Range, placed
from metaq.experiments.sweeps.storage import (
    Store,
    open_study,
    original_number,
    quiet,
    retry,
    retry_dead_trials,
)

_BEGUN = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED
_WAIT_SECONDS = 1.0  # between two looks at what other workers do


@dataclass(frozen=True)
class Plan:
    """What a sweep tries, and how.

    Attributes:
        recipe: every trial's, but for the entries that ``ranges`` name.
        folder: where trials have their folders. Workers on several machines need one that all of them see.
        device: where to train, as in `Run`.
    """

    recipe: Recipe
    ranges: tuple[Range, ...]
    folder: Path
    device: str = "cpu"
    pruning: Pruning = field(default_factory=Pruning)


class _SurplusError(Exception):
    """Another worker has begun the last trial at the same moment."""


class _FailedTrialError(Exception):
    """A trial could not be trained with its values; the study says why."""


def sweep(plan: Plan, store: Store, total: int, advance: Advance) -> Study:
    """Train until the study has ``total`` trials, those of earlier calls and other workers included; returns it.

    Trials of workers that died are begun again where they stopped. The call returns when no trial runs any more.

    Args:
        advance: is called with "trials" and with a trial's stages, the steps done, and their number in all.

    Raises:
        InputError: there is no such device, the storage cannot be opened, or the study is about something else.
        MetaqError: a trial cannot be trained, and no other has been.
        DataError: the data set cannot be found or downloaded.
    """
    usable(plan.device)
    tree = as_tree(plan.recipe)
    about = {"name": plan.recipe.name, "recipe": json.loads(json.dumps(tree)), "ranges": [str(r) for r in plan.ranges]}
    study = open_study(store, about, _own_values(plan, tree), plan.folder)
    while True:
        retry_dead_trials(study, store.heartbeat)
        trials = study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if counts(trial)]
        running = sum(trial.state == TrialState.RUNNING for trial in begun)
        advance("trials", min(len(begun) - running, total), total)
        if len(begun) < total:
            with quiet():
                study.optimize(_Objective(plan, study, total, advance), 1, catch=(_SurplusError, _FailedTrialError))
        elif running:
            time.sleep(_WAIT_SECONDS)
        else:
            return study


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the sweep's: begun, and neither surplus nor given up to be tried again."""
    return trial.state in _BEGUN or bool(reason_of(trial))


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial could not be trained; empty for any other."""
    return str(trial.user_attrs.get("reason", "")) if trial.state == TrialState.FAIL else ""


def trial_folder(sweep_folder: Path, trial: FrozenTrial) -> Path:
    """Where a trial trains; the retry of a trial goes on in the folder of the first try."""
    return sweep_folder / f"trial-{original_number(trial)}"


def _own_values(plan: Plan, tree: dict[str, Any]) -> dict[str, Any]:
    """The recipe's own values, as the study calls them, where they lie in their ranges."""
    values = {}
    for searched in plan.ranges:
        value: Any = tree
        for name in searched.key.split("."):
            value = value[name]
        if (parameter := searched.parameter(value)) is not None:
            values[searched.key] = parameter
    return values


class _Objective:
    """One trial: from the study's values to its two objectives."""

    def __init__(self, plan: Plan, study: Study, total: int, advance: Advance) -> None:
        self._plan, self._study, self._total, self._advance = plan, study, total, advance

    def __call__(self, trial: Trial) -> Point:
        values = {searched.key: searched.suggest(trial) for searched in self._plan.ranges}
        *before, frozen = self._study.get_trials(deepcopy=False)[: trial.number + 1]
        if sum(map(counts, before)) >= self._total:
            raise _SurplusError
        folder = trial_folder(self._plan.folder, frozen)
        try:
            with locked(folder):
                return self._train(trial, values, folder)
        except (KeyboardInterrupt, DataError):
            retry(self._study, trial.number)
            raise
        except MetaqError as error:
            if not self._finished_curves():
                raise  # more likely all of them have the same trouble
            trial.set_user_attr("reason", str(error))
            raise _FailedTrialError from error

    def _train(self, trial: Trial, values: dict[str, Any], folder: Path) -> Point:
        plan = self._plan
        tree = placed(as_tree(plan.recipe), values)
        shared = float_stage.shared_folder(plan.folder, tree, plan.device)
        recipe = recipe_from(plan.recipe.name, tree)
        trial.set_user_attr("recipe", as_tree(recipe))
        float_stage.begin_from(shared, folder, as_tree(recipe))
        training = Run(recipe, folder, resume=True, advance=self._advance, device=plan.device)

        def after_epoch() -> None:
            float_stage.keep(training, shared)
            curve = curve_of(folder)
            if curve and plan.pruning.is_hopeless(curve, recipe.training.epochs, self._finished_curves()):
                trial.set_user_attr("curve", curve)
                raise optuna.TrialPruned

        training.train_file(after_epoch)
        trial.set_user_attr("curve", curve_of(folder))
        trial.set_user_attr("epoch", training.progress.best_epoch)
        return len(training.progress.best_file), error_of(training.progress.best_accuracy)

    def _finished_curves(self) -> list[Sequence[Point]]:
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial.user_attrs["curve"] for trial in finished]


def curve_of(folder: Path) -> list[Point]:
    """A run's points so far, one for each epoch of its compressing stage."""
    lines = map(json.loads, (folder / run.METRICS).read_text(encoding="utf-8").splitlines())
    return [(line["file_bytes"], error_of(line["validation_accuracy"])) for line in lines if line["stage"] == COMPRESS]


def error_of(accuracy: float) -> float:
    """The share of images that are not told right, such that 0.97 gives 0.03 and not 0.030000000000000027."""
    return round(1 - accuracy, 12)
