"""Steps from an error, which grow with their tensors.

At binding a tensor's mean square is m² steps². Whenever it has come to 4^k times that, the step is doubled k times: so
a step never is a smaller share of its tensor's weights than half of what `start_error` allowed, however far training
leads the weights. Steps never shrink, since a tensor that goes to zero is what is wanted.

A tensor that begins at zero, or far below what its fan-in lets expect, has no scale yet. Its step begins tiny, so that
the network sees its weights nearly in float, and doubles as they grow; and for the first part of training the
regulariser leaves it alone, for a pull of some bits a step would keep weights from ever leaving steps so small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import short_step_below
from metaq.methods.metaq.quantized_view import MOST_REACH
from metaq.methods.training import Ranks
from metaq.solvers import start_steps

_NEW_SHARE = 2.0**-7  # of 1 / √fan-in, below which a tensor's root mean square says that it has no scale yet
_FIRST_SHARE = 2.0**-20  # of 1 / √fan-in, the first step of a tensor of zeros
_FREE_SHARE, _FREE_STEPS = 0.1, 200  # of a training, or training steps where its length is unknown


class GrowingSteps:
    """The steps of some tensors, one for each.

    Args:
        tensors: float32, finite; shards of tensors where ``ranks`` share them.
        error: the share of the weights' energy that rounding to multiples of the steps may cost, `METaQ.start_error`.
        training_steps: the training's length, 0 where it is unknown.

    Attributes:
        steps: those to begin with, positive.
    """

    def __init__(self, tensors: Sequence[Tensor], error: float, training_steps: int, ranks: Ranks) -> None:
        histograms = ranks.sum(torch.stack([start_steps.magnitude_histogram(tensor) for tensor in tensors])).cpu()
        scales = start_steps.root_mean_squares(histograms)
        expected = torch.tensor([1 / math.sqrt(_fan_in(tensor)) for tensor in tensors], dtype=torch.float64)
        found = start_steps.common_slope_steps(histograms, error)
        steps = torch.where(scales > 0, found, _FIRST_SHARE * expected)
        least = start_steps.largest_magnitudes(histograms) / (MOST_REACH / 2)
        self.steps = [short_step_below(step) for step in torch.maximum(steps, least).tolist()]
        # In steps²; that of zeros is what one tensor's at this error would be.
        squares = (scales / torch.tensor(self.steps, dtype=torch.float64)).square()
        self.mean_squares = torch.where(scales > 0, squares, 1 / (12 * error))
        self.is_new = (scales < _NEW_SHARE * expected).tolist()
        self.free_steps = round(_FREE_SHARE * training_steps) if training_steps else _FREE_STEPS

    def grown(self, steps: Sequence[float], counts: Tensor) -> list[float]:
        """The steps, doubled where the weights have doubled.

        Args:
            steps: the present ones.
            counts: int64 (T, 2R + 1), how often each tensor has the symbols -R ... R.
        """
        counts = counts.cpu()
        radius = counts.shape[1] // 2
        squares = torch.arange(-radius, radius + 1).square()
        means = (counts * squares).sum(dim=1) / counts.sum(dim=1).clamp(min=1).to(torch.float64)
        doublings = (means / self.mean_squares).clamp(min=1).log2().div(2).floor()
        return [math.ldexp(step, int(times)) for step, times in zip(steps, doublings.tolist(), strict=True)]

    def scale(self, power: int) -> None:
        """Say that somebody has multiplied all steps by ``2**power``."""
        self.mean_squares = self.mean_squares * 4.0**-power

    def free(self, training_step: int) -> list[int]:
        """The tensors that the regulariser is to leave alone in this training step."""
        return [index for index, is_new in enumerate(self.is_new) if is_new and training_step < self.free_steps]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly as before."""
        return {"mean_squares": self.mean_squares, "is_new": self.is_new}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.mean_squares, self.is_new = state["mean_squares"].cpu(), list(state["is_new"])


def _fan_in(tensor: Tensor) -> int:
    """Inputs of each output of a matrix or filter; 1 for vectors and scalars."""
    return max(1, math.prod(tensor.shape[1:]))
