"""What each weight of a calibrated checkpoint is to its quantizer, and how a file holds what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor
from metaq.matrix_layout import MatrixLayout
from metaq.quantizers import rdoq, second_order, trellis
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.layers import MatrixView
from metaq.quantizers.second_order import Feedback, Scaling, States

_TINY = 1e-30  # in the place of costs of zero
_MOST_UNSEEN = 0.3  # lookups that a row is taken for that had none
_POWER_EXPECTED = 2 / 3  # of how often rows are expected
_TOLD_ROWS = 64  # of a table, which tell what its costs are like


@dataclass(frozen=True)
class Table:
    """A weight whose rows are looked up, and may be multiplied by, too, as by the head of a language model.

    Attributes:
        lookups: second moments of the gradients of all lookups of a sample, (1, columns, columns).
        output_cost: of a squared error in any of its outputs where it is multiplied by, of all rows together.
    """

    lookups: Tensor
    output_cost: float

    def moments(self, inputs: Tensor | None) -> Tensor:
        """The Hessian of all rows together, of which each has a share."""
        return self.lookups if inputs is None else self.lookups + self.output_cost * inputs


@dataclass(frozen=True)
class MatrixProblem:
    """A weight whose rows have one Hessian, apart from a factor: the moments of the inputs that it multiplies.

    Attributes:
        feedback: by the Hessian.
        output_cost: the factor, of a squared error in an output; of a table, one for each row.
        scaling: chosen once, so that the same levels are tried on other inputs.
        table: of one that is looked up in, what else its Hessian is made of.
    """

    view: MatrixView
    feedback: Feedback
    output_cost: float | Tensor
    states: States
    scaling: Scaling | None = None
    table: Table | None = None

    def on(self, inputs: Tensor, positions: Tensor, unseen: float = 0.0) -> MatrixProblem:
        """The same on other inputs, as for `second_order.feedback`."""
        if self.table is not None:
            return replace(self, feedback=second_order.feedback(self.table.moments(inputs), positions))
        return replace(self, feedback=second_order.feedback(inputs, positions, unseen))

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
class PlainProblem:
    """A weight of which nothing is known but what a squared error in any place of it costs, above 0."""

    cost: float
    states: States

    @property
    def costs(self) -> Tensor:
        """As of a `MatrixProblem`."""
        return torch.full((1,), self.cost, dtype=torch.float64)

    def quantize(self, weight: Tensor, sigma: float) -> CodedTensor:
        """The weight on its levels."""
        codebook = UniformCodebook(sigma / math.sqrt(self.cost) * (2 if self.states is States.FREE else 1))
        values = {"": weight.detach().float()}
        if self.states is States.FREE:
            symbols = rdoq.quantize(values, codebook)[0][""]
        else:
            symbols = trellis.quantize(values, codebook, in_pieces=True)[""]
        return CodedTensor(symbols, codebook, weight.dtype)


WeightProblem = MatrixProblem | PlainProblem


def weight_problems(
    weights: Mapping[str, Tensor], calibration: Calibration, states: States
) -> dict[str, WeightProblem]:
    """The problem of each weight.

    Those that were not calibrated, or do not matter to the outputs, as a head that they do not come from, cost what the
    others do on average.
    """
    known: dict[str, MatrixProblem] = {}
    feedbacks: dict[int, Feedback] = {}
    for name in weights:
        view = calibration.views.get(name)
        if view is None:
            continue
        if name in calibration.counts:
            problem = _table_problem(calibration, view, states)
            known |= {} if problem is None else {name: problem}
        elif calibration.rows[name].any():
            inputs = calibration.inputs[name]
            if id(inputs) not in feedbacks:
                positions, unseen = calibration.positions[name], float(calibration.unseen[name])
                feedbacks[id(inputs)] = second_order.feedback(inputs, positions, unseen)
            cost = float(calibration.optimism[name] * calibration.rows[name].double().mean())
            known[name] = MatrixProblem(view, feedbacks[id(inputs)], cost, _states_for(view, states))
    logs = [float(problem.costs.clamp_min(_TINY).log().mean()) for problem in known.values()]
    rest = PlainProblem(math.exp(sum(logs) / len(logs)) if logs else 1.0, states)
    return {name: known.get(name, rest) for name in weights}


def _states_for(view: MatrixView, states: States) -> States:
    """Files scan transposed matrices one after the other, and so have no column of all of them for a trellis."""
    return States.FREE if view.is_transposed and view.groups > 1 else states


def _table_problem(calibration: Calibration, view: MatrixView, states: States) -> MatrixProblem | None:
    """Of a table in which rows are looked up: what all rows cost together is shared out by how often each occurs.

    Where it is multiplied by, too, as the head of a language model, the Hessian of a row is the sum of both: as often
    as a token is predicted, it comes next. None if it does not matter.
    """
    name = view.name
    table = Table(calibration.lookups[name], float(calibration.rows[name].sum()))
    moments = table.moments(calibration.inputs.get(name))
    if not moments.any():
        return None
    found = second_order.feedback(moments, calibration.positions[name])
    return MatrixProblem(view, found, _shares(calibration, name), states, table=table)


def _shares(calibration: Calibration, name: str) -> Tensor:
    """By how often rows of a table occur, what part each has of the costs of all, float64, (rows,).

    Models of language say what they expect; half of it is believed, since what stands at every beginning never comes
    next. Otherwise rows that were never looked up share what tells of them: as often as there are rows that were looked
    up once (Good-Turing). Shares are as a power below 1, so that what the data does not have is not lost: the lower,
    the less is known of it.
    """
    counts = calibration.counts[name].double()
    if name in calibration.expected:
        often = ((counts + calibration.expected[name]) / 2).clamp_min(_TINY) ** _POWER_EXPECTED
    else:
        unseen, once = int((counts == 0).sum()), int((counts == 1).sum())
        often = counts.clamp_min(min(_MOST_UNSEEN, max(once, 1) / max(unseen, 1))).sqrt()
    return often / often.sum()
