"""The step at which something measured comes just below a target, with a guess that spares measuring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from metaq.errors import InputError

Model = TypeVar("Model")

NEAR = 0.01  # what may be missing of a target
_MOST_TRIED = 60
_STRAY = 2e-3  # octaves between steps tried around such, where sizes of small files leap up and down
_HALVINGS = 18
_FEW = 4
_NARROW = 1e-4  # octaves between steps too near each other to tell apart


@dataclass(frozen=True)
class StepProblem:
    """The value that a step should lead to.

    Attributes:
        target: above 0.
        octaves: log2 of the least and of the greatest step.
        rises: whether the value grows with the step, as errors do; sizes fall.
        guess: from a step to about the value, up to a factor that varies slowly with the step, at no great cost.
        factor: that factor, as far as it is known beforehand.
    """

    target: float
    octaves: tuple[float, float]
    rises: bool
    guess: Callable[[float], float]
    factor: float = 1.0

    @property
    def aim(self) -> float:
        """The middle of the values that meet the target."""
        return (1 - NEAR / 2) * self.target

    def place(self, factor: Callable[[float], float] | None = None) -> float:
        """log2 of the step at which a factor, depending on it, times the guess is the aim, or the nearest end."""
        low, high = self.octaves
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            times = self.factor if factor is None else factor(middle)
            is_above = times * self.guess(2.0**middle) > self.aim
            low, high = (low, middle) if is_above == self.rises else (middle, high)
        return low if low == self.octaves[0] else high


class _Factor:
    """What the guess is to be multiplied by: what it was when last measured, on a line through the time before."""

    def __init__(self, place: float, factor: float, before: _Factor | None) -> None:
        self.place, self.factor, self.slope = place, factor, 0.0
        if before is not None and place != before.place:
            self.slope = (factor - before.factor) / (place - before.place)

    def __call__(self, place: float) -> float:
        along = self.factor + self.slope * (place - self.place)
        return min(max(along, self.factor / 2), self.factor * 2)


def octaves(peak: float) -> tuple[float, float]:
    """log2 of steps so fine that nothing is lost but float32's last bits, and so coarse that nothing is left.

    Args:
        peak: the largest magnitude of the weights.
    """
    middle = math.log2(peak or 1.0)
    return max(middle - 24, -148.0), min(middle + 2, 127.0)


def find_step(try_step: Callable[[float], tuple[float, Model]], problem: StepProblem) -> Model:
    """The model of a step whose value is at most the target and, if there is one, less than NEAR of it below.

    Values are taken to be monotone in the step. Those measured say what the guess is to be multiplied by for the
    next; what lies outside the steps known to be too fine and too coarse is not believed. Where values jump over the
    range aimed at, it is the model of the highest value below the target among those met.

    Args:
        try_step: from a step to a value (at least 0) and a model.
        problem: what is looked for.

    Raises:
        InputError: the value is above the target at either end.
    """
    target, (least, greatest) = problem.target, problem.octaves
    safe_end, far_end = (least, greatest) if problem.rises else (greatest, least)
    fits = exceeds = factor = None
    highest = -1.0  # of the values below the target
    place = problem.place()
    widths: list[float] = []  # of the ranges between what fits and what exceeds
    for tried in range(_MOST_TRIED):
        value, model = try_step(2.0**place)
        if highest < value <= target:
            highest, best = value, model
        if (1 - NEAR) * target <= value <= target or (value <= target and place == far_end):
            return model
        if value > target and place == safe_end:
            raise InputError(f"expected at least {value:.6g}, which no step brings it below, found {target:.6g}")
        if fits is not None and exceeds is not None and abs(exceeds - fits) < _NARROW:
            stray = fits + _STRAY * ((tried + 1) // 2) * (-1) ** tried
            place = min(max(stray, least), greatest)
            continue
        fits, exceeds = (place, exceeds) if value <= target else (fits, place)
        guessed = problem.guess(2.0**place)
        if value > 0 and guessed > 0:
            factor = _Factor(place, value / guessed, factor)
        if fits is not None and exceeds is not None:
            widths.append(abs(exceeds - fits))
        place = _next_place(problem.place(factor), fits, exceeds, (safe_end, far_end), tried, _is_slow(widths))
    return best


def _is_slow(widths: list[float]) -> bool:
    """Whether two steps did not halve the range, or more than a few did not end the search."""
    return len(widths) > _FEW or (len(widths) > 2 and widths[-1] > widths[-3] / 2)


def _next_place(
    wanted: float, fits: float | None, exceeds: float | None, ends: tuple[float, float], tried: int, is_slow: bool
) -> float:
    """``wanted`` if it is well within what is known to fit and to exceed, otherwise a place there.

    Where guesses narrow it too slowly, the middle.
    """
    if fits is not None and exceeds is not None:
        share = 0.5 if is_slow else (wanted - fits) / (exceeds - fits)
        return fits + (exceeds - fits) * min(max(share, 0.02), 0.98)
    known, end = (fits, ends[1]) if fits is not None else (exceeds, ends[0])
    assert known is not None
    towards = math.copysign(1.0, end - known)
    beyond = min(max((wanted - known) * towards, 2.0 ** (tried - 9)), 2.0**tried)
    return known + towards * min(beyond, abs(end - known))
