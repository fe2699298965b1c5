"""What came of a sweep: its trials as rows, the best trade-offs, and the one point that the test set measures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from metaq.errors import InputError
from metaq.experiments import run
from metaq.experiments.locking import locked
from metaq.experiments.recipe import Recipe, recipe_from
from metaq.experiments.run import Advance, Run
from metaq.experiments.sweeps.storage import original_number
from metaq.experiments.sweeps.trials import counts, reason_of, trial_folder
from metaq.files import read_bytes, write_atomically

CHOSEN, SWEEP = "chosen", "sweep.json"
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def outcome(study: Study, folder: Path) -> dict[str, Any]:
    """The content of ``sweep.json``: the plan, a row for each trial, the Pareto front, and what was chosen.

    A trial has its number, state, bytes, held-out error as a fraction, and the values that it tried; a pruned trial has
    the bytes and error of its last epoch. The front's trials come by rising bytes; no finished trial is at least as
    small and as good as one of them, and better in one of both.
    """
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False) if counts(trial)]
    front = _front(rows)
    for row in rows:
        row["is_on_front"] = row["trial"] in front
    plan = study.user_attrs["plan"]
    result = folder / CHOSEN / run.RESULT
    chosen = study.user_attrs.get("chosen")
    measured = None
    if chosen is not None:
        measured = {"trial": chosen, "result": json.loads(read_bytes(result)) if result.exists() else None}
    return {
        "study": study.study_name,
        "recipe": plan["name"],
        "ranges": plan["ranges"],
        "trials": rows,
        "front": front,
        "chosen": measured,
        "config": plan["recipe"],
    }


def write_outcome(study: Study, folder: Path) -> dict[str, Any]:
    """Write ``sweep.json``; returns its content."""
    content = outcome(study, folder)
    write_atomically(folder / SWEEP, (json.dumps(content, indent=2) + "\n").encode())
    return content


def smallest_within(study: Study, max_error: float) -> int:
    """The number of the trial with the smallest file among those whose held-out error is at most ``max_error``.

    Raises:
        InputError: no finished trial is that good.
    """
    rows = [_row(trial) for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if not rows:
        raise InputError(f"study {study.study_name!r}: expected a finished trial, found none")
    good = [row for row in rows if row["held_out_error"] <= max_error]
    if not good:
        least = min(row["held_out_error"] for row in rows)
        raise InputError(f"max-error: expected at least the least held-out error, {least:.4g}, found {max_error:g}")
    return int(min(good, key=lambda row: (row["file_bytes"], row["held_out_error"]))["trial"])


def choose(study: Study, number: int, folder: Path, advance: Advance, device: str) -> tuple[Recipe, dict[str, Any]]:
    """Measure a trial's file on the test set, once and for one trial of a study; returns its recipe and result.

    The folder ``chosen`` becomes that of a whole run: ``model.mtq``, ``result.json`` and what else a run leaves.
    A trial whose folder is not on this machine is trained again.

    Raises:
        InputError: there is no such finished trial, or the test set has been used for another one.
    """
    trial = _finished_trial(study, number)
    plan = study.user_attrs["plan"]
    with locked(folder):
        used = study.user_attrs.get("chosen", number)
        if used != number:
            raise InputError(
                f"study {study.study_name!r}: expected trial {used}, for which the test set has been used, found trial"
                f" {number}; a second look would be a choice by the test set"
            )
        study.set_user_attr("chosen", number)
        recipe = recipe_from(plan["name"], trial.user_attrs["recipe"])
        target = folder / CHOSEN
        if (target / run.RESULT).exists():
            return recipe, json.loads(read_bytes(target / run.RESULT))
        trained = trial_folder(folder, trial)
        if trained.exists() and not target.exists():
            shutil.copytree(trained, target, ignore=shutil.ignore_patterns(".*"))
        return recipe, Run(recipe, target, resume=True, advance=advance, device=device).train()


def _finished_trial(study: Study, number: int) -> FrozenTrial:
    finished = {original_number(trial): trial for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    if number not in finished:
        known = ", ".join(map(str, sorted(finished))) or "none"
        raise InputError(f"study {study.study_name!r}: expected a finished trial ({known}), found {number}")
    return finished[number]


def _row(trial: FrozenTrial) -> dict[str, Any]:
    values = trial.values
    if values is None:
        curve = trial.user_attrs.get("curve")
        values = curve[-1] if curve else (None, None)
    row = {"trial": original_number(trial), "state": _STATES[trial.state], "is_on_front": False}
    row |= {"file_bytes": values[0] if values[0] is None else int(values[0]), "held_out_error": values[1]}
    row |= {"epochs": len(trial.user_attrs.get("curve", ())), "values": trial.params}
    return row | ({"reason": reason_of(trial)} if reason_of(trial) else {})


def _front(rows: list[dict[str, Any]]) -> list[int]:
    """The trials that no other beats, by rising bytes; of equal ones, the first."""
    front: list[int] = []
    least_error = float("inf")
    finished = [row for row in rows if row["state"] == "finished"]
    for row in sorted(finished, key=lambda row: (row["file_bytes"], row["held_out_error"], row["trial"])):
        if row["held_out_error"] < least_error:
            front.append(row["trial"])
            least_error = row["held_out_error"]
    return front
