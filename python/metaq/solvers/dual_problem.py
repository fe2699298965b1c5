"""The dual of METaQ's published regulariser as a problem in C numbers: its value, supergradient and bound.

Notation, after the paper: w_i the n weights, v_b the C levels, ξ_b the multipliers of the count constraints, c_b the
counts.

    φ_w(ξ) = Σ_b min_{c_lo <= c <= n} (c log2 c - ξ_b c)  +  Σ_i hull_ξ(w_i),     to be maximised over ξ,

the dual of the convex problem ``min Σ_b c_b log2 c_b`` over the counts of relaxed assignments that reproduce the
weights. The hull is linear between neighbouring levels, so the weights matter only through the masses a_b that
assigning each of them to its two neighbouring levels gives: ``Σ_i hull_ξ(w_i) = Σ_b a_b hull_ξ(v_b)``. After one pass
over the weights nothing depends on n.

Two facts that the paper does not use:

- ξ may be replaced by its lower convex hull: the hull part stays and the count part, falling in ξ_b, rises. Over convex
  ξ the dual is the smooth ``f(ξ) = Σ_b g(ξ_b) + a·ξ`` with gradient ``a - c*(ξ)``; elsewhere f lies above φ_w.
- counts c are those of an assignment exactly when c has the mass and mean of a and its potential ``U_c(t) = Σ_b c_b
  (v_b - t)⁺`` is nowhere below a's. The greater of two potentials is one, which turns the counts c*(ξ) into feasible
  ones: a primal bound.

All of this is NumPy on the host, since it is C numbers, whatever the device of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.errors import InfeasibleError, InputError
from metaq.solvers import knapsack

Array = NDArray[np.float64]

LOG2_E = 1 / math.log(2)
_BALANCE_STEPS = 50
_BALANCED = 1e-13  # relative error of mass and mean, which is as exact as their sums are
_LARGEST_MOVE = 16.0  # bits that one Newton step may change a multiplier by
_HALVINGS = 40
_BISECTIONS = 12


@dataclass(frozen=True)
class DualValue:
    """The value of the dual at one ξ, and its supergradient.

    Attributes:
        value: φ_w(ξ).
        assigned: (C,) the masses Σ_i x*_ib of an optimal assignment; less ``counts`` they are a supergradient.
        counts: (C,) c*(ξ).
        hull: (C,) the lower convex hull of ξ at the levels.
    """

    value: float
    assigned: Array
    counts: Array
    hull: Array


@dataclass(frozen=True)
class Problem:
    """One dual problem.

    Attributes:
        points: (C,) the levels v, strictly increasing, at least two.
        masses: (C,) a above; its sum is n, the number of weights.
        least_count: c_lo, which every level counts at least.
        interior: (C,) feasible counts, well above ``least_count`` where that is possible.
    """

    points: Array
    masses: Array
    least_count: float
    interior: Array

    @property
    def size(self) -> float:
        """How many weights there are, n, which is also the largest count."""
        return float(self.masses.sum())

    def counts(self, xi: Array) -> Array:
        """c*(ξ) = clip(2^(ξ - log2 e), c_lo, n), the minimiser of the count part."""
        # Exponents beyond these are clipped anyway, and 2^x would overflow.
        return np.clip(np.exp2(np.clip(xi - LOG2_E, -1000, 1000)), self.least_count, self.size)

    def smooth_value(self, xi: Array) -> float:
        """f(ξ), the dual's value where ξ is convex in v and above it elsewhere."""
        counts = self.counts(xi)
        return float(counts @ np.log2(counts) + xi @ (self.masses - counts))

    def evaluate(self, xi: Array) -> DualValue:
        """φ_w(ξ), its hull and what the weights and the counts ask for."""
        edges = knapsack.hull(torch.from_numpy(xi)[None], torch.from_numpy(self.points))
        left, right = edges.left[0].numpy(), edges.right[0].numpy()
        last = len(xi) - 1
        run = self.points[right] - self.points[left]
        share = (self.points[right] - self.points[:-1]) / run
        hull = np.append(share * xi[left] + (1 - share) * xi[right], xi[last])
        mass = self.masses[:-1]
        assigned = np.append(np.zeros(last), self.masses[last])
        for end, part in ((left, share), (right, 1 - share)):
            assigned += np.bincount(end, mass * part, last + 1)
        counts = self.counts(xi)
        value = float(counts @ np.log2(counts) - xi @ counts + self.masses @ hull)
        return DualValue(value, assigned, counts, hull)

    def regular(self, xi: Array) -> Array:
        """Where to start on convex sequences: at ξ's balanced hull, where φ_w is no lower, or at the best line.

        Far from the optimum, where counts are clipped, φ_w is nearly linear and says little about the way back.
        """
        line = self.balance(np.zeros(len(xi)))
        return max(self.balance(self.evaluate(xi).hull), line, key=self.smooth_value)

    def balance(self, xi: Array) -> Array:
        """ξ plus the line λ + μ v that maximises φ_w: the counts then have the mass and the mean of the weights.

        Newton's method in two variables with a backtracking line search; adding a line to ξ adds it to the hull.
        """
        center = float(self.masses @ self.points) / self.size
        offset = (self.points - center) / (self.points[-1] - self.points[0])
        top = float(xi.max())
        xi = xi + (math.log2(self.size) + LOG2_E - top - math.log2(float(np.exp2(xi - top).sum())))
        value = self.smooth_value(xi)
        for _ in range(_BALANCE_STEPS):
            counts = self.counts(xi)
            gradient = np.array([self.size - counts.sum(), -float(counts @ offset)])
            if np.abs(gradient).max() <= _BALANCED * self.size:
                break
            mixed = float(counts @ offset)
            curvature = np.array([[counts.sum(), mixed], [mixed, float(counts @ offset**2)]]) / LOG2_E
            move = np.linalg.solve(curvature, gradient)
            line = move[0] + move[1] * offset
            line *= min(1.0, _LARGEST_MOVE / float(np.abs(line).max()))
            xi, risen = self.climb(xi, line, value)
            if risen <= value:
                break
            value = risen
        return xi

    def climb(self, xi: Array, move: Array, value: float) -> tuple[Array, float]:
        """The first of ξ + move, ξ + move/2, ... where f is higher than ``value``; ξ itself when none is."""
        for halvings in range(_HALVINGS):
            trial = xi + move / 2**halvings
            risen = self.smooth_value(trial)
            if risen > value:
                return trial, risen
        return xi, value

    def primal(self, xi: Array) -> tuple[float, Array]:
        """(Σ c log2 c, c) for feasible counts c made of c*(ξ): optimal ones when ξ is.

        Of the potentials of the counts and of the masses the greater is taken, and where a count is then too small,
        just enough of the interior counts is mixed in.
        """
        asked = self.counts(self.balance(xi))
        potential = np.maximum(_potential(asked, self.points), _potential(self.masses, self.points))
        potential[0] = self.masses @ (self.points - self.points[0])
        slopes = np.concatenate([[-self.size], np.diff(potential) / np.diff(self.points), [0.0]])
        counts = np.diff(slopes)
        short = counts < self.least_count
        room = np.maximum(self.interior[short] - counts[short], 1e-300)
        share = float(((self.least_count - counts[short]) / room).max(initial=0.0))
        counts = np.maximum(counts + min(share, 1.0) * (self.interior - counts), self.least_count)
        return float(counts @ np.log2(counts)), counts


