"""A teacher of its own for distillation: an ensemble of networks, trained once and kept for every run that wants it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.experiments import checkpoint, models
from metaq.experiments.checkpoint import RunProgress
from metaq.experiments.data import Dataset
from metaq.experiments.locking import locked
from metaq.experiments.loop import Stage
from metaq.experiments.recipe import Recipe, TeacherSection, as_tree
from metaq.io.safetensors import read_safetensors, write_safetensors

TEACHER = "teacher"  # what a run's progress and folder call it

Advance = Callable[[str, int, int], None]


class Ensemble(nn.Module):
    """Several networks as one, whose outputs are the logarithms of the mean of their probabilities."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (..., classes) of a batch."""
        logarithms = [functional.log_softmax(network(inputs), dim=-1) for network in self.networks]
        return torch.stack(logarithms).logsumexp(dim=0) - math.log(len(logarithms))


@dataclasses.dataclass(frozen=True)
class TeacherTraining:
    """What the networks of a teacher are trained from, and where they are kept.

    Attributes:
        section: the recipe's ``[teacher]``.
        tree: what decides what the networks become, for all but their number.
        folder: that of these networks alone.
    """

    section: TeacherSection
    tree: dict[str, Any]
    folder: Path
    dataset: Dataset
    device: torch.device


def trained_teacher(recipe: Recipe, folder: Path, dataset: Dataset, device: torch.device, advance: Advance) -> Ensemble:
    """The teacher of a recipe that has one, with networks that are kept already, or trained now.

    The seeds of the networks are 0, 1, ..., whatever the recipe's seed, so that its runs share them. A folder that
    several runs name is used by one at a time; the others wait for its networks. Training that was stopped goes on
    after the last whole epoch.

    Args:
        folder: of the run, where the networks are kept unless the recipe names a folder.
        dataset: the recipe's, on the device.
        advance: is called after every training step with "teacher", the steps done, and their number.

    Raises:
        InputError: the folder cannot be written to.
    """
    assert recipe.teacher is not None
    whole = as_tree(recipe)
    tree = {key: value for key, value in whole["teacher"].items() if key not in ("count", "folder")}
    tree |= {"data": whole["data"], "threads": whole["threads"], "device": device.type}
    name = f"{TEACHER}-{hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]}"
    place = Path(recipe.teacher.folder or folder) / name
    training = TeacherTraining(recipe.teacher, tree, place, dataset, device)
    with locked(place):
        return Ensemble([_network(training, number, advance) for number in range(recipe.teacher.count)])


def _network(training: TeacherTraining, number: int, advance: Advance) -> nn.Module:
    """One network, read or trained."""
    model = models.initial(training.section.network, number).to(training.device)
    path = training.folder / f"network-{number}.safetensors"
    if path.exists():
        model.load_state_dict(read_safetensors(path)[0])
        return model
    stage = Stage(model, training.section.training, training.dataset.train, number)
    progress = RunProgress()
    unfinished = path.with_suffix(".pt")
    if unfinished.exists():
        state = checkpoint.load(unfinished)
        checkpoint.restore(state, stage)
        progress = state["progress"]
    total = stage.training_steps
    done = number * total + progress.epochs_done * stage.steps_per_epoch

    def count_step() -> None:
        nonlocal done
        done += 1
        advance(TEACHER, done, training.section.count * total)

    for epoch in range(progress.epochs_done, training.section.training.epochs):
        stage.run_epoch(epoch, count_step)
        stage.end_epoch(training.dataset.validation)
        progress.epochs_done = epoch + 1
        checkpoint.save(unfinished, progress, stage, training.tree)
    write_safetensors(path, model.state_dict(), {})
    unfinished.unlink()
    return model
