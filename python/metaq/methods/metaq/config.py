"""What can be chosen of METaQ; the notation is that of `metaq.methods.metaq.method`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from metaq.errors import InputError
from metaq.methods.base import check_fields
from metaq.methods.schedule import RAMP, Schedule, is_schedule
from metaq.methods.size_control import SizeTarget
from metaq.methods.training import Training
from metaq.solvers import dual, perspective

USUAL_RATIO = 12.0  # of float32 bytes to those of the file, at which the networks that were tried lose little
# λ per bit for LeNet-5 and smaller networks. Larger ones need less, about as the root of their weights: MiniLM, of 22.7
# million, a thirtieth.
_USUAL_STRENGTH, _USUAL_WEIGHTS = 3e-5, 44_426


class Objective(Enum):
    """What φ minimises."""

    CODELENGTH = "codelength"
    COUNTS = "counts"
    PERSPECTIVE = "perspective"


class LevelPlacement(Enum):
    """Where the levels are.

    FIXED: multiples of a step for each tensor, which the network sees from the first forward pass on.
    LEARNED: the same, the steps learned with the weights.
    AROUND_MEAN: as published: the same C levels for the whole network, equally spaced around w̄ with radius r; the
        network trains in float, and evaluation and the file see it quantized.
    """

    FIXED = "fixed"
    LEARNED = "learned"
    AROUND_MEAN = "around_mean"


class Final(Enum):
    """How weights become symbols at the end, for levels that are fixed or learned.

    NEAREST: the nearest level, which is what the network has been seeing.
    RATE: levels with shorter codes are preferred, as far as the validation loss allows (`METaQ.tolerance`).
    """

    NEAREST = "nearest"
    RATE = "rate"


class Slopes(Enum):
    """How β is read off the levels' costs ξ.

    HULL: the slope of their lower convex hull: the multiplier of the simil-knapsack, exactly.
    ADJACENT: the slope between the two levels around the weight (HEMP of order 1), which stops at local minima.
    """

    HULL = "hull"
    ADJACENT = "adjacent"


class Solver(Enum):
    """Which method maximises the dual of the published objective."""

    FISTA = "fista"
    BUNDLE = "bundle"
    DIMINISHING = "diminishing"
    NEWTON = "newton"


_SOLVER_OPTIONS: dict[Solver, Any] = {
    Solver.FISTA: dual.Fista,
    Solver.BUNDLE: dual.ProximalBundle,
    Solver.DIMINISHING: dual.DiminishingSteps,
    Solver.NEWTON: dual.Newton,
}


@dataclass(frozen=True)
class Counts:
    """Options of the published objective, ``alpha ‖w‖² + (1 - alpha) φ(w)`` with φ the least Σ_b c_b log2 c_b.

    Attributes:
        alpha: the share of ‖w‖².
        solver: of the dual, warm-started from the training step before.
        rule: how its steps are chosen, the thesis's way or ours (`metaq.solvers.dual.Rule`); Newton's method has only
            ours.
        zeta: ζ of FISTA and of the bundle, under the published rule.
        iterations: the largest number of them in one training step.
        least_count: c_lo; the other bound, c_hi, is the number of weights.
    """

    alpha: float = 0.0
    solver: Solver = Solver.FISTA
    rule: dual.Rule = dual.Rule.CONVEX
    zeta: float = 1e5
    iterations: int = 15
    least_count: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha: expected 0 to 1, found {self.alpha!r}")
        self.dual_options()

    def dual_options(self) -> dual.Options:
        """The solver's own options."""
        found: dict[str, Any] = {"iterations": self.iterations, "least_count": self.least_count}
        if self.solver is not Solver.NEWTON:
            found["rule"] = self.rule
        if self.solver in (Solver.FISTA, Solver.BUNDLE) and self.rule is dual.Rule.PUBLISHED:
            found["zeta"] = self.zeta
        options: dual.Options = _SOLVER_OPTIONS[self.solver](**found)
        return options


@dataclass(frozen=True)
class Perspective:
    """Options of the perspective objective, ``T1 Σ w²/y + T2 Σ y + T3 Σ_{b≠0} c_b log2 c_b``.

    Attributes:
        magnitude: T1, for weights measured in steps of their levels.
        presence: T2.
        spread: T3.
        iterations: the largest number of its solver's iterations in one training step; the solver starts where it
            ended the step before.
    """

    magnitude: float = 1.0
    presence: float = 1.0
    spread: float = 0.01
    iterations: int = 15

    def __post_init__(self) -> None:
        self.costs()
        if self.iterations < 1:
            raise InputError(f"perspective iterations: expected at least 1, found {self.iterations}")

    def costs(self) -> perspective.Costs:
        """T1, T2 and T3 in the form that the solver takes."""
        return perspective.Costs(self.magnitude, self.presence, self.spread)


