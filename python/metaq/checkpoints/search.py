"""The step that leads to an error or a size, looked for on a sample of the weights first if they are many."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

from metaq.checkpoints.chunk_encoder import Totals
from metaq.checkpoints.config import DEFAULT_BITS, QUALITIES, CompressionConfig
from metaq.checkpoints.sample import Sample
from metaq.checkpoints.step_guesses import guessed_bits, guessed_error
from metaq.checkpoints.step_search import StepProblem, find_step, octaves
from metaq.checkpoints.weight_quantizer import WeightQuantizer
from metaq.errors import InputError


class Quantity(Enum):
    """What is measured."""

    ERROR = "relative squared error"
    BITS = "bits per weight"
    SIZE = "bytes of the files"


@dataclass(frozen=True)
class Target:
    """A value that is to be met from below.

    Attributes:
        name: what messages call it.
        quantity: what it is a value of.
        value: above 0.
    """

    name: str
    quantity: Quantity
    value: float

    @property
    def needs_coding(self) -> bool:
        """Whether weights must be coded to measure it, not only quantized."""
        return self.quantity is not Quantity.ERROR


def target_of(config: CompressionConfig) -> Target:
    """What a configuration without a step asks for."""
    if config.size_bytes is not None:
        return Target("size_bytes", Quantity.SIZE, config.size_bytes)
    if config.max_error is not None:
        return Target("max_error", Quantity.ERROR, config.max_error)
    if config.quality is not None:
        return Target("quality", Quantity.ERROR, QUALITIES[config.quality])
    return Target("bits", Quantity.BITS, DEFAULT_BITS if config.bits is None else config.bits)


@dataclass(frozen=True)
class Weights:
    """What a search must know of all the weights that are quantized.

    Attributes:
        count: how many there are.
        energy: the sum of their squares.
        peak: the largest magnitude, in units of their tensors' scales.
        other_bytes: of all that is in the files beside them, roughly.
    """

    count: int
    energy: float
    peak: float
    other_bytes: int

    def measure(self, totals: Totals, quantity: Quantity) -> float:
        """The quantity that these totals amount to."""
        if quantity is Quantity.ERROR:
            return totals.squared_error / self.energy if self.energy else 0.0
        return totals.bits / self.count if quantity is Quantity.BITS else float(totals.size_bytes)

    def estimate(self, totals: Totals, quantity: Quantity) -> float:
        """The quantity, with the size of the files estimated, because none was written."""
        return self.measure(replace(totals, size_bytes=self.other_bytes + int(totals.bits / 8)), quantity)


def search_step(
    weights: Weights,
    target: Target,
    sample: Sample,
    quantizer: WeightQuantizer,
    try_step: Callable[[float], Totals],
) -> float:
    """The step on which all weights meet the target.

    Args:
        try_step: from a step to what all weights come to on it.

    Raises:
        InputError: no step leads there.
    """
    is_error = target.quantity is Quantity.ERROR
    guessed = guessed_error(sample.weights) if is_error else guessed_bits(sample.weights)

    def guess(step: float) -> float:
        if is_error:
            return guessed(step)
        return weights.estimate(Totals(bits=guessed(step) * weights.count), target.quantity)

    def try_sample(step: float) -> tuple[float, float]:
        value = weights.estimate(sample.measure(step, quantizer), target.quantity)
        return value, value / (guess(step) or math.inf)

    def try_all(step: float) -> tuple[float, float]:
        return weights.measure(try_step(step), target.quantity), step

    problem = StepProblem(target.value, octaves(weights.peak), is_error, guess)
    try:
        if not sample.is_all:
            with suppress(InputError):  # the last word is with all of them
                problem = replace(problem, factor=find_step(try_sample, problem) or 1.0)
        return find_step(try_all, problem)
    except InputError as failure:
        raise InputError(f"{target.name}: {failure}") from None
