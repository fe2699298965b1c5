"""Second-order quantization: a trellis down the columns of matrices, feedback across them, steps by waterfilling.

A layer multiplies inputs x by W. With H the second moments of x, and c what a squared error of an output costs, an
error δ of W costs ``c Σ_i δ_i H δ_iᵀ``. Columns are quantized one after the other, and those not yet quantized make up
for the errors of those that are (optimal brain surgeon in a fixed order, as Frantar et al. 2023, GPTQ). With
H^-1 = Uᵀ U, U upper triangular in that order, an error of e in column j costs least, ``d_j e²`` with
``d_j = 1 / U[j, j]²``, where each column k behind it has moved by ``-e U[j, k] / U[j, j]``: errors of columns then add
up. In the reverse order H is ``L D Lᵀ`` with ones on L's diagonal: D has the d_j, ``L^-1`` the ``U[j, k] / U[j, j]``.

- Steps are ``sigma / √(c d_j)``, so that an error costs the same everywhere (waterfilling, as WaterSIC, 2603.04956):
  one step and a scale for each column, and, where the rows of several matrices lie in one tensor, for each row, rounded
  to an eighth of an octave. Scales that cost more bits than they spare are left out; errors are then weighted by their
  costs. Deviation: outputs of a layer count alike. Where those whose gradients are small get fewer bits, networks do
  worse.
- Within a column all targets are known, so that the indices are the cheapest path of a trellis down its rows
  (`metaq.quantizers.trellis`). Files hold such a tensor column by column (docs/format.md, "Tensor entry").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from metaq import _native, coding
from metaq.errors import InputError
from metaq.matrix_layout import scales
from metaq.quantizers.trellis import RATE_WEIGHT

_DAMPING = 0.01  # of the diagonal's mean, added to it, as GPTQ does
_ELEMENTS = 1 << 22  # of moments that are decomposed at a time, whose copies take 32 MB each
_COLUMNS = 64  # quantized before those behind them move
_LEAST_SHARE = 0.1  # of the inputs that groups see on average, which those count as having seen that saw fewer
_ALIKE = 2  # inputs that tell no more than one, about: those near each other resemble each other
_ROW_SHARE = 0.5  # of a row's deviation from the mean magnitude that coders expect of it
_SCALE_BITS = 5  # what a scale takes in a file, about
_SAMPLED_WEIGHTS = 1 << 22  # of a matrix, from which it is told which scales pay
_EIGHTHS = 63  # of an octave, the most that a scale may be from 1: the product of two is in a file's range, too


@dataclass(frozen=True)
class Feedback:
    """How the columns of matrices make up for each other, which follows from their inputs.

    Attributes:
        order: of the columns, int64, of shape (columns,): those of the largest moments first.
        shares: float32, (groups, columns, columns), both in that order: for each error of 1 in column j those behind it
            move by ``-shares[j]``.
        costs: d, float64, (groups, columns), in that order.
    """

    order: Tensor
    shares: Tensor
    costs: Tensor


@dataclass(frozen=True)
class Scaling:
    """Which scales a tensor has."""

    rows: bool
    columns: bool


@dataclass(frozen=True)
class Quantized:
    """Matrices on their levels, ``symbol · step · row scale · column scale``.

    Attributes:
        symbols: int32, (groups * rows, columns).
        step: above 0.
        row_logs: of the scales of all rows, in eighths of an octave, int8, (groups * rows,); None without.
        column_logs: (columns,), which the groups share; None without.
        cost: of the errors.
    """

    symbols: Tensor
    step: float
    row_logs: np.ndarray | None
    column_logs: np.ndarray | None
    cost: float

    def values(self, groups: int) -> Tensor:
        """The levels, float32, of shape (groups, rows, columns), exactly as a decoder gives them."""
        found = self.symbols.float()
        step = np.float32(self.step)
        if self.row_logs is not None:
            found *= torch.from_numpy(step * scales(self.row_logs))[:, None]
        else:
            found *= float(step)
        if self.column_logs is not None:
            found *= torch.from_numpy(scales(self.column_logs))
        return found.reshape(groups, -1, found.shape[1])

    def bits(self, coder: str = "adaptive") -> float:
        """About what it takes in a file."""
        block = np.ascontiguousarray(self.symbols.numpy().T[:, :, None])
        logs = [0 if found is None else found.size for found in (self.row_logs, self.column_logs)]
        return 8 * len(coding.by_name(coder).encode([block])) + _SCALE_BITS * sum(logs)


def feedback(inputs: Tensor, positions: Tensor, unseen: float = 0.0) -> Feedback:
    """The feedback of second moments H, symmetric and positive semidefinite.

    What lies beside the diagonal counts the less, the fewer inputs it was seen in: otherwise weights would make up for
    each other on just those. Inputs that never were other than zero, and moments that are singular, are damped. Groups
    that have seen less than a tenth of the inputs that all see on average get what is missing of that from all.

    Args:
        inputs: H, of shape (groups, columns, columns).
        positions: how many inputs each group has seen, of shape (groups,).
        unseen: what energy every input has besides what was seen of it, as a share of their mean energy.

    Raises:
        InputError: they are no second moments.

    Example:
        >>> feedback(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), torch.tensor([1000])).costs.shape
        torch.Size([1, 2])
    """
    moments = _regular(inputs, positions, unseen)
    order = moments.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
    backwards = order.flip(0)
    shares, costs = torch.empty(moments.shape), torch.empty(moments.shape[:2], dtype=torch.float64)
    at_a_time = max(1, _ELEMENTS // len(order) ** 2)
    for first in range(0, len(moments), at_a_time):
        groups = slice(first, first + at_a_time)
        unit, diagonal = _decomposed(moments[groups, backwards][:, :, backwards])
        identity = torch.eye(len(order), dtype=torch.float64).expand_as(unit)
        inverse = torch.linalg.solve_triangular(unit, identity, upper=False, unitriangular=True)
        shares[groups], costs[groups] = inverse.flip(1, 2), diagonal.flip(1)
    return Feedback(order, shares, costs)


def _decomposed(moments: Tensor) -> tuple[Tensor, Tensor]:
    """L and the diagonal of D of moments, which are ``L D Lᵀ``, L with ones on its diagonal."""
    try:
        lower = torch.linalg.cholesky(moments)
    except RuntimeError:
        raise InputError("inputs: expected second moments, found a matrix that has negative eigenvalues") from None
    roots = lower.diagonal(dim1=1, dim2=2)
    return lower / roots[:, None], roots.square()


def aim(matrices: Tensor, inputs: Tensor, cross: Tensor, positions: Tensor, unseen: float = 0.0) -> Tensor:
    """The matrices that do best on inputs x what others do on inputs r: ``W (inputs + cross) inputs⁻¹``.

    Args:
        matrices: W, (groups, rows, columns).
        inputs: E[x xᵀ], (groups, columns, columns); made regular as in `feedback`.
        cross: E[(r - x) xᵀ].
        positions: as for `feedback`.
        unseen: likewise.
    """
    moments = _regular(inputs, positions, unseen)
    errors = (1 - _noise_share(inputs, positions)) * (matrices.double() @ cross.double())
    moved: Tensor = torch.linalg.solve(moments, errors.transpose(1, 2)).transpose(1, 2)
    return (matrices.double() + moved).float()


def optimism(halves: Tensor, positions: Tensor, unseen: float = 0.0) -> float:
    """How many times as much errors of weights cost on inputs that feedback has not seen as on those that it has.

    Feedback turns errors to where the inputs have little energy, and some of them seem to have little only because few
    samples are known. Each half of the inputs is given feedback, and tells what its errors would cost on the other.

    Args:
        halves: H of each half of the inputs, of shape (2, groups, columns, columns).
        positions: how many inputs each group has in a half, of shape (groups,).
        unseen: as for `feedback`.

    Returns:
        The geometric mean of both, at least 1.

    Raises:
        InputError: they are no second moments.
    """
    halves = halves.detach().cpu().double()
    costs = torch.zeros(2, 2, dtype=torch.float64)
    for half, inputs in enumerate(halves):
        found = feedback(inputs, positions, unseen)
        for other, moments in enumerate(halves):
            ordered = moments[:, found.order][:, :, found.order]
            costs[half, other] = ((found.shares.double() @ ordered) * found.shares).sum()
    if not bool((costs > 0).all()):
        return 1.0
    return max(1.0, float((costs[0, 1] * costs[1, 0] / costs.diagonal().prod()).sqrt()))


def _noise_share(inputs: Tensor, positions: Tensor) -> Tensor:
    """How much of what moments say beside their diagonals is chance, of shape (groups, 1, 1)."""
    columns = inputs.shape[1]
    return (columns / (columns + positions.double() / _ALIKE))[:, None, None]


def _regular(inputs: Tensor, positions: Tensor, unseen: float) -> Tensor:
    """Moments as float64, with what was not seen, shrunk to their diagonals, and damped."""
    moments = inputs.detach().cpu().double()
    if moments.ndim != 3 or moments.shape[1] != moments.shape[2] or not bool(torch.isfinite(moments).all()):
        raise InputError(f"inputs: expected square matrices of finite numbers, found shape {tuple(inputs.shape)}")
    diagonal = moments.diagonal(dim1=1, dim2=2)
    if bool((diagonal < 0).any()):
        raise InputError("inputs: expected second moments, found a negative one on the diagonal")
    moments = _with_unseen(_filled(moments, positions.cpu()), unseen)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    share = _noise_share(moments, positions.cpu())
    damped = share[:, 0] * diagonal + _DAMPING * diagonal.mean(1, keepdim=True).clamp_min(1e-30)
    regular = (1 - share) * moments
    regular.diagonal(dim1=1, dim2=2).add_(damped)
    return regular


def _filled(moments: Tensor, positions: Tensor) -> Tensor:
    """Moments to which groups that have seen hardly any inputs, as experts may, get some of those of all groups.

    What the data does not have is then coarser, but not lost.
    """
    seen = positions.double() / positions.double().mean().clamp_min(1)
    lacking = (_LEAST_SHARE - seen).clamp_min(0)
    return moments + lacking[:, None, None] * moments.mean(0) if bool(lacking.any()) else moments


def _with_unseen(moments: Tensor, unseen: float) -> Tensor:
    """Moments with more energy in every input, correlated as what was seen is."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    added = unseen * diagonal.mean()
    if not added > 0:
        return moments
    factors = torch.where(diagonal > 0, (1 + added / diagonal.clamp_min(1e-300)).sqrt(), 1.0)
    raised = moments * factors[:, None] * factors[:, :, None]
    raised.diagonal(dim1=1, dim2=2).copy_(diagonal + added)
    return raised


