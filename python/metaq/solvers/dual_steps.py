"""Diminishing steps, FISTA and Newton's method on the dual of METaQ's published regulariser, φ_w of `dual_problem`.

Notation: ξ multipliers, a the masses of the weights, c*(ξ) the counts that ξ asks for, f the smooth form of φ_w on
convex ξ with gradient ``a - c*(ξ)`` and curvature ``ln 2 · c*(ξ)``, Π_s the projection onto convex ξ in the norm with
weights s, g(ξ) the hull's supergradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from metaq.solvers.ascent import Options, Record, Rule, Status
from metaq.solvers.convex_regression import project
from metaq.solvers.dual_problem import LOG2_E, Array, Problem

_GUESSES = 1.0, 1e-1, 1e-2, 1e-4
_MAJORISED = 1e-12  # relative rounding in the comparison of f with its model


@dataclass(frozen=True)
class DiminishingSteps(Options):
    """Supergradient ascent with diminishing steps.

    PUBLISHED: ``ξ + g / k``. RELATIVE: ``ξ + range(ξ) / k · g / max|g|``. CONVEX: ``Π_s(ξ + r_k (a - c*) / s)`` with
    ``s = ln 2 · max(c*, a)``, which lets no count overshoot its mass, and ``r_k = min(1, p / (k + p - 1))``. Where
    least counts bind f is straight, and steps that diminish may not get there.

    Attributes:
        rule: which of these.
        order: p of the CONVEX rule, whose errors fall like k^-p; with p = 1 the steps are the published 1/k.
    """

    rule: Rule = Rule.CONVEX
    order: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.order > 0, "order", "a positive number")


@dataclass(frozen=True)
class Fista(Options):
    """Accelerated ascent from y_k = ξ_k + (t_{k-1} - 1)/t_k (ξ_k - ξ_{k-1}), t_{k+1} = (1 + √(1 + 4 t_k²))/2.

    PUBLISHED: ``y + g(y) / ζ``. CONVEX: ``Π_s(y + (a - c*(y)) / s)``, s as for diminishing steps, held until f falls,
    when the momentum is dropped and s renewed, and doubled where f is more curved than that.

    Attributes:
        rule: which of these.
        zeta: ζ of the PUBLISHED rule.
    """

    rule: Rule = Rule.CONVEX
    zeta: float = 1e5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.rule is not Rule.RELATIVE, "rule", "Rule.PUBLISHED or Rule.CONVEX")
        self.check(self.zeta > 0, "zeta", "a positive number")


@dataclass(frozen=True)
class Newton(Options):
    """Projected Newton: the best of ``Π_s(ξ + (a - c*) / s)`` with the curvature ``s = ln 2 · c*`` and with FISTA's s.

    With a line search on f towards it.
    """

    iterations: int = 100
    tolerance: float = 1e-9


def climb_by_diminishing_steps(problem: Problem, xi: Array, options: DiminishingSteps) -> Record:
    """Maximise φ_w from ξ, (C,)."""
    record = Record(problem, options.tolerance)
    if options.rule is not Rule.CONVEX:
        return _climb_as_published(record, xi, options)
    xi = problem.regular(xi)
    for step in range(1, options.iterations + 1):
        record.iterations = step
        counts = problem.counts(xi)
        metric = _safe_metric(problem, counts)
        size = min(1.0, options.order / (step + options.order - 1))
        xi = project(xi + size * (problem.masses - counts) / metric, metric, problem.points, xi)
        record.visit(xi, problem.smooth_value(xi))
        if record.is_proved(xi):
            break
    return record


def _climb_as_published(record: Record, xi: Array, options: DiminishingSteps) -> Record:
    for step in range(1, options.iterations + 1):
        record.iterations = step
        at = record.problem.evaluate(xi)
        record.visit(xi, at.value)
        gradient = at.assigned - at.counts
        if options.rule is Rule.RELATIVE:
            gradient *= max(float(np.ptp(xi)), 1.0) / (float(np.abs(gradient).max()) or 1.0)
        xi = xi + gradient / step
    record.visit(xi, record.problem.evaluate(xi).value)
    return record


def climb_by_fista(problem: Problem, xi: Array, options: Fista) -> Record:
    """Maximise φ_w from ξ, (C,)."""
    record = Record(problem, options.tolerance)
    if options.rule is Rule.PUBLISHED:
        return _accelerate_as_published(record, xi, options)
    xi = problem.regular(xi)
    value = problem.smooth_value(xi)
    record.visit(xi, value)
    metric, ahead, momentum = _safe_metric(problem, problem.counts(xi)), xi, 1.0
    while not record.is_proved(xi) and record.iterations < options.iterations:
        record.iterations += 1
        stepped, metric = _majorised_step(problem, xi, ahead, metric)
        risen = problem.smooth_value(stepped)
        if risen <= value:
            if momentum == 1.0:
                record.status = Status.STALLED
                break
            metric, ahead, momentum = _safe_metric(problem, problem.counts(xi)), xi, 1.0
            continue
        longer = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / longer * (stepped - xi)
        xi, value, momentum = stepped, risen, longer
        record.visit(xi, value)
    return record


def _majorised_step(problem: Problem, xi: Array, ahead: Array, metric: Array) -> tuple[Array, Array]:
    """(Π_s of the gradient step from y, s), s doubled until f there is no less than its model in s."""
    gradient, value = problem.masses - problem.counts(ahead), problem.smooth_value(ahead)
    while True:
        stepped = project(ahead + gradient / metric, metric, problem.points, xi)
        move = stepped - ahead
        model = value + float(gradient @ move) - 0.5 * float(metric @ move**2)
        if problem.smooth_value(stepped) >= model - _MAJORISED * abs(value):
            return stepped, metric
        metric = 2 * metric


def _accelerate_as_published(record: Record, xi: Array, options: Fista) -> Record:
    ahead, momentum = xi, 1.0
    for _ in range(options.iterations):
        record.iterations += 1
        at = record.problem.evaluate(ahead)
        record.visit(ahead, at.value)
        stepped = ahead + (at.assigned - at.counts) / options.zeta
        longer = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / longer * (stepped - xi)
        xi, momentum = stepped, longer
    record.visit(xi, record.problem.evaluate(xi).value)
    return record


def climb_by_newton(problem: Problem, xi: Array, options: Newton) -> Record:
    """Maximise φ_w from ξ, (C,)."""
    record = Record(problem, options.tolerance)
    xi = problem.regular(xi)
    value = problem.smooth_value(xi)
    record.visit(xi, value)
    while not record.is_proved(xi) and record.iterations < options.iterations:
        record.iterations += 1
        counts = problem.counts(xi)
        gradient = problem.masses - counts
        metrics = [scale * counts / LOG2_E for scale in _clipped_scales(problem, counts)]
        goals = [
            project(xi + gradient / metric, metric, problem.points, xi)
            for metric in (*metrics, _safe_metric(problem, counts))
        ]
        xi, risen = problem.climb(xi, max(goals, key=problem.smooth_value) - xi, value)
        if risen <= value:
            record.status = Status.STALLED
            break
        value = risen
        record.visit(xi, value)
    return record


def _clipped_scales(problem: Problem, counts: Array) -> list[Array]:
    """Factors of the curvature ln 2 · c: where c* is clipped f is straight, and how far to go is anyone's guess."""
    clipped = (counts <= problem.least_count) | (counts >= problem.size)
    return [np.where(clipped, scale, 1.0) for scale in (_GUESSES if clipped.any() else (1.0,))]


def _safe_metric(problem: Problem, counts: Array) -> Array:
    """The metric ln 2 · max(c, a): in it a level's own step never takes its count beyond its mass."""
    return np.maximum(counts, problem.masses) / LOG2_E
