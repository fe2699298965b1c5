"""C steps: what compressed weights may be, and the nearest such weights to given ones.

A scheme solves ``min over Θ of ‖w - Δ(Θ)‖^2`` for one vector w: a parameter, or several that share a codebook. Its name
in a recipe, and the Δ(Θ) it stands for:

    kmeans:K                 K levels, the best (dynamic programming)
    lloyd:K                  K levels, from the previous ones by Lloyd's algorithm
    entropy:K:λ              up to K levels; the loss pays λ for each bit of the code, see `EntropyCoded`
    binary, ternary          {-1, 1}, {-1, 0, 1}
    powers:C                 {0, ±1, ±2^-1, ..., ±2^-C}
    levels:-1,0.5,2          any fixed levels
    scaled-...               any of the four above times the best factor a
    prune:f                  the share f of all weights, the largest ones, as they are; 0 for the others
    correct:f+...            any of the above but prune, except at the share f of all weights, which are as they are
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.solvers.entropy_kmeans import entropy_kmeans
from metaq.solvers.kmeans1d import kmeans, lloyd, midpoints
from metaq.solvers.scaled_codebook import best_scale

_MOST_POWERS = 60  # so that the least power stays far above float32's smallest number
_MOST_LEVELS = 1 << 12
_MOST_ALTERNATIONS = 30  # between a sparse correction and the levels below it


@dataclass(frozen=True)
class Cells:
    """Θ of a scheme with levels.

    Attributes:
        levels: float64 (k,), in order, each of them a float32 value; equal ones may occur.
        boundaries: float64 (k - 1,), between the weights of neighbouring levels.
    """

    levels: Tensor
    boundaries: Tensor

    def assign(self, weights: Tensor) -> Tensor:
        """Each weight's level, float64."""
        return self.levels[torch.bucketize(weights, self.boundaries)]


@dataclass(frozen=True)
class Projection:
    """The result of a C step.

    Attributes:
        values: Δ(Θ), float32 (n,).
        levels: the levels from which the next projection starts; None for a scheme without levels.
    """

    values: Tensor
    levels: Tensor | None


class Scheme(ABC):
    """What compressed weights may be, with the C step that finds the nearest such weights."""

    @abstractmethod
    def project(self, weights: Tensor, start: Tensor | None, mu: float) -> Projection:
        """Find the nearest weights that the scheme allows.

        Args:
            weights: float64 (n,), finite, at least one, on the CPU.
            start: the levels of the previous projection, None for the first.
            mu: the penalty's weight μ, for schemes that pay with the loss; 0 while there is no penalty, nor a rate.
        """


class LevelScheme(Scheme):
    """A scheme whose weights lie on few levels, which are all that it decides."""

    @abstractmethod
    def fit(self, weights: Tensor, start: Tensor | None, mu: float) -> Cells:
        """Find Θ; the arguments are those of `project`."""

    def project(self, weights: Tensor, start: Tensor | None, mu: float) -> Projection:
        """Put every weight on the level of its cell."""
        cells = self.fit(weights, start, mu)
        return Projection(_as_float32(cells.assign(weights)), cells.levels)


@dataclass(frozen=True)
class Learned(LevelScheme):
    """``levels`` learned levels: the best (``is_exact``), or what Lloyd's algorithm makes of the previous ones."""

    levels: int
    is_exact: bool

    def fit(self, weights: Tensor, start: Tensor | None, mu: float) -> Cells:
        """k-means."""
        if self.is_exact or start is None:
            return _nearest(kmeans(weights, self.levels).levels)
        return _nearest(lloyd(weights, start).levels)


@dataclass(frozen=True)
class Fixed(LevelScheme):
    """Given levels, as they are or multiplied by the best factor."""

    levels: tuple[float, ...]
    is_scaled: bool

    def fit(self, weights: Tensor, start: Tensor | None, mu: float) -> Cells:
        """The levels, scaled or not."""
        levels = torch.tensor(self.levels, dtype=torch.float64)
        return _nearest(levels * best_scale(weights, levels) if self.is_scaled else levels)


@dataclass(frozen=True)
class EntropyCoded(LevelScheme):
    """At most ``levels`` levels, learned so that they are cheap to code.

    The problem is ``min L(w) + λ · bits(Θ)  s.t.  w = Δ(Θ)``, so that a C step minimises
    ``(μ/2) ‖w - Δ(Θ)‖^2 + λ Σ_b c_b log2(n / c_b)``. Of the optima from the best levels without a rate and from the
    previous ones the lower is taken: starting without a rate brings levels back that were too dear at a smaller μ.
    """

    levels: int
    strength: float

    def fit(self, weights: Tensor, start: Tensor | None, mu: float) -> Cells:
        """Minimise distortion and rate together."""
        starts = [kmeans(weights, self.levels).levels]
        if start is not None:
            starts.append(torch.unique(start))
        found = [entropy_kmeans(weights, levels, 2 * self.strength / mu if mu else 0.0) for levels in starts]
        best = min(found, key=lambda cells: cells.objective)
        return Cells(_as_float32(best.levels).to(torch.float64), best.boundaries)


