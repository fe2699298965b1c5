"""The study of a sweep in Optuna's storage, which workers share: opened, checked and kept free of dead workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from metaq.errors import InputError
from metaq.experiments.locking import locked

_MOST_RETRIES = 10  # of one trial whose workers die: perhaps it is what kills them
_BUSY_SECONDS = 60.0  # that a worker waits while another one writes to a file of SQLite
_DIRECTIONS = (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)  # the file's bytes, and the held-out error


@dataclass(frozen=True)
class Heartbeat:
    """A worker gives a sign of life every ``interval_seconds``, and is dead after ``grace_seconds`` without one."""

    interval_seconds: int = 10
    grace_seconds: int = 60


@dataclass(frozen=True)
class Store:
    """Where a study is kept: a database by its URL, as SQLAlchemy has it, and the study's name in it."""

    url: str
    study: str
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


def open_storage(store: Store, folder: Path) -> RDBStorage:
    """Optuna's storage; its tables are made if they do not exist.

    Args:
        folder: the sweep's; workers that begin at the same time take turns by a lock in it.

    Raises:
        InputError: there is no such storage, or it cannot be opened.
    """
    options = {"connect_args": {"timeout": _BUSY_SECONDS}} if store.url.startswith("sqlite:") else {}
    try:
        with quiet(), locked(folder):
            return RDBStorage(
                store.url,
                engine_kwargs=options,
                heartbeat_interval=store.heartbeat.interval_seconds,
                grace_period=store.heartbeat.grace_seconds,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(_MOST_RETRIES),
            )
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"storage: expected the URL of a database, such as sqlite:///sweep.db, found {reason}"
        ) from None


def open_study(store: Store, plan: dict[str, Any], first: dict[str, Any], folder: Path) -> Study:
    """The study, to which this worker is added; a new one if there is none of its name.

    Args:
        plan: what the study is about, as JSON has it; all its workers must say the same.
        first: the values of a new study's first trial; those that are missing are the sampler's choice.

    Raises:
        InputError: the storage cannot be opened, the study of that name is about something else, or it is new and the
            folder has another's trials.
    """
    name, storage = store.study, open_storage(store, folder)
    with quiet(), locked(folder):
        study = optuna.create_study(storage=storage, study_name=name, directions=_DIRECTIONS, load_if_exists=True)
        attributes = study.user_attrs
        if not attributes and not study.get_trials(deepcopy=False):
            _check_unused(folder)
            study.set_user_attr("plan", plan)
            study.enqueue_trial(first)
        elif attributes.get("plan") != plan:
            found = attributes.get("plan") or {}
            other = ", ".join(key for key in plan if found.get(key) != plan[key])
            hint = "name another study"
            raise InputError(
                f"study {name!r}: expected the same recipe and ranges as before, found other {other}; {hint}"
            )
        worker = int(attributes.get("workers", 0))
        study.set_user_attr("workers", worker + 1)
        # Startup trials are random: workers of one study must not try the same ones.
        study.sampler = optuna.samplers.TPESampler(seed=plan["recipe"]["seed"] + worker, constant_liar=True)
    return study


def _check_unused(folder: Path) -> None:
    found = sorted(path.name for path in folder.glob("trial-*"))
    if found:
        hint = "name the study or the storage that they belong to, or another folder"
        raise InputError(f"{folder}: expected no trials of another study, found {found[0]}; {hint}")


def existing_study(store: Store, folder: Path) -> Study:
    """The study, which must be there.

    Raises:
        InputError: there is none, or it is no sweep's.
    """
    path, name = store.url.removeprefix("sqlite:///"), store.study
    if path != store.url and not Path(path).exists():
        raise InputError(f"storage: expected the database of a sweep, found no file {path}")
    storage = open_storage(store, folder)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(optuna.get_all_study_names(storage)) or "no study at all"
        raise InputError(f"study: expected one that the storage holds ({known}), found {name!r}") from None
    if "plan" not in study.user_attrs:
        raise InputError(f"study {name!r}: expected one of metaq sweep, found another")
    return study


def retry_dead_trials(study: Study, heartbeat: Heartbeat) -> None:
    """Put trials whose workers have died back into the queue, with the same values."""
    with quiet():
        optuna.storages.fail_stale_trials(study)
    # A worker that died before its first sign is not found by Optuna; it has not tried anything yet either.
    oldest = datetime.now() - timedelta(seconds=heartbeat.grace_seconds)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not trial.params and trial.datetime_start is not None and trial.datetime_start < oldest:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def retry(study: Study, number: int) -> None:
    """Queue the values of a trial that this worker gives up, for whoever goes on."""
    with quiet():
        RetryHeartbeatStaleTrialCallback()(study, study.get_trials(deepcopy=False)[number])


def original_number(trial: FrozenTrial) -> int:
    """The number under which a trial was begun first: its own, if it is not the retry of another."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log of each trial, and its warnings that heartbeats and retries may change."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
