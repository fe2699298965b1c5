"""A data set: images and labels in memory, in three splits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError

_SPLIT_SEED = 1234  # the held-out images are the same in every run, whatever its seed


@dataclass(frozen=True)
class Split:
    """``images``: float32 (n, channels, height, width), normalised. ``labels``: int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """A copy on another device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training images, held-out training images for every choice, and the test set for the end."""

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
    validation = Split(train.images[chosen], train.labels[chosen])
    return Dataset(Split(train.images[rest], train.labels[rest]), validation, test)