@dataclass(frozen=True)
class Sparse(Scheme):
    """The ``share`` of weights of largest magnitude stays as it is; the others become 0."""

    share: float

    def project(self, weights: Tensor, start: Tensor | None, mu: float) -> Projection:
        """Set all but the largest weights to 0."""
        kept = _largest(weights, self.share)
        values = torch.zeros_like(weights)
        values[kept] = weights[kept]
        return Projection(_as_float32(values), None)


@dataclass(frozen=True)
class Corrected(Scheme):
    """Levels plus a correction that is not zero at a ``share`` of the weights.

    Corrected weights are exact, so that the levels have to serve the others alone. Two steps alternate, beginning with
    the correction that is best for the present levels: fit the levels to the weights that are not corrected; move the
    correction to the largest errors.
    """

    share: float
    quantizer: LevelScheme

    def project(self, weights: Tensor, start: Tensor | None, mu: float) -> Projection:
        """Alternate while the error falls; every step is exact, so that the error never rises."""
        cells = self.quantizer.fit(weights, start, mu) if start is None else _nearest(start)
        error = torch.inf
        for _ in range(_MOST_ALTERNATIONS):
            corrected = _largest(weights - cells.assign(weights), self.share)
            rest = torch.ones_like(weights, dtype=torch.bool)
            rest[corrected] = False
            found = self.quantizer.fit(weights[rest], cells.levels, mu)
            values = found.assign(weights)
            values[corrected] = weights[corrected]
            previous, error = error, float((weights - values).square().sum())
            if not error < previous:
                break
            cells, best = found, values
        return Projection(_as_float32(best), cells.levels)


def parse(text: str) -> Scheme:
    """The scheme of a name in the table above.

    Raises:
        InputError: there is no such scheme, or one of its numbers is missing, malformed or out of range.
    """
    correction, plus, rest = text.partition("+")
    if plus:
        kind, _, share = correction.partition(":")
        quantizer = parse(rest)
        if kind != "correct" or not isinstance(quantizer, Learned | Fixed):
            raise InputError(f"scheme {text!r}: expected correct:SHARE+LEVELS without a rate, found another sum")
        return Corrected(_number(text, share, 0, 0.5), quantizer)
    is_scaled = text.startswith("scaled-")
    kind, *arguments = text.removeprefix("scaled-").split(":")
    known = _FIXED if is_scaled else tuple(_PARSERS)
    if kind not in known or len(arguments) != _ARGUMENTS.get(kind, 1):
        raise InputError(f"scheme: expected one of {', '.join(known)}, with its numbers, found {text!r}")
    return _PARSERS[kind](text, is_scaled, arguments)


def _learned(text: str, _: bool, arguments: list[str]) -> Scheme:
    return Learned(int(_number(text, arguments[0], 1, _MOST_LEVELS)), text.startswith("kmeans"))


def _entropy(text: str, _: bool, arguments: list[str]) -> Scheme:
    return EntropyCoded(int(_number(text, arguments[0], 1, _MOST_LEVELS)), _number(text, arguments[1], 0, torch.inf))


def _powers(text: str, is_scaled: bool, arguments: list[str]) -> Scheme:
    count = int(_number(text, arguments[0], 0, _MOST_POWERS))
    powers = [2.0**-exponent for exponent in range(count + 1)]
    return Fixed((*(-power for power in powers), 0.0, *reversed(powers)), is_scaled)


def _levels(text: str, is_scaled: bool, arguments: list[str]) -> Scheme:
    levels = {_number(text, level, -torch.inf, torch.inf) for level in arguments[0].split(",")}
    return Fixed(tuple(sorted(levels)), is_scaled)


_PARSERS: dict[str, Callable[[str, bool, list[str]], Scheme]] = {
    "kmeans": _learned,
    "lloyd": _learned,
    "entropy": _entropy,
    "binary": lambda _, is_scaled, __: Fixed((-1.0, 1.0), is_scaled),
    "ternary": lambda _, is_scaled, __: Fixed((-1.0, 0.0, 1.0), is_scaled),
    "powers": _powers,
    "levels": _levels,
    "prune": lambda text, _, arguments: Sparse(_number(text, arguments[0], 0, 1)),
}
_FIXED = ("binary", "ternary", "powers", "levels")
_ARGUMENTS = {"binary": 0, "ternary": 0, "entropy": 2}  # all others have one


def _number(text: str, argument: str, least: float, most: float) -> float:
    try:
        number = float(argument)
    except ValueError:
        number = torch.nan
    if not (least <= number <= most) or abs(number) == torch.inf:
        raise InputError(f"scheme {text!r}: expected a number from {least:g} to {most:g}, found {argument!r}")
    return number


def _nearest(levels: Tensor) -> Cells:
    """Round the levels to what a file can hold, and give each the weights nearest to it."""
    levels = _as_float32(levels).to(torch.float64)
    return Cells(levels, midpoints(levels))


def _as_float32(values: Tensor) -> Tensor:
    """The values as float32 without a negative zero, so that equal values are equal bytes."""
    return values.to(torch.float32).add_(0.0)


def _largest(weights: Tensor, share: float) -> Tensor:
    """Positions of the given share of the weights, rounded: those of largest magnitude."""
    return weights.abs().topk(round(share * len(weights)), sorted=False).indices
