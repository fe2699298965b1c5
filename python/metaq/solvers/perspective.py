"""The perspective regulariser: zeros as missing mass, the other levels' counts by their entropy.

Notation, after the paper: w_i the n weights, v_b the levels without the zero one, y_i the share of weight i that is not
zero, x_ib its share on level b, c_b the counts.

    φ(w) = min  T1 Σ_i w_i²/y_i + T2 Σ_i y_i + T3 Σ_b c_b log2 c_b
           s.t.  v·x_i = w_i,  Σ_b x_ib = y_i <= 1,  x >= 0,  Σ_i x_ib = c_b

It is convex. With the last sum replaced by its tangent, whose slopes ξ_b = T3 (log2 c_b + 1/ln 2) price the levels, the
weights part. Weight w puts its mass at one place u = |w|/y >= |w| on its side of zero, and pays

    |w| G(u),   G(u) = T1 u + (T2 + h(±u)) / u,   h the lower convex hull of the prices.

G has one minimum u*, found in closed form on the hull's edges. So up to u* a weight pays |w| G(u*), an L1 penalty, and
puts |w|/u* at u*; beyond, y = 1, and it pays T1 w² + T2 + h(w).

The tangents' minimisers are atoms of the feasible counts, whose convex hull is a model of the problem; every price
bounds the optimum from below. The solver is a proximal bundle: the model's optimum, held near the best prices so far
(the centre) and found by a few quadratic models in the atoms' shares, gives the next prices; where their bound rises by
a fair part of what the model promised, they become the centre. All of this is B numbers on the host; only what is done
for every weight is done on the weights' device.

Deviation: below c_lo the entropy goes on as its tangent there, so that prices stay finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.solvers import knapsack, simplex_qp

_LOG2_E = 1 / math.log(2)
_MODELS = 3  # quadratic ones after each new atom
_ATOMS = 30  # the most that are kept
_PULL = 0.1  # of the centre, relative to the curvature
_FAIR = 0.1  # the part of the promised rise that moves the centre
_NEWTON_STEPS = 12
_SHORTEST = 1e-3  # part of a move that is still tried
_MOST_BITS = 60.0  # keeps 2^x finite


@dataclass(frozen=True)
class Costs:
    """The three terms' weights, and the count below which the entropy is straight.

    Attributes:
        magnitude: T1, of Σ w²/y.
        presence: T2, of Σ y.
        spread: T3, of Σ c log2 c; more than 0.
        least_count: c_lo.
    """

    magnitude: float = 1.0
    presence: float = 1.0
    spread: float = 1.0
    least_count: float = 0.01

    def __post_init__(self) -> None:
        for name in ("magnitude", "presence", "spread", "least_count"):
            value, is_positive = getattr(self, name), name in ("spread", "least_count")
            if not (math.isfinite(value) and (value > 0 if is_positive else value >= 0)):
                least = "more than" if is_positive else "at least"
                raise InputError(f"perspective {name}: expected a finite number of {least} 0, found {value!r}")


@dataclass(frozen=True)
class PerspectiveResult:
    """The result of `solve`.

    Attributes:
        value: the objective at the counts found, an upper bound of the optimum.
        gap: ``value`` less the best lower bound, at least 0 but for rounding.
        counts: float64 (B,), of the levels without zero, on the CPU.
        prices: float64 (B,), the best ξ, whose bound is ``value - gap``, on the CPU.
        iterations: the number of tangents taken.
    """

    value: float
    gap: float
    counts: Tensor
    prices: Tensor
    iterations: int


@dataclass(frozen=True)
class _Side:
    """Where weights on one side of zero put their mass: u*, and what a unit of weight then pays, G(u*)."""

    place: float
    price: float


@dataclass(frozen=True)
class _Optimum:
    """The tangent problem's optimum: the two first terms' cost, the counts, and β for every weight."""

    cost: float
    counts: Tensor
    multipliers: Tensor


def solve(
    weights: Tensor,
    levels: Tensor,
    costs: Costs,
    start: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> PerspectiveResult:
    """Minimise the objective above.

    Args:
        weights: any shape, finite, at least one; clipped to the levels' range; on any device.
        levels: (B,) strictly increasing, on both sides of zero, without zero.
        start: (B,) prices to start from, those of an earlier result; those of every weight on its two neighbouring
            levels unless given.
        iterations: the largest number of tangents.
        tolerance: the gap, relative to the value, at which it stops.

    Raises:
        InputError: the levels are not as said above.
    """
    problem = _Problem(weights, levels, costs)
    whole = problem.whole()
    mixture = _Mixture(whole)
    centre = problem.prices(whole.counts) if start is None else start.to(problem.levels)
    bound, at = problem.dual(centre)
    value, taken = math.inf, 0
    while taken < iterations and value - bound > tolerance * max(1.0, abs(bound)):
        taken += 1
        mixture.add(at)
        proximal = _Proximal(problem, centre, torch.maximum(mixture.counts, problem.answer(centre)))
        for _ in range(_MODELS):
            mixture.improve(proximal)
        trial = proximal.prices(mixture.counts)
        promise = problem.model(trial, mixture) - bound
        reached, at = problem.dual(trial)
        if reached - bound >= _FAIR * promise:
            centre, bound = trial, reached
        value = mixture.cost + problem.entropy(mixture.counts)
    return PerspectiveResult(value, value - bound, mixture.counts, centre, taken)


def multipliers(prices: Tensor, weights: Tensor, levels: Tensor, costs: Costs) -> Tensor:
    """β = ∂φ/∂w at given prices, in the weights' shape and dtype; 0 outside the levels.

    Raises:
        InputError: as `solve`.
    """
    problem = _Problem(weights, levels, costs)
    return problem.tangent(prices.to(problem.levels)).multipliers.to(weights.dtype).reshape(weights.shape)


class _Proximal:
    """The entropy's price less a pull towards the centre: ξ(a) solves ``c*(ξ) + s (ξ - ξ̂) = a``, level by level."""

    def __init__(self, problem: _Problem, centre: Tensor, counts: Tensor) -> None:
        self.problem, self.centre = problem, centre
        self.pull = _PULL * problem.slope(counts.clamp(min=problem.costs.least_count))

    def prices(self, counts: Tensor) -> Tensor:
        """ξ(a), by Newton's method from above, where the convex left side makes it fall to the solution."""
        prices = torch.maximum(self.centre, self.problem.prices(counts))
        for _ in range(_NEWTON_STEPS):
            asked = self.problem.asked(prices)
            over = asked + self.pull * (prices - self.centre) - counts
            prices = prices - over / (self.problem.slope(asked) + self.pull)
        return prices

    def curvature(self, counts: Tensor) -> Tensor:
        """dξ/da."""
        return 1 / (self.problem.slope(self.problem.asked(self.prices(counts))) + self.pull)