def pose(weights: Tensor, levels: Tensor, least_count: float) -> Problem:
    """The dual problem of these weights: one pass over them, in pieces.

    Args:
        weights: any shape, floating point, finite, at least one; those outside the levels are clipped to them.
        levels: (C,) strictly increasing.
        least_count: c_lo, positive.

    Raises:
        InfeasibleError: no feasible counts exist, since too few weights, or too many near one end, leave some level
            below ``least_count``.
        InputError: fewer than two levels, levels not increasing, or weights that are not finite, or none.
    """
    if not weights.numel():
        raise InputError("dual: expected at least one weight, found none")
    if not all(math.isfinite(end) for end in torch.aminmax(weights.detach())):
        raise InputError("dual: expected finite weights, found others")
    if not (least_count > 0 and math.isfinite(least_count)):
        raise InputError(f"dual least_count: expected a positive number, found {least_count!r}")
    masses = knapsack.masses(levels, weights).cpu().numpy()
    points = levels.detach().to("cpu", torch.float64).numpy()
    interior = _interior(points, masses, least_count)
    if interior is None:
        raise InfeasibleError(
            f"dual: expected weights that can leave a count of {least_count} for each of {len(points)} levels, found "
            f"{weights.numel()} weights with mean {float(masses @ points) / masses.sum():.6g} in "
            f"[{points[0]:.6g}, {points[-1]:.6g}]"
        )
    return Problem(points, masses, least_count, interior)


def _interior(points: Array, masses: Array, least_count: float) -> Array | None:
    """Feasible counts with nearly the highest floor there is, found by bisection; None when there are none."""
    found = _spread(points, masses, least_count)
    low, high = least_count, float(masses.sum()) / len(points)
    for _ in range(_BISECTIONS if found is not None else 0):
        floor = math.sqrt(low * high)
        wider = _spread(points, masses, floor)
        if wider is None:
            high = floor
        else:
            low, found = floor, wider
    return found


def _spread(points: Array, masses: Array, floor: float) -> Array | None:
    """The widest counts of at least ``floor`` with the masses' sum and mean, or None when the masses are wider."""
    spare = float(masses.sum()) - floor * len(points)
    above = float((masses - floor) @ (points - points[0])) / float(points[-1] - points[0])
    if not 0 <= above <= spare:
        return None
    counts = np.full(len(points), floor)
    counts[0] += spare - above
    counts[-1] += above
    needed = _potential(masses, points)
    is_wide = bool((_potential(counts, points) >= needed - _BALANCED * needed[0]).all())
    return counts if is_wide else None


def _potential(counts: Array, points: Array) -> Array:
    """U_c at the levels, (C,): ``Σ_b c_b (v_b - t)⁺`` at every t among them."""
    beyond = np.cumsum(counts[:0:-1])[::-1]
    return np.append(np.cumsum((beyond * np.diff(points))[::-1])[::-1], 0.0)
