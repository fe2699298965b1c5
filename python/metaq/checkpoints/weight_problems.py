"""What each weight of a calibrated checkpoint is to its quantizer, and how a file holds what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor
from metaq.matrix_layout import MatrixLayout, scales
from metaq.quantizers import rdoq, second_order, trellis
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.layers import MatrixView
from metaq.quantizers.second_order import Feedback, Scaling, States

_TINY = 1e-30  # in the place of costs of zero
_MOST_UNSEEN = 0.3  # lookups that a row is taken for that had none
_TOLD_ROWS = 64  # of a table, which tell what its costs are like


@dataclass(frozen=True)
class MatrixProblem:
    """A weight that multiplies inputs whose moments are known.

    Attributes:
        output_cost: of a squared error in one of its outputs; of a table that is multiplied by, too, one for each.
        scaling: chosen once, so that the same levels are tried on other inputs.
    """

    view: MatrixView
    feedback: Feedback
    output_cost: float | Tensor
    states: States
    scaling: Scaling | None = None

    @property
    def costs(self) -> Tensor:
        """Of squared errors in its weights, the others making up for them; of many rows of a table, some."""
        outputs = torch.as_tensor(self.output_cost, dtype=torch.float64).reshape(-1).sort().values
        middles = (torch.arange(_TOLD_ROWS) + 0.5) / _TOLD_ROWS * len(outputs)
        told = outputs if len(outputs) <= _TOLD_ROWS else outputs[middles.long()]
        return torch.outer(told, self.feedback.costs.flatten()).flatten()

    def choose_scaling(self, weight: Tensor, sigma: float) -> Scaling:
        """The scales that pay at this step."""
        return second_order.choose_scaling(self.view.matrices(weight), self.feedback, sigma, self.output_cost)

    def quantize(self, weight: Tensor, sigma: float) -> CodedTensor:
        """The weight on its levels."""
        scaling = self.scaling or Scaling(rows=False, columns=False)
        matrices = self.view.matrices(weight)
        found = second_order.quantize(matrices, self.feedback, sigma, self.output_cost, scaling, self.states)
        symbols = found.symbols.reshape(self.view.groups, self.view.rows, self.view.columns)
        layout = _layout(self.view, found.row_logs, found.column_logs)
        return CodedTensor(self.view.weight(symbols).contiguous(), UniformCodebook(found.step), weight.dtype, layout)


def _layout(view: MatrixView, rows: np.ndarray | None, columns: np.ndarray | None) -> MatrixLayout | None:
    """Trellises run along what the file scans: down the columns, which are a transposed weight's rows."""
    if view.is_transposed:
        return _transposed_layout(view, rows, columns)
    count, leading = view.groups * view.rows, 1
    while math.prod(view.shape[:leading]) < count:
        leading += 1
    return MatrixLayout(leading, rows, columns, by_columns=True)


def _transposed_layout(view: MatrixView, rows: np.ndarray | None, columns: np.ndarray | None) -> MatrixLayout | None:
    """The file's rows are the columns of one matrix, or of one after the other, whose rows have one scale together."""
    if rows is None and columns is None:
        return None
    if view.groups == 1:
        return MatrixLayout(1, columns, rows)
    of_groups = 0 if rows is None else rows.astype(np.int64).reshape(view.groups, view.rows)[:, :1]
    of_columns = 0 if columns is None else columns.astype(np.int64)
    return MatrixLayout(2, np.broadcast_to(of_groups + of_columns, (view.groups, view.columns)).flatten())


