"""The options, rules and records that all methods share which climb a dual."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np

from metaq.errors import InputError
from metaq.solvers.dual_problem import Array, Problem


class Rule(enum.Enum):
    """How a method chooses its steps."""

    PUBLISHED = "published"  # as in the thesis, in absolute units
    RELATIVE = "relative"  # as in the thesis, in units of the range of ξ; diminishing steps only
    CONVEX = "convex"  # on convex ξ, in the metric of the counts


class Status(enum.Enum):
    """Why a method stopped."""

    CONVERGED = "converged"  # the gap is within the tolerance
    STALLED = "stalled"  # no step leads upwards any more, to rounding
    ITERATION_LIMIT = "iteration limit"


@dataclass(frozen=True)
class Options:
    """The options of every method.

    Attributes:
        iterations: the largest number that it may take.
        tolerance: the gap between primal and dual value, relative to the value, at which it stops.
        least_count: c_lo, which every level counts at least.
    """

    iterations: int = 1000
    tolerance: float = 1e-7
    least_count: float = 0.01

    def __post_init__(self) -> None:
        self.check(self.iterations >= 1, "iterations", "at least 1")
        self.check(self.tolerance >= 0, "tolerance", "at least 0")
        self.check(self.least_count > 0 and math.isfinite(self.least_count), "least_count", "a positive number")

    def check(self, holds: bool, name: str, expected: str) -> None:
        """Raise an InputError about the option ``name`` unless ``holds``."""
        if not holds:
            raise InputError(f"{type(self).__name__} {name}: expected {expected}, found {getattr(self, name)!r}")


@dataclass
class Record:
    """The best multipliers visited, with the least primal value, which bounds the optimum from above.

    Attributes:
        problem: the problem that is being solved.
        tolerance: as in `Options`.
        xi, value: the best multipliers and φ_w there.
        primal, counts: the least primal value and its feasible counts.
        iterations: how many were taken.
        status: why the method stopped.
    """

    problem: Problem
    tolerance: float
    xi: Array = field(default_factory=lambda: np.empty(0))
    value: float = -math.inf
    primal: float = math.inf
    counts: Array = field(default_factory=lambda: np.empty(0))
    iterations: int = 0
    status: Status = Status.ITERATION_LIMIT

    def visit(self, xi: Array, value: float) -> None:
        """Keep ξ if it is the best so far."""
        if value > self.value:
            self.xi, self.value = xi, value

    def is_proved(self, xi: Array) -> bool:
        """Whether the gap is within the tolerance, with the bound that the convex ξ gives; sets the status if it is."""
        primal, counts = self.problem.primal(xi)
        if primal < self.primal:
            self.primal, self.counts = primal, counts
        is_proved = self.primal - self.value <= self.tolerance * max(1.0, abs(self.value))
        if is_proved:
            self.status = Status.CONVERGED
        return is_proved
