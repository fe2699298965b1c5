"""Second-order error feedback: weights not yet quantized make up for the errors of those that are.

A layer multiplies inputs x by W. With A the second moments of x, an error δ in a row of W costs ``δ A δᵀ`` in squared
output. Rows are quantized from left to right (optimal brain surgeon in a fixed order, as Frantar et al. 2023, GPTQ).
With A^-1 = Uᵀ U, U upper triangular, and the weights right of column j free, an error of 1 in that column costs least,
1 / U[j, j]², where each weight k to its right has moved by U[j, k] / U[j, j] the other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.quantizers.calibration import Calibration

_DAMPING = 0.01  # of the diagonal's mean, added to it, as GPTQ does


@dataclass(frozen=True)
class Feedback:
    """How errors of a layer's weights make up for each other, which follows from its inputs.

    Attributes:
        shares: float32, (d, d): `metaq.quantizers.rdoq.quantize` takes it.
        costs: float32, (d,): of a squared error in each column, the weights to its right making up for it.
    """

    shares: Tensor
    costs: Tensor


@dataclass(frozen=True)
class Sensitivity:
    """How a calibrated weight is to be quantized.

    Attributes:
        rows: how many it has.
        shares: as in `Feedback`.
        costs: those of `Feedback`, relative to their mean.
        cost: of a squared error in one weight to the predictions, on average, in nats: the mean of ``G[i] / U[j, j]²``.
    """

    rows: int
    shares: Tensor
    costs: Tensor
    cost: float

    def importance(self, shape: Sequence[int]) -> Tensor:
        """The costs in the shape of any number of the weight's rows."""
        return self.costs.expand(shape[0], -1).reshape(tuple(shape))


def sensitivity(calibration: Calibration, name: str) -> Sensitivity:
    """What follows from a calibration for one of its weights.

    Deviation: rows count alike. Where those whose gradients are small get fewer bits, networks do worse.
    """
    found, gradients = feedback(calibration.inputs[name]), calibration.rows[name]
    mean = found.costs.mean()
    return Sensitivity(len(gradients), found.shares, found.costs / mean, float(mean * gradients.double().mean()))


def relative_steps(sensitivities: Mapping[str, Sensitivity]) -> dict[str, float]:
    """Steps of equal slope: as 1 / √cost, of geometric mean 1. What costs nothing has the coarsest of the others."""
    costs = {name: entry.cost for name, entry in sensitivities.items()}
    least = min((cost for cost in costs.values() if cost > 0), default=1.0)
    octaves = {name: -0.5 * math.log2(cost if cost > 0 else least) for name, cost in costs.items()}
    middle = sum(octaves.values()) / max(1, len(octaves))
    return {name: 2.0 ** (place - middle) for name, place in octaves.items()}


def feedback(inputs: Tensor) -> Feedback:
    """The feedback of second moments A, symmetric and positive semidefinite, of shape (d, d).

    Raises:
        InputError: they are not.
    """
    moments = inputs.detach().cpu().double()
    if moments.ndim != 2 or moments.shape[0] != moments.shape[1] or not bool(torch.isfinite(moments).all()):
        raise InputError(f"inputs: expected a square matrix of finite numbers, found shape {tuple(inputs.shape)}")
    damping = _DAMPING * moments.diagonal().mean().clamp_min(1e-30)
    try:
        lower = torch.linalg.cholesky(moments + damping * torch.eye(len(moments), dtype=torch.float64))
        factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    except RuntimeError:
        raise InputError("inputs: expected second moments, found a matrix that has negative eigenvalues") from None
    scales = factor.diagonal()
    return Feedback((factor / scales[:, None]).float(), scales.square().reciprocal().float())
