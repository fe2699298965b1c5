"""Which trials are not worth their remaining epochs. Optuna's own pruners know one objective; a sweep has two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""Bytes of the file, and held-out error as a fraction, after one epoch."""


@dataclass(frozen=True)
class Pruning:
    """A trial ends early when one finished trial was clearly smaller and clearly better at the same time.

    After an epoch, a finished trial *dominates* one with file size b and held-out error e when its own, at the same
    share of its training, are at most ``b / (1 + byte_margin)`` and ``e - error_margin``. A trial is pruned once the
    same finished trial has dominated it for ``epochs_in_a_row``, and not before ``least_share`` of its epochs are done,
    since schedules begin with large files. Trials of other lengths are compared at the same share of their epochs.
    """

    least_share: float = 0.25
    byte_margin: float = 0.1
    error_margin: float = 0.01
    epochs_in_a_row: int = 3

    def is_hopeless(self, curve: Sequence[Point], epochs: int, finished: Sequence[Sequence[Point]]) -> bool:
        """Whether to prune a trial.

        Args:
            curve: its points so far, one for each epoch of the compressing stage.
            epochs: that the stage will have.
            finished: the whole curves of finished trials, none of them empty.
        """
        needed = max(self.epochs_in_a_row, round(self.least_share * epochs))
        if len(curve) < needed:
            return False
        last = range(len(curve) - self.epochs_in_a_row, len(curve))
        return any(
            all(self._dominates(other[_same_share(epoch, epochs, len(other))], curve[epoch]) for epoch in last)
            for other in finished
        )

    def _dominates(self, other: Point, point: Point) -> bool:
        is_smaller = other[0] * (1 + self.byte_margin) <= point[0]
        return is_smaller and other[1] + self.error_margin <= point[1]


def _same_share(epoch: int, epochs: int, other_epochs: int) -> int:
    """The epoch, from 0, of a training of ``other_epochs`` that has the same share of it done, or slightly more."""
    return math.ceil((epoch + 1) * other_epochs / epochs) - 1
