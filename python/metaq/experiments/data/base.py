"""A data set: inputs and labels in memory, in three splits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metaq.errors import InputError

_SPLIT_SEED = 1234  # the held-out images are the same in every run, whatever its seed


@dataclass(frozen=True)
class Split:
    """Samples: images with a class each, or windows of text with the character that follows each of theirs.

    Attributes:
        inputs: float32 images (n, channels, height, width), normalised; or int64 characters (n, context).
        labels: int64, of the shape of the positions that are told: (n,) for images, (n, context) for text.
        samples_per_epoch: how many samples, drawn anew each time, make an epoch of training; None for all of them.
    """

    inputs: Tensor
    labels: Tensor
    samples_per_epoch: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """A copy on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training samples, held-out samples for every choice, and the test set for the end."""

    train: Split
    validation: Split
    test: Split

    def to(self, device: torch.device) -> Dataset:
        """A copy on another device."""
        return Dataset(self.train.to(device), self.validation.to(device), self.test.to(device))


def hold_out(train: Split, test: Split, held_out: int) -> Dataset:
    """Split ``held_out`` random training images off for validation.

    Raises:
        InputError: there are not that many, or none would be left.
    """
    if not 0 < held_out < len(train):
        raise InputError(f"held-out images: expected 1 to {len(train) - 1}, found {held_out}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    chosen, rest = order[:held_out], order[held_out:]
    validation = Split(train.inputs[chosen], train.labels[chosen])
    return Dataset(Split(train.inputs[rest], train.labels[rest]), validation, test)