class _Mixture:
    """Atoms, which are counts A (k, B) with costs S (k,), in shares p (k,): feasible counts p·A, at most p·S dear."""

    def __init__(self, first: _Optimum) -> None:
        self.atoms, self.costs = first.counts[None], torch.tensor([first.cost], dtype=torch.float64)
        self.shares = torch.ones(1, dtype=torch.float64)

    @property
    def counts(self) -> Tensor:
        return self.shares @ self.atoms

    @property
    def cost(self) -> float:
        return float(self.shares @ self.costs)

    def add(self, atom: _Optimum) -> None:
        """Add an atom without a share; drop others without one, and those of least share where there are too many."""
        kept = self.shares.argsort(descending=True, stable=True)[:_ATOMS]
        kept = kept[self.shares[kept] > 0]
        self.atoms = torch.cat([self.atoms[kept], atom.counts[None]])
        self.costs = torch.cat([self.costs[kept], torch.tensor([atom.cost], dtype=torch.float64)])
        self.shares = torch.cat([self.shares[kept] / self.shares[kept].sum(), torch.zeros(1, dtype=torch.float64)])

    def improve(self, proximal: _Proximal) -> None:
        """Move to the minimum of a quadratic model over the shares, or as far towards it as the objective falls."""
        counts = self.counts
        bent = self.atoms * proximal.curvature(counts) @ self.atoms.T
        gradient = self.atoms @ proximal.prices(counts) + self.costs
        linear = gradient - bent @ self.shares
        goal = torch.from_numpy(simplex_qp.minimise(bent.numpy(), linear.numpy(), self.shares.numpy()))
        move = goal - self.shares
        counted, paid = move @ self.atoms, float(move @ self.costs)
        share = 1.0
        while share > _SHORTEST and float(proximal.prices(counts + share * counted) @ counted) + paid > 0:
            share /= 2
        self.shares = (self.shares + share * move).clamp(min=0)