@dataclass(frozen=True)
class AroundMean:
    """Levels around w̄, for `LevelPlacement.AROUND_MEAN`.

    Attributes:
        count: C, levels in training.
        centre: w̄.
        reach: r; 0 for the mean of all weights when training begins as w̄, and their largest distance from it as r.
        buckets: C_Q: [w̄ - r, w̄ + r] is cut into as many, and a weight becomes the centre of its bucket; 0 to search
            for the fewest that `METaQ.tolerance` allows.
    """

    count: int = 6
    centre: float = 0.0
    reach: float = 0.0
    buckets: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("count", 2 <= self.count <= 4096, "2 to 4096"),
            ("centre", math.isfinite(self.centre), "a finite number"),
            ("reach", self.reach >= 0 and math.isfinite(self.reach), "a finite number of at least 0"),
            ("buckets", self.buckets == 0 or 2 <= self.buckets <= 4096, "2 to 4096, or 0 for a search"),
            where="around_mean",
        )


@dataclass(frozen=True)
class METaQConfiguration:
    """The fields of `metaq.METaQ`, which documents them, for those who read them."""

    objective: Objective = Objective.CODELENGTH
    strength: float | None = None
    schedule: Schedule = RAMP
    refresh_every: int = 10
    slopes: Slopes = Slopes.HULL
    levels: LevelPlacement = LevelPlacement.FIXED
    start_error: float = 5e-4
    step: float = 0.0
    step_learning_rate: float = 1e-3
    radius: int = 0
    around_mean: AroundMean = field(default_factory=AroundMean)
    counts: Counts = field(default_factory=Counts)
    perspective: Perspective = field(default_factory=Perspective)
    final: Final = Final.NEAREST
    tolerance: float = 0.01
    target_bytes: int = 0
    target_ratio: float = 0.0

    def size_target(self, training: Training) -> SizeTarget:
        """The size to end at, if any: what is asked for or, where nothing is and the length is known, a usual ratio.

        No ratio is usual for differences.
        """
        can_aim = self.objective is Objective.CODELENGTH and self.levels is not LevelPlacement.AROUND_MEAN
        can_aim = can_aim and training.steps > 0 and not training.level_distances
        if self.strength is None and can_aim and not (self.target_bytes or self.target_ratio):
            return SizeTarget(ratio=USUAL_RATIO)
        return SizeTarget(self.target_bytes, self.target_ratio)

    def strength_for(self, weights: int) -> float:
        """λ for a network of so many weights: the one that is given, or what serves networks of that size."""
        if self.strength is not None:
            return self.strength
        return _USUAL_STRENGTH * min(1.0, math.sqrt(_USUAL_WEIGHTS / max(1, weights)))

    def __post_init__(self) -> None:
        is_fixed, is_around = self.levels is LevelPlacement.FIXED, self.levels is LevelPlacement.AROUND_MEAN
        is_perspective = self.objective is Objective.PERSPECTIVE
        has_target = bool(SizeTarget(self.target_bytes, self.target_ratio))
        check_fields(
            self,
            ("strength", self.strength is None or 0 <= self.strength < math.inf, "a finite number of at least 0"),
            ("schedule", is_schedule(self.schedule), "rising shares of the training, 0 to 1, with finite factors"),
            ("start_error", 0 < self.start_error < 1, "more than 0 and less than 1"),
            ("step", 0 <= self.step <= 1, "more than 0 and at most 1, or 0 for steps from start_error"),
            ("step_learning_rate", 0 < self.step_learning_rate <= 1, "more than 0 and at most 1"),
            ("radius", 0 <= self.radius <= 2048, "1 to 2048, or 0 for as far as the weights reach"),
            ("refresh_every", self.refresh_every >= 1, "at least 1"),
            ("tolerance", self.tolerance >= 0 and math.isfinite(self.tolerance), "a finite number of at least 0"),
            ("levels", not (is_around and has_target), "levels at zero where there is a target"),
            ("slopes", self.slopes is Slopes.HULL or not is_perspective, "Slopes.HULL for the perspective"),
            ("levels", not (is_around and is_perspective), "levels at zero for the perspective"),
            ("levels", is_fixed or is_around or not self.counts.alpha, "fixed ones where counts.alpha is not 0"),
            ("final", self.final is Final.NEAREST or not is_around, "Final.NEAREST where levels are around w̄"),
        )
