"""A strength that changes in the course of training: it is multiplied by factors, linear between training steps."""

from __future__ import annotations

import math

Schedule = tuple[tuple[float, float], ...]


def is_schedule(schedule: Schedule) -> bool:
    """Whether these are pairs of a training step, each later than the last, and a finite factor of at least 0."""
    steps = [step for step, _ in schedule]
    are_factors = all(step >= 0 and factor >= 0 and math.isfinite(step + factor) for step, factor in schedule)
    return are_factors and steps == sorted(set(steps))


def factor_at(schedule: Schedule, training_step: int) -> float:
    """The factor in a training step: linear between two pairs, constant before and after; 1 without any."""
    factor = 1.0
    before: tuple[float, float] | None = None
    for step, value in schedule:
        if training_step < step:
            if before is None:
                return value
            share = (training_step - before[0]) / (step - before[0])
            return before[1] + share * (value - before[1])
        before, factor = (step, value), value
    return factor
