"""What a task is measured by on its test set: how often its network is right, or, of a text, its loss."""

from __future__ import annotations

from dataclasses import dataclass

from metaq.experiments.data import TEXTS


@dataclass(frozen=True)
class Measure:
    """A figure of `metaq.experiments.loop.Evaluation`.

    Attributes:
        key: its name there.
        title: its name for people, with its unit.
        most: the largest value that it can have.
        larger_is_better: whether it is.
    """

    key: str
    title: str
    most: float
    larger_is_better: bool

    def text(self, value: float) -> str:
        """A value as people read it."""
        return f"{value:.2%}" if self is ACCURACY else f"{value:.4f}"

    def difference_text(self, value: float) -> str:
        """A deviation of values, in points of a hundredth where they are shares."""
        return f"{100 * value:.2f}" if self is ACCURACY else f"{value:.4f}"


ACCURACY = Measure("accuracy", "top-1, test", 1.0, True)
LOSS = Measure("loss", "loss, test", 1e9, False)


def measure_of(data: str) -> Measure:
    """The measure of a data set: of text the loss, since several characters may be right."""
    return LOSS if data in TEXTS else ACCURACY
