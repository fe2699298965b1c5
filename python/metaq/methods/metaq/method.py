"""METaQ (Minimizing Entropy Training and Quantization): a regulariser that is the optimum of an entropy problem.

Notation, after the paper: φ the regulariser, ξ_b the cost of level b, v_b the levels, x_ib the share of weight i on
level b, c_b = Σ_i x_ib, β_i = ∂φ/∂w_i the multiplier of the constraint that holds w_i. Training minimises L(w) + λφ(w).

    φ(w) = min over x  s.t.  v·x_i = w_i,  Σ_b x_ib = 1,  x >= 0,   of

    code length:  Σ_i Σ_b ξ_b x_ib,  also over ξ  s.t.  Σ_b 2^(-ξ_b) <= 1
    counts:       Σ_b c_b log2 c_b
    perspective:  T1 Σ w²/y + T2 Σ y + T3 Σ_b c_b log2 c_b,  the shares without the zero level, with Σ_b x_ib = y_i <= 1

Code length is the default. With x fixed its best ξ are Shannon's, ``-log2(c_b / n)``; with ξ fixed every weight is a
simil-knapsack, whose multiplier is the slope of the lower convex hull of the code lengths at w_i. So training takes ξ
from a histogram of the symbols that would be coded now, and adds λβ to the loss gradient. The published form, counts,
spreads the histogram and makes files larger (docs/methods/metaq.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import torch

from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method
from metaq.methods.metaq.objectives import Counts, Perspective, Slopes, Solver
from metaq.methods.schedule import Schedule, is_schedule


class Objective(Enum):
    """What φ minimises; the module says how."""

    CODELENGTH = "codelength"
    COUNTS = "counts"
    PERSPECTIVE = "perspective"


class Levels(Enum):
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


def _check(where: str, configuration: object, *conditions: tuple[str, bool, str]) -> None:
    for name, holds, expected in conditions:
        if not holds:
            raise InputError(f"{where} {name}: expected {expected}, found {getattr(configuration, name)!r}")


@dataclass(frozen=True)
class AroundMean:
    """Levels around w̄, for `Levels.AROUND_MEAN`.

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
        _check(
            "around_mean",
            self,
            ("count", 2 <= self.count <= 4096, "2 to 4096"),
            ("centre", math.isfinite(self.centre), "a finite number"),
            ("reach", self.reach >= 0 and math.isfinite(self.reach), "a finite number of at least 0"),
            ("buckets", self.buckets == 0 or 2 <= self.buckets <= 4096, "2 to 4096, or 0 for a search"),
        )


@dataclass(frozen=True)
class METaQ(Method):
    """Configuration of METaQ.

    Attributes:
        objective: what φ minimises; `counts` and `perspective` hold the options of two of them.
        strength: λ, the weight of φ in the training loss; for code lengths, per bit.
        schedule: (training step, factor of the strength) in order; linear in between, constant before and after.
        refresh_every: training steps between two determinations of ξ.
        slopes: how β is read off ξ; the perspective knows only the hull.
        levels: where they are.
        step: distance between levels, as a fraction of each tensor's largest magnitude when training begins.
        step_learning_rate: about the largest relative change of a learned step in one training step.
        radius: levels on either side of zero; weights beyond are clipped to the last.
        around_mean: the levels, where they are around w̄.
        final: how weights become symbols at the end.
        tolerance: by how much, relatively, the validation loss may rise for a cheaper final quantization.
        target_bytes: size of the whole file to end at: the strength, which then is only the first, is steered there,
            and in the last phase of training cheaper levels make up for the rest.
        target_steps: training steps in which the size comes down to the target, by equal ratios; then it is held.
    """

    objective: Objective = Objective.CODELENGTH
    strength: float = 3e-5
    schedule: Schedule = ()
    refresh_every: int = 10
    slopes: Slopes = Slopes.HULL
    levels: Levels = Levels.FIXED
    step: float = 0.15
    step_learning_rate: float = 1e-3
    radius: int = 15
    around_mean: AroundMean = field(default_factory=AroundMean)
    counts: Counts = field(default_factory=Counts)
    perspective: Perspective = field(default_factory=Perspective)
    final: Final = Final.NEAREST
    tolerance: float = 0.01
    target_bytes: int = 0
    target_steps: int = 0

    def __post_init__(self) -> None:
        is_fixed, is_around = self.levels is Levels.FIXED, self.levels is Levels.AROUND_MEAN
        is_perspective = self.objective is Objective.PERSPECTIVE
        _check(
            "METaQ",
            self,
            ("strength", self.strength >= 0 and math.isfinite(self.strength), "a finite number of at least 0"),
            ("schedule", is_schedule(self.schedule), "rising steps with finite factors"),
            ("step", 0 < self.step <= 1, "more than 0 and at most 1"),
            ("step_learning_rate", 0 < self.step_learning_rate <= 1, "more than 0 and at most 1"),
            ("radius", 1 <= self.radius <= 2048, "1 to 2048"),
            ("refresh_every", self.refresh_every >= 1, "at least 1"),
            ("tolerance", self.tolerance >= 0 and math.isfinite(self.tolerance), "a finite number of at least 0"),
            ("target_bytes", self.target_bytes >= 0, "at least 0, which is for none"),
            ("target_bytes", not (self.target_bytes and is_around), "0 where levels are around w̄"),
            ("target_steps", self.target_steps >= 1 or not self.target_bytes, "at least 1 where target_bytes is given"),
            ("slopes", self.slopes is Slopes.HULL or not is_perspective, "Slopes.HULL for the perspective"),
            ("levels", not (is_around and is_perspective), "levels at zero for the perspective"),
            ("levels", is_fixed or is_around or not self.counts.alpha, "fixed ones where counts.alpha is not 0"),
            ("final", self.final is Final.NEAREST or not is_around, "Final.NEAREST where levels are around w̄"),
        )

    def bind(self, parameters: Mapping[str, torch.nn.Parameter]) -> BoundMethod:
        """METaQ at work on these parameters, their levels fixed by their present magnitudes."""
        from metaq.methods.metaq.around_mean import BoundAroundMean
        from metaq.methods.metaq.regularized import BoundMETaQ

        bound = BoundAroundMean if self.levels is Levels.AROUND_MEAN else BoundMETaQ
        return bound(self, parameters)


__all__ = ["AroundMean", "Counts", "Final", "Levels", "METaQ", "Objective", "Perspective", "Slopes", "Solver"]
