"""METaQ as published: float training towards C levels around w̄ for the whole network, bucket centres at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import TableCodebook
from metaq.methods.metaq.config import METaQConfiguration
from metaq.methods.metaq.float_view import FloatView
from metaq.methods.metaq.regularized import RegularizedTraining
from metaq.methods.training import Training

# C_Q that the search tries, each about a tenth above the last.
_CANDIDATES = sorted({round(4 * 1.1**power) for power in range(60)})


class BoundAroundMean(RegularizedTraining):
    """METaQ's state for one model that trains in float."""

    view: FloatView

    def __init__(
        self, config: METaQConfiguration, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        super().__init__(config, parameters, training)
        options, tensors = config.around_mean, list(self.parameters.values())
        self.needs_validation_loss = not options.buckets
        centre, reach = options.centre, options.reach
        if not reach:
            weights = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
            centre = float(weights.mean())
            reach = float((weights - centre).abs().max()) or 1.0
        self.centre, self.reach = centre, reach
        self.buckets = options.buckets or _CANDIDATES[-1]
        self.view = FloatView(tensors, centre, reach, options.count)

    def adjust_gradients(self) -> None:
        """Determine ξ where it is due, and add strength·β."""
        if self.is_due():
            self.objective.refresh(self.view, self.view.counts())
        self.objective.add_gradients(self.view, self.present_strength())
        self.training_step += 1

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """In the last phase, where asked for: take the fewest buckets that the validation loss allows."""
        if not self.is_last_phase or self.config.around_mean.buckets:
            return
        allowed = self._loss_with(_CANDIDATES[-1], validation_loss) * (1 + self.config.tolerance)
        for buckets in _CANDIDATES:
            if self._loss_with(buckets, validation_loss) <= allowed:
                break

    def on_last_phase(self) -> None:
        """From here on every epoch ends with a search for C_Q."""
        self.is_last_phase = True

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[TableCodebook, Tensor]:
        """Every weight at the centre of its bucket; those outside [w̄ - r, w̄ + r] in the first or the last."""
        codebook = self._codebook()
        return codebook, nearest(weights.cpu(), codebook)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {"centre": self.centre, "reach": self.reach, "buckets": self.buckets}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.centre, self.reach, self.buckets = state["centre"], state["reach"], state["buckets"]
        self.view = FloatView(self.view.parameters, self.centre, self.reach, self.view.count)

    def _loss_with(self, buckets: int, validation_loss: Callable[[], float]) -> float:
        self.restore_weights()
        self.buckets = buckets
        return validation_loss()

    def _codebook(self) -> TableCodebook:
        """The buckets' centres, w̄ - r + (b + 1/2) · 2r / C_Q."""
        places = (torch.arange(self.buckets, dtype=torch.float64) + 0.5) / self.buckets
        return TableCodebook.around_zero(self.centre - self.reach + 2 * self.reach * places)
