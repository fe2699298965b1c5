"""One float network for all trials that would train the same one: the state at the end of its stage, kept aside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from metaq.experiments import checkpoint, run
from metaq.experiments.checkpoint import FLOAT
from metaq.experiments.run import Run
from metaq.files import read_bytes, write_atomically

# The sections of a recipe that decide what the float network becomes.
_SECTIONS = ("seed", "threads", "network", "data", "float_training", "teacher")


def shared_folder(sweep_folder: Path, tree: dict[str, Any], device: str) -> Path:
    """Where the float stage of a recipe is kept, for it and all others with the same one."""
    decisive = json.dumps([device, *(tree.get(section) for section in _SECTIONS)], sort_keys=True)
    return sweep_folder / f"float-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"


def keep(trial: Run, shared: Path) -> None:
    """Keep a copy of a run's state, if its float stage has just ended; to be called after each epoch."""
    is_at_end = trial.progress.stage == FLOAT and trial.progress.epochs_done == trial.recipe.float_training.epochs
    if is_at_end and not (shared / run.CHECKPOINT).exists():
        shared.mkdir(parents=True, exist_ok=True)
        for name in (run.METRICS, run.CHECKPOINT):  # the checkpoint last, since it says that all is there
            write_atomically(shared / name, read_bytes(trial.folder / name))


def begin_from(shared: Path, folder: Path, tree: dict[str, Any]) -> None:
    """Give a trial's folder what is kept of the float stage, if anything is and the trial has not begun itself."""
    if (shared / run.CHECKPOINT).exists() and not (folder / run.CHECKPOINT).exists():
        write_atomically(folder / run.METRICS, read_bytes(shared / run.METRICS))
        checkpoint.copy_for(tree, shared / run.CHECKPOINT, folder / run.CHECKPOINT)
