"""Counts breakpoints of the hulls of random multipliers: the thesis's study of the simil-knapsack's complexity.

Draw ξ_b, b = 1 ... C, independent and uniform, on equally spaced levels, and count the vertices N_B of the lower convex
hull of the points (v_b, ξ_b). A search for hull edges that restarts at every vertex takes O(N_B C) steps; for it the
worst case is N_B = C, and the study asks how likely that is. A Beta distribution is fitted to N_B / C, and the worst
case is its tail beyond 1 - 1/(2C).

The fit describes the bulk; its tail, far beyond the draws, is an extrapolation, as in the thesis. The monotone chain
of `metaq.solvers.knapsack` takes O(C) whatever N_B is.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.errors import InputError
from metaq.solvers import knapsack

_ENTRIES = 1 << 22  # at a time, of the tables of levels by levels from which an accelerator makes hulls


@dataclass(frozen=True)
class BetaFit:
    """A Beta distribution of N_B / C.

    Attributes:
        alpha, beta: its parameters.
        log10_tail: log10 P(N_B = C), of the probability beyond ``1 - 1/(2C)``, which is often too small for a float.
    """

    alpha: float
    beta: float
    log10_tail: float

    def probability(self, vertices: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
        """P(N_B = k) for every k of ``vertices``, what the distribution has within half a vertex of ``k / C``."""
        special = _scipy("special")
        edges = np.clip([(vertices - 0.5) / levels, (vertices + 0.5) / levels], 0, 1)
        below, above = special.betainc(self.alpha, self.beta, edges)
        return np.asarray(above - below)


def count_vertices(xi: Tensor, levels: Tensor) -> Tensor:
    """Vertices of the lower convex hulls, ends included: int64 (T,) for costs (T, C) at levels (C,).

    A level on the straight line between its neighbours is counted.

    Raises:
        InputError: as `metaq.solvers.knapsack.hull`.
    """
    pieces = xi.split(max(1, _ENTRIES // xi.shape[1] ** 2))
    return torch.cat([2 + (knapsack.hull(piece, levels).left.diff(dim=1) != 0).sum(dim=1) for piece in pieces])


def draw(levels: int, draws: int, seed: int) -> Tensor:
    """N_B of ``draws`` random ξ on ``levels`` equally spaced levels: int64 (draws,).

    Raises:
        InputError: fewer than two levels, or no draws.
    """
    if levels < 2:
        raise InputError(f"breakpoints levels: expected at least 2, found {levels}")
    if draws < 1:
        raise InputError(f"breakpoints draws: expected at least 1, found {draws}")
    generator = torch.Generator().manual_seed(seed)
    xi = torch.rand(draws, levels, generator=generator, dtype=torch.float64)
    return count_vertices(xi, torch.arange(levels, dtype=torch.float64))


def fit_by_moments(vertices: Tensor, levels: int) -> BetaFit:
    """The Beta distribution with the mean and variance of N_B / C.

    Raises:
        InputError: all draws agree, so that no Beta distribution has their moments; or scipy is missing.
    """
    share = vertices.to(torch.float64) / levels
    mean, variance = float(share.mean()), float(share.var(correction=0))
    if variance == 0:
        raise InputError(f"breakpoints: expected draws that differ, found {int(vertices[0])} vertices in each")
    total = mean * (1 - mean) / variance - 1
    return _with_tail(mean * total, (1 - mean) * total, levels)


def fit_by_likelihood(vertices: Tensor, levels: int) -> BetaFit:
    """The Beta distribution of greatest likelihood for N_B / C, a share of 1 read as ``1 - 1/(2C)``.

    Raises:
        InputError: as `fit_by_moments`.
    """
    start = fit_by_moments(vertices, levels)
    stats = _scipy("stats")
    share = (vertices.to(torch.float64) / levels).clamp(max=1 - 0.5 / levels).numpy()
    alpha, beta, _, _ = stats.beta.fit(share, start.alpha, start.beta, floc=0, fscale=1)
    return _with_tail(float(alpha), float(beta), levels)


def _with_tail(alpha: float, beta: float, levels: int) -> BetaFit:
    special = _scipy("special")
    # I_x(p, q) = x^p (1 - x)^q 2F1(1, p + q; p + 1; x) / (p B(p, q)), with x small, from the far side and as a
    # logarithm.
    x = 0.5 / levels
    series = float(special.hyp2f1(1.0, alpha + beta, beta + 1.0, x))
    log_tail = beta * math.log(x) + alpha * math.log1p(-x) - math.log(beta) - float(special.betaln(beta, alpha))
    return BetaFit(alpha, beta, (log_tail + math.log(series)) / math.log(10))


def _scipy(part: str) -> ModuleType:
    try:
        return importlib.import_module(f"scipy.{part}")
    except ModuleNotFoundError:
        raise InputError("breakpoints: expected module 'scipy', found none; pip install 'metaq-nn[train]'") from None
