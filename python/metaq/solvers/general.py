"""The simil-knapsack and METaQ's published regulariser, solved as they are written down by a general convex solver.

These are slow, safe baselines for tests. They need cvxpy, of the extra ``dev``. The notation is that of
`metaq.solvers.knapsack` and `metaq.solvers.dual_problem`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaq.errors import InputError

_PRECISION = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


@dataclass(frozen=True)
class Knapsack:
    """Optimum of one simil-knapsack.

    Attributes:
        value: the optimal cost, in the costs' unit.
        assignment: float64 (C,), an optimal x.
        multiplier: of the constraint that holds w, ``∂value/∂w``.
        iterations: of the solver.
        gap: between its primal and dual value.
        status: the solver's word, "optimal" or "optimal_inaccurate".
    """

    value: float
    assignment: Tensor
    multiplier: float
    iterations: int
    gap: float
    status: str


@dataclass(frozen=True)
class Regulariser:
    """Optimum of the published regulariser.

    Attributes:
        value: φ(w), in bits.
        counts: float64 (C,), c.
        xi: float64 (C,), the multipliers of the count constraints.
        multipliers: float64 (n,), β, those of the weights, ``∂φ/∂w``.
        iterations: of the solver.
        gap: between φ(w) and the dual's value at ``xi``, in bits; may be a little below 0, since feasibility has a
            tolerance.
        status: the solver's word, "optimal" or "optimal_inaccurate".
    """

    value: float
    counts: Tensor
    xi: Tensor
    multipliers: Tensor
    iterations: int
    gap: float
    status: str


def knapsack(xi: Tensor, levels: Tensor, weight: float) -> Knapsack:
    """Solve ``min ξ·x  s.t.  v·x = w, Σ x = 1, x >= 0`` as a linear programme.

    Args:
        xi: (C,) costs.
        levels: (C,) increasing.
        weight: between the first level and the last.

    Raises:
        InputError: cvxpy is missing, or it finds no optimum.
    """
    cvxpy = _cvxpy()
    costs, points = xi.double().cpu().numpy(), levels.double().cpu().numpy()
    x = cvxpy.Variable(len(points), nonneg=True)
    holds = points @ x == weight
    problem = cvxpy.Problem(cvxpy.Minimize(costs @ x), [holds, cvxpy.sum(x) == 1])
    iterations = _solve(cvxpy, problem)
    multiplier = -float(holds.dual_value)
    bound = multiplier * weight + float((costs - multiplier * points).min())
    value = float(problem.value)
    return Knapsack(value, torch.from_numpy(np.array(x.value)), multiplier, iterations, value - bound, problem.status)


def regulariser(weights: Tensor, levels: Tensor, least_count: float = 0.01) -> Regulariser:
    """Solve ``min Σ_b c_b log2 c_b  s.t.  Σ_b v_b x_ib = w_i, Σ_b x_ib = 1, Σ_i x_ib = c_b >= c_lo, x >= 0``.

    It has an exponential cone for every level and n·C variables, so that it suits small instances. The solver gets
    fractions c / n, which are better scaled.

    Args:
        weights: (n,) between the first level and the last.
        levels: (C,) increasing.
        least_count: c_lo.

    Raises:
        InputError: cvxpy is missing, or it finds no optimum.
    """
    cvxpy = _cvxpy()
    size, points = len(weights), levels.double().cpu().numpy()
    x = cvxpy.Variable((size, len(points)), nonneg=True)
    share = cvxpy.Variable(len(points))
    holds = x @ points == weights.double().cpu().numpy()
    counted = cvxpy.sum(x, axis=0) / size == share
    constraints = [holds, cvxpy.sum(x, axis=1) == 1, counted, share >= least_count / size]
    problem = cvxpy.Problem(cvxpy.Minimize(-cvxpy.sum(cvxpy.entr(share))), constraints)
    iterations = _solve(cvxpy, problem)
    # n Σ p log2 p + n log2 n bits from Σ p ln p, and its multipliers likewise; log2 n joins ξ as a constant.
    bits = size / np.log(2)
    counts = np.array(share.value) * size
    xi = np.array(counted.dual_value) / np.log(2) + np.log2(size)
    value = float(problem.value) * bits + size * np.log2(size)
    return Regulariser(
        value=value,
        counts=torch.from_numpy(counts),
        xi=torch.from_numpy(xi),
        multipliers=torch.from_numpy(-np.array(holds.dual_value) * bits),
        iterations=iterations,
        gap=value - _dual_value(xi, points, weights, least_count),
        status=problem.status,
    )


def _dual_value(xi: Any, points: Any, weights: Tensor, least_count: float) -> float:
    """φ_w(ξ) from its definition, each weight's hull read as the best pair of levels around it."""
    counts = np.clip(2 ** (xi - 1 / np.log(2)), least_count, len(weights))
    value = float(np.sum(counts * np.log2(counts) - xi * counts))
    for weight in weights.double().tolist():
        left, right = np.flatnonzero(points <= weight), np.flatnonzero(points >= weight)
        run = points[right][None] - points[left][:, None]
        share = np.where(run > 0, (points[right][None] - weight) / np.where(run > 0, run, 1), 1)
        value += float((share * xi[left][:, None] + (1 - share) * xi[right][None]).min())
    return value


def _solve(cvxpy: ModuleType, problem: Any) -> int:
    """Solve by Clarabel, an open-source interior-point solver that comes with cvxpy; the number of its iterations."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an inaccurate optimum; the status says so
            problem.solve(solver=cvxpy.CLARABEL, **_PRECISION)
    except cvxpy.SolverError as error:
        raise InputError(f"cvxpy: expected an optimum, found {error}") from None
    if problem.status not in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE):
        raise InputError(f"cvxpy: expected an optimum, found status {problem.status!r}")
    return int(problem.solver_stats.num_iters)


def _cvxpy() -> ModuleType:
    try:
        import cvxpy
    except ModuleNotFoundError:
        raise InputError("general solvers: expected module 'cvxpy', found none; pip install 'metaq-nn[dev]'") from None
    return cvxpy