class _Problem:
    def __init__(self, weights: Tensor, levels: Tensor, costs: Costs) -> None:
        self.costs = costs
        self.levels = levels.to("cpu", torch.float64)
        if len(levels) < 2 or not bool((self.levels[0] < 0) & (self.levels[-1] > 0) & (self.levels != 0).all()):
            raise InputError("perspective levels: expected some on both sides of zero, and not zero, found others")
        flat = weights.detach().reshape(-1).to(torch.float64)
        self.weights = flat.clamp(float(self.levels[0]), float(self.levels[-1]))
        self.is_inside = self.weights == flat

    def prices(self, counts: Tensor) -> Tensor:
        """ξ: the slope of T3 c log2 c."""
        return self.costs.spread * (counts.clamp(min=self.costs.least_count).log2() + _LOG2_E)

    def entropy(self, counts: Tensor) -> float:
        """T3 Σ c log2 c, straight below c_lo."""
        least = self.costs.least_count
        above = counts.clamp(min=least)
        rest = (counts - above) * (math.log2(least) + _LOG2_E)
        return self.costs.spread * float((above * above.log2() + rest).sum())

    def asked(self, prices: Tensor) -> Tensor:
        """2^(ξ/T3 - log2 e), the counts at which c log2 c has these prices."""
        return (prices / self.costs.spread - _LOG2_E).clamp(max=_MOST_BITS).exp2()

    def slope(self, counts: Tensor) -> Tensor:
        """By how much `asked` rises with the price."""
        return counts / (_LOG2_E * self.costs.spread)

    def answer(self, prices: Tensor) -> Tensor:
        """c*(ξ), the counts that minimise T3 c log2 c - ξ c, straight below c_lo."""
        counts = self.asked(prices)
        return torch.where(counts < self.costs.least_count, 0.0, counts)

    def conjugate(self, prices: Tensor) -> float:
        """min_c T3 Σ c log2 c - ξ·c."""
        counts = self.answer(prices)
        return self.entropy(counts) - float(prices @ counts)

    def dual(self, prices: Tensor) -> tuple[float, _Optimum]:
        """(The dual's value at ξ, the assignment that attains it)."""
        at = self.tangent(prices)
        return at.cost + float(prices @ at.counts) + self.conjugate(prices), at

    def model(self, prices: Tensor, mixture: _Mixture) -> float:
        """The upper bound of the dual's value that the atoms give."""
        return float((mixture.costs + mixture.atoms @ prices).min()) + self.conjugate(prices)

    def whole(self) -> _Optimum:
        """The feasible point at which every weight is between its two neighbouring levels, and no share is missing."""
        levels = self.levels.to(self.weights.device)
        cell = (torch.searchsorted(levels, self.weights, right=True) - 1).clamp_(0, len(levels) - 2)
        low, high = levels[cell], levels[cell + 1]
        mass = (high - self.weights) / (high - low)
        counts = torch.zeros_like(levels).scatter_add_(0, cell, mass).scatter_add_(0, cell + 1, 1 - mass)
        cost = self.costs.magnitude * float(self.weights.square().sum()) + self.costs.presence * len(self.weights)
        return _Optimum(cost, counts.cpu(), torch.zeros_like(self.weights))

    def tangent(self, prices: Tensor) -> _Optimum:
        """The minimum with the entropy replaced by ``prices`` times counts."""
        hull = knapsack.hull(prices[None], self.levels)
        left, right, slope = hull.left[0], hull.right[0], hull.slope[0]
        intercept = prices[left] - slope * self.levels[left]
        up = self._side(self.levels, intercept, slope)
        down = self._side(-self.levels.flip(0), intercept.flip(0), -slope.flip(0))
        weights, magnitudes = self.weights, self.weights.abs()
        levels, left, right, slope = (part.to(weights.device) for part in (self.levels, left, right, slope))
        is_up = weights > 0
        place = torch.where(is_up, up.place, down.place).clamp(min=magnitudes)
        share = magnitudes / place.clamp(min=torch.finfo(torch.float64).tiny)
        is_whole = (magnitudes >= place) & ((magnitudes > 0) | (place == 0))
        share = torch.where(is_whole, 1.0, share)
        at = torch.where(is_up, place, -place)
        cell = (torch.searchsorted(levels, at, right=True) - 1).clamp_(0, len(slope) - 1)
        mass = (levels[right[cell]] - at) / (levels[right[cell]] - levels[left[cell]])
        counts = torch.zeros_like(levels)
        counts.scatter_add_(0, left[cell], share * mass).scatter_add_(0, right[cell], share * (1 - mass))
        cost = self.costs.magnitude * float((magnitudes * place).sum()) + self.costs.presence * float(share.sum())
        part = torch.where(is_up, up.price, -down.price).masked_fill_(weights == 0, 0.0)
        beta = torch.where(is_whole, 2 * self.costs.magnitude * weights + slope[cell], part)
        return _Optimum(cost, counts.cpu(), beta.mul_(self.is_inside))

    def _side(self, places: Tensor, intercept: Tensor, slope: Tensor) -> _Side:
        """The minimum of G over the cells (places[j], places[j + 1]), as far as they are above 0."""
        ends = places[1:] > 0
        low, high = places[:-1][ends].clamp(min=0), places[1:][ends]
        rest, slope = self.costs.presence + intercept[ends], slope[ends]
        flat = torch.full_like(rest, torch.inf) if self.costs.magnitude == 0 else rest / self.costs.magnitude
        # Where the rest is not positive, G rises from the cell's lower end; at 0 that is an infinitely low price that
        # no weight can pay, since a weight's place is never below it: it is whole, on its own side of u* = 0.
        best = torch.where(rest > 0, flat.clamp(min=0).sqrt(), 0.0).clamp(low, high)
        price = self.costs.magnitude * best + rest / best + slope
        price = torch.where(best > 0, price, -torch.inf)
        index = int(price.argmin())
        return _Side(float(best[index]), float(price[index]) if float(best[index]) > 0 else 0.0)
