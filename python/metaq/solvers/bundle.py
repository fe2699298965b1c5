"""The proximal bundle method on the dual of METaQ's published regulariser, φ_w of `dual_problem`.

Around a centre ξ̂ a model of at most B cuts, each an upper bound of the concave φ_w from one of its supergradients g_j,

    m(ξ̂ + d) = φ_w(ξ̂) + min_j (e_j + g_j·d),   e_j >= 0 the cut's error at the centre,

is maximised less ``ζ/2 ‖d‖²_s``. That is a quadratic programme over the simplex in the cuts' shares p, with
``d = Σ_j p_j g_j / (ζ s)``, solved exactly. When φ_w rises by a fair part of what the model promised, the centre
moves (a serious step); otherwise only the model learns (a null step). When cuts are too many, those of least share are
joined.

Deviations under ``Rule.CONVEX``: s is the curvature of the counts instead of 1; a trial point is replaced by its convex
hull with the right mass and mean, where φ_w is higher; and every trial gives two cuts, with the assignments that the
hull before and after that replacement prefers, since at ties φ_w has many supergradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaq.solvers import simplex_qp
from metaq.solvers.ascent import Options, Record, Rule, Status
from metaq.solvers.dual_problem import LOG2_E, Array, Problem

_PUBLISHED_ZETA = 1e5
_ROUNDING = 1e-15  # relative to the value; a promise below it is rounding


@dataclass(frozen=True)
class ProximalBundle(Options):
    """The proximal bundle method.

    Attributes:
        rule: PUBLISHED or CONVEX, as the module says.
        cuts: B, the largest number that the model keeps.
        zeta: ζ; None for 1 under CONVEX, where it is relative to the curvature, and for 1e5 under PUBLISHED.
        fair: the part of the promised rise that makes a step serious.
    """

    rule: Rule = Rule.CONVEX
    cuts: int = 50
    zeta: float | None = None
    fair: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.rule is not Rule.RELATIVE, "rule", "Rule.PUBLISHED or Rule.CONVEX")
        self.check(self.cuts >= 4, "cuts", "at least 4")
        self.check(self.zeta is None or self.zeta > 0, "zeta", "a positive number or None")
        self.check(0 < self.fair < 1, "fair", "between 0 and 1")


@dataclass
class _Model:
    """The cuts, as rows: gradients (B, C), errors at the centre (B,), and their last shares (B,)."""

    gradients: Array
    errors: Array
    shares: Array

    def add(self, gradient: Array, error: float) -> None:
        self.gradients = np.vstack([self.gradients, gradient])
        self.errors = np.append(self.errors, max(error, 0.0))
        self.shares = np.append(self.shares, 0.0)

    def move_centre(self, move: Array, rise: float) -> None:
        self.errors = np.maximum(self.errors + self.gradients @ move - rise, 0.0)

    def make_room(self, most: int) -> None:
        """Join the cuts of least share into one, which keeps the last optimum a bound, until ``most`` are left."""
        if len(self.errors) <= most:
            return
        order = np.argsort(-self.shares, kind="stable")
        kept, joined = order[: most - 1], order[most - 1 :]
        total = float(self.shares[joined].sum())
        weights = self.shares[joined] / total if total > 0 else np.eye(1, len(joined))[0]
        self.gradients = np.vstack([self.gradients[kept], weights @ self.gradients[joined]])
        self.errors = np.append(self.errors[kept], weights @ self.errors[joined])
        self.shares = np.append(self.shares[kept], total)


def climb_by_bundle(problem: Problem, xi: Array, options: ProximalBundle) -> Record:
    """Maximise φ_w from ξ, (C,)."""
    record = Record(problem, options.tolerance)
    is_convex = options.rule is Rule.CONVEX
    zeta = options.zeta or (1.0 if is_convex else _PUBLISHED_ZETA)
    centre = problem.regular(xi) if is_convex else xi
    at = problem.evaluate(centre)
    value = at.value
    record.visit(centre, value)
    model = _Model((at.assigned - at.counts)[None], np.zeros(1), np.ones(1))
    while not (is_convex and record.is_proved(centre)) and record.iterations < options.iterations:
        record.iterations += 1
        metric = zeta * np.maximum(problem.counts(centre), problem.masses) / LOG2_E if is_convex else zeta
        quadratic = (model.gradients / metric) @ model.gradients.T
        model.shares = simplex_qp.minimise(quadratic, model.errors, model.shares)
        gradient = model.shares @ model.gradients
        trial = centre + gradient / metric
        promise = float(gradient @ (trial - centre) + model.shares @ model.errors)
        if promise <= _ROUNDING * abs(value):
            record.status = Status.STALLED
            break
        trial, reached, gradients = _try(problem, trial, is_convex)
        record.visit(trial, reached)
        model.make_room(options.cuts - len(gradients))
        for cut in gradients:
            model.add(cut, reached + float(cut @ (centre - trial)) - value)
        if reached - value >= options.fair * promise:
            model.move_centre(trial - centre, reached - value)
            centre, value = trial, reached
    return record


def _try(problem: Problem, trial: Array, is_convex: bool) -> tuple[Array, float, list[Array]]:
    """(the trial point, perhaps replaced, φ_w there, supergradients there)."""
    at = problem.evaluate(trial)
    if not is_convex:
        return trial, at.value, [at.assigned - at.counts]
    better = problem.balance(at.hull)
    counts = problem.counts(better)
    # What is optimal for ξ is so for its hull, and there the neighbouring levels are too.
    return better, problem.smooth_value(better), [at.assigned - counts, problem.masses - counts]
