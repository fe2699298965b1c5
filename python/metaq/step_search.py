"""The step at which something measured comes just below a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from metaq.errors import InputError

Model = TypeVar("Model")

NEAR = 0.01  # what may be missing of a target
_MOST_TRIED = 60
_NARROW = 1e-4  # octaves between steps too near each other to tell apart


def find_step(
    try_step: Callable[[float], tuple[float, Model]],
    target: float,
    octaves: tuple[float, float],
    rises: bool,
) -> Model:
    """The model of a step whose value is at most ``target`` and, if there is one, less than NEAR of it below.

    Values are taken to be monotone in the step, and are interpolated over its logarithm between the nearest steps on
    either side: as they are if they fall with the step, like bits, their logarithms if they rise, like errors. Where
    values jump over that range, it is the model of the nearest step below the target.

    Args:
        try_step: from a step to a value (at least 0) and a model.
        target: above 0.
        octaves: log2 of the least and of the greatest step.
        rises: whether the value grows with the step.

    Raises:
        InputError: the value is above the target at either end.
    """
    fits, exceeds = octaves if rises else octaves[::-1]

    def try_place(place: float) -> tuple[float, Model]:
        value, model = try_step(2.0**place)
        excess = math.log2(max(value, 1e-300) / target) if rises else value / target - 1
        return excess, model

    low, best = try_place(fits)
    if low > 0:
        least = target * (2.0**low if rises else 1 + low)
        raise InputError(f"expected at least {least:.6g}, which no step brings it below, found {target:.6g}")
    high, last = try_place(exceeds)
    if high <= 0:
        return last
    for tried in range(_MOST_TRIED):
        if low >= -NEAR or abs(exceeds - fits) < _NARROW:
            break
        # Aims within the range that is met. Every third time halves, for values that are far from straight lines.
        share = (low + NEAR / 2) / (low - high) if tried % 3 != 2 else 0.5
        place = fits + (exceeds - fits) * min(max(share, 0.02), 0.98)
        excess, model = try_place(place)
        if excess <= 0:
            fits, low, best = place, excess, model
        else:
            exceeds, high = place, excess
    return best