@dataclass(frozen=True)
class RowProblem:
    """A weight of whose rows it is known what their errors cost, and of nothing how it makes up for another.

    Attributes:
        row_costs: of a squared error in a weight of each row, float64, (rows,), above 0; all equal for no scales.
    """

    row_costs: Tensor
    states: States

    @property
    def costs(self) -> Tensor:
        """As of a `MatrixProblem`."""
        return self.row_costs

    @cached_property
    def _logs(self) -> np.ndarray | None:
        octaves = -0.5 * self.row_costs.log2()
        logs = (8 * (octaves - octaves.mean())).round().clamp(-127, 127).to(torch.int8).numpy()
        return logs if logs.any() else None

    def quantize(self, weight: Tensor, sigma: float) -> CodedTensor:
        """The weight on its levels."""
        step = sigma * 2 ** (-0.5 * float(self.row_costs.log2().mean())) * (2 if self.states is States.FREE else 1)
        layout = None if self._logs is None else MatrixLayout(1, self._logs)
        values = weight.detach().float()
        if self._logs is not None:
            values = values / torch.from_numpy(scales(self._logs)).reshape(-1, *[1] * (weight.ndim - 1))
        codebook = UniformCodebook(step)
        if self.states is States.FREE:
            symbols = rdoq.quantize({"": values}, codebook)[0][""]
        else:
            symbols = trellis.quantize({"": values}, codebook, in_pieces=True)[""]
        return CodedTensor(symbols, codebook, weight.dtype, layout)


WeightProblem = MatrixProblem | RowProblem


def weight_problems(
    weights: Mapping[str, Tensor], calibration: Calibration, states: States
) -> dict[str, WeightProblem]:
    """The problem of each weight.

    Those that were not calibrated, or do not matter to the outputs, as a head that they do not come from, cost what the
    others do on average. So do, in part, rows of tables that were never looked up: costs are as the square root of how
    often that was, so that what the data does not have is not lost. Where a table is multiplied by, too, as the head of
    a language model, what a token's row costs as an output is shared out in the same way.
    """
    known: dict[str, WeightProblem] = {}
    feedbacks: dict[int, Feedback] = {}
    for name in weights:
        view = calibration.views.get(name)
        if view is None or not calibration.rows[name].any():
            continue
        if name in calibration.inputs:
            inputs = calibration.inputs[name]
            if id(inputs) not in feedbacks:
                feedbacks[id(inputs)] = second_order.feedback(inputs, calibration.positions[name])
            cost: float | Tensor = float(calibration.rows[name].double().mean())
            if name in calibration.counts:
                often = _often(calibration, name)
                cost = cost * often / often.square().mean().sqrt()
            known[name] = MatrixProblem(view, feedbacks[id(inputs)], cost, _states_for(view, states))
        elif name in calibration.counts:
            known[name] = RowProblem(_table_costs(calibration, name), states)
    logs = [float(problem.costs.clamp_min(_TINY).log().mean()) for problem in known.values()]
    usual = math.exp(sum(logs) / len(logs)) if logs else 1.0
    rest = RowProblem(torch.full((1,), usual, dtype=torch.float64), states)
    return {name: known.get(name, rest) for name in weights}


def _states_for(view: MatrixView, states: States) -> States:
    """Files scan transposed matrices one after the other, and so have no column of all of them for a trellis."""
    return States.FREE if view.is_transposed and view.groups > 1 else states


def _table_costs(calibration: Calibration, name: str) -> Tensor:
    counts = calibration.counts[name].double()
    lookups = counts.sum().clamp_min(1)
    of_lookup = float((calibration.rows[name].double() * counts).sum() / lookups)
    often = _often(calibration, name)
    return (of_lookup * often * often.square().mean().sqrt()).clamp_min(_TINY)


def _often(calibration: Calibration, name: str) -> Tensor:
    """The square root of how often rows of a table are looked up in a sample, of shape (rows,).

    Those that never were share what tells of them: as often as there are rows that were looked up once (Good-Turing).
    """
    counts = calibration.counts[name].double()
    unseen, once = int((counts == 0).sum()), int((counts == 1).sum())
    expected = min(_MOST_UNSEEN, max(once, 1) / max(unseen, 1))
    return (counts.clamp_min(expected) / calibration.samples).sqrt()
