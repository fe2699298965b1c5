"""What changes in the course of training, in shares of its length: 0 where it begins, 1 where it ends.

A strength with a schedule is multiplied by a factor, which is linear between the schedule's points.
"""

from __future__ import annotations

import math

from metaq.errors import InputError

Schedule = tuple[tuple[float, float], ...]

RAMP: Schedule = ((0.0, 0.0), (0.1, 1.0))
"""The strength grows from nothing, so that a network that starts at random learns before it is compressed."""


def is_schedule(schedule: Schedule) -> bool:
    """Whether these are rising shares of the training, each with a finite factor of at least 0."""
    shares = [share for share, _ in schedule]
    are_factors = all(0 <= share <= 1 and 0 <= factor < math.inf for share, factor in schedule)
    return are_factors and shares == sorted(set(shares))


def known_length(training_steps: int, needed_by: str) -> int:
    """The training's length in steps.

    Args:
        training_steps: the length, or 0 where it is unknown.
        needed_by: what cannot do without it, for the message.

    Raises:
        InputError: it is unknown.
    """
    if training_steps < 1:
        raise InputError(
            f"{needed_by}: expected the training's length, found none; give Compressor(..., training_steps=...)"
        )
    return training_steps


def steps_at(share: float, training_steps: int) -> int:
    """The whole training step nearest to a share of the training."""
    return round(share * training_steps)


def in_steps(schedule: Schedule, training_steps: int, needed_by: str) -> Schedule:
    """The schedule with training steps in place of shares.

    Where the length is unknown (0), the default `RAMP` is left out, and another schedule raises an InputError.
    """
    if not schedule or (training_steps < 1 and schedule == RAMP):
        return ()
    length = known_length(training_steps, needed_by)
    return tuple((steps_at(share, length), factor) for share, factor in schedule)


def factor_at(schedule: Schedule, training_step: int) -> float:
    """The factor in a training step: linear between two pairs, constant before and after; 1 without any.

    Args:
        schedule: in training steps, as `in_steps` gives it.
    """
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