class States(IntEnum):
    """Of the trellis: with one, symbols are free, for coders that do not learn dependent ones."""

    FREE = 1
    DEPENDENT = 8


def quantize(
    matrices: Tensor,
    found: Feedback,
    sigma: float,
    output_cost: float | Tensor,
    scaling: Scaling,
    states: States = States.DEPENDENT,
) -> Quantized:
    """Quantize matrices, those of all groups together.

    Args:
        matrices: float32, (groups, rows, columns), finite.
        sigma: the step of a weight whose squared error costs 1; of free symbols half of it.
        output_cost: of a squared error in an output, above 0; one for all, or one for each, (groups * rows,).

    Raises:
        InputError: weights that are not finite, or too many steps from zero.
    """
    problem = _Problem(matrices, found, sigma, output_cost, scaling)
    quantizer = _native.ColumnQuantizer(RATE_WEIGHT, states)
    count = matrices.shape[2]
    for first in range(0, count, _COLUMNS):
        problem.quantize(quantizer, slice(first, min(first + _COLUMNS, count)))
    result = problem.result()
    if states is States.FREE:
        return replace(result, symbols=result.symbols // 2, step=2 * result.step)
    return result


def choose_scaling(matrices: Tensor, found: Feedback, sigma: float, output_cost: float | Tensor) -> Scaling:
    """The scales that pay: the least cost, in units of ``sigma²``, and bits times what a bit spares of it.

    Of large matrices some of the rows tell.
    """
    groups, count, columns = matrices.shape
    # Rows of a group differ in nothing that scales depend on, unless their outputs have costs of their own.
    rows = (False, True) if groups > 1 or isinstance(output_cost, Tensor) else (False,)
    every = max(1, count * columns // _SAMPLED_WEIGHTS) if groups == 1 else 1
    matrices = matrices[:, ::every]
    output_cost = output_cost[::every] if isinstance(output_cost, Tensor) else output_cost
    choices = [Scaling(of_rows, of_columns) for of_rows in rows for of_columns in (False, True)]

    def price(scaling: Scaling) -> float:
        result = quantize(matrices, found, sigma, output_cost, scaling)
        return result.cost / sigma**2 + RATE_WEIGHT * result.bits()

    return min(choices, key=price)


class _Problem:
    """Columns in the order in which they are quantized, in units of the steps of rows."""

    def __init__(
        self, matrices: Tensor, found: Feedback, sigma: float, output_cost: float | Tensor, scaling: Scaling
    ) -> None:
        self.groups, rows, columns = matrices.shape
        self.found, self.sigma = found, sigma
        outputs = torch.as_tensor(output_cost, dtype=torch.float64).expand(self.groups * rows)
        logs = found.costs.log2()  # of what an error costs where outputs cost 1
        of_columns = logs.mean(0)
        of_rows = (logs - of_columns).mean(1).repeat_interleave(rows) + outputs.log2()
        self.row_logs = _eighths(-0.5 * (of_rows - of_rows.mean())) if scaling.rows else None
        self.column_logs = _eighths(-0.5 * (of_columns - of_columns.mean())) if scaling.columns else None
        self.step = float(np.float32(sigma * 2 ** (-0.5 * float(of_columns.mean() + of_rows.mean()))))
        row_scales = torch.ones(len(of_rows)) if self.row_logs is None else torch.from_numpy(scales(self.row_logs))
        self.scales = torch.ones(columns) if self.column_logs is None else torch.from_numpy(scales(self.column_logs))
        self.row_steps = self.step * row_scales
        importances = found.costs.T.repeat_interleave(rows, 1)  # of an error of one step, in units of sigma²
        importances *= self.scales.double().square()[:, None]
        importances *= outputs * (self.row_steps.double() / sigma).square()
        self.importances = importances.float()
        targets = matrices.permute(2, 0, 1).reshape(columns, -1)[found.order] / self.row_steps
        self.targets = targets.float().contiguous()
        self._check(matrices)
        self.symbols = torch.zeros(self.targets.shape, dtype=torch.int32)
        self.errors = torch.zeros(self.targets.shape)
        self.levels = self._row_levels()

    def _check(self, matrices: Tensor) -> None:
        if not bool(torch.isfinite(self.targets).all()):
            raise InputError("weights: expected finite values, found NaN or infinity")
        most = float((self.targets.abs() / self.scales[:, None]).max())
        if most >= coding.SYMBOL_LIMIT / 4:
            raise InputError(f"weights: expected less than 2^28 steps from zero, found {most:.3g}; use a larger step")

    def _row_levels(self) -> Tensor:
        """Base-2 logarithms of how much larger a row is expected to be than others."""
        sizes = self.targets.abs() / self.scales[:, None]
        level = (sizes.mean(0) + 1e-6).log2()
        found: Tensor = _ROW_SHARE * (level - (sizes.mean() + 1e-6).log2())
        return found.contiguous()

    def quantize(self, quantizer: _native.ColumnQuantizer, columns: slice) -> None:
        """Quantize some columns, and move all those behind them."""
        shares = self.found.shares[:, columns]
        quantizer.quantize(
            self.targets[columns].numpy(),
            shares[:, :, columns].contiguous().numpy(),
            self.scales[columns].numpy(),
            self.importances[columns].numpy(),
            self.levels.numpy(),
            self.symbols[columns].numpy(),
            self.errors[columns].numpy(),
            float(coding.SYMBOL_LIMIT / 2),
        )
        behind, errors = self.targets[columns.stop :], self.errors[columns]
        if not len(behind):
            return
        if self.groups == 1:
            behind.addmm_(shares[0, :, columns.stop :].T, errors, alpha=-1)
            return
        of_groups = errors.reshape(len(errors), self.groups, -1).transpose(0, 1)
        moved = torch.bmm(shares[:, :, columns.stop :].transpose(1, 2), of_groups)
        behind -= moved.transpose(0, 1).reshape(behind.shape)

    def result(self) -> Quantized:
        if not bool(torch.isfinite(self.errors).all()):
            raise InputError("weights: expected finite ones that make up for others, found NaN or infinity")
        back = self.found.order.argsort()
        cost = float(((self.errors / self.scales[:, None]).square() * self.importances).double().sum()) * self.sigma**2
        return Quantized(self.symbols[back].T.contiguous(), self.step, self.row_logs, self._in_order(back), cost)

    def _in_order(self, back: Tensor) -> np.ndarray | None:
        return None if self.column_logs is None else self.column_logs[back.numpy()]


def _eighths(octaves: Tensor) -> np.ndarray:
    found: np.ndarray = (8 * octaves).round().clamp(-_EIGHTHS, _EIGHTHS).to(torch.int8).numpy()
    return found
