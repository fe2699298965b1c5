"""METaQ as published: float training towards C levels around w̄ for the whole network, bucket centres at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest, values
from metaq.codebook import TableCodebook
from metaq.methods.metaq.float_view import FloatView
from metaq.methods.metaq.method import METaQ
from metaq.methods.metaq.regularized import RegularizedTraining
from metaq.methods.shown import TrainedInFloat

# C_Q that the search tries, each about a tenth above the last.
_CANDIDATES = sorted({round(4 * 1.1**power) for power in range(60)})


class BoundAroundMean(RegularizedTraining, TrainedInFloat):
    """METaQ's state for one model that trains in float."""

    view: FloatView

    def __init__(self, config: METaQ, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__(config, parameters)
        options, tensors = config.around_mean, list(self.parameters.values())
        centre, reach = options.centre, options.reach
        if not reach:
            weights = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
            centre = float(weights.mean())
            reach = float((weights - centre).abs().max()) or 1.0
        self.centre, self.reach = centre, reach
        self.buckets = options.buckets or _CANDIDATES[-1]
        self.view = FloatView(tensors, centre, reach, options.count)

    def on_forward(self, is_training: bool) -> None:
        """Training sees the float weights, evaluation those of the file."""
        if is_training:
            self.undo_forward()
        elif self.shown.own is None:
            quantized = {name: self.quantize(name, tensor.detach()) for name, tensor in self.parameters.items()}
            self.shown.show({name: values(symbols, codebook) for name, (codebook, symbols) in quantized.items()})

    def take_back(self, strength: float) -> None:
        """Determine ξ where it is due, and add the gradient."""
        if self.is_due():
            self.objective.refresh(self.view, self.view.counts())
        self.objective.take_back(self.view, strength)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """In the last phase, where asked for: the fewest buckets that validation allows."""
        if not self.is_last_phase or self.config.around_mean.buckets:
            return
        allowed = self._loss_with(_CANDIDATES[-1], validation_loss) * (1 + self.config.tolerance)
        for buckets in _CANDIDATES:
            if self._loss_with(buckets, validation_loss) <= allowed:
                break

    def on_last_phase(self) -> None:
        """From here on every epoch ends with a search for C_Q."""
        self.is_last_phase = True

    def quantize(self, name: str, weights: Tensor) -> tuple[TableCodebook, Tensor]:
        """Every weight at the centre of its bucket; those outside [w̄ - r, w̄ + r] in the first or the last."""
        own = weights if self.shown.own is None else self.shown.own[name]
        codebook = self._codebook()
        return codebook, nearest(own.cpu(), codebook)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer; between two training steps there is no more."""
        levels = {"centre": self.centre, "reach": self.reach, "buckets": self.buckets}
        return super().state_dict() | levels | {"own": self.shown.own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.centre, self.reach, self.buckets = state["centre"], state["reach"], state["buckets"]
        self.view = FloatView(self.view.parameters, self.centre, self.reach, self.view.count)
        self.shown.own = state["own"]

    def _loss_with(self, buckets: int, validation_loss: Callable[[], float]) -> float:
        self.undo_forward()
        self.buckets = buckets
        return validation_loss()

    def _codebook(self) -> TableCodebook:
        """The buckets' centres, w̄ - r + (b + 1/2) · 2r / C_Q."""
        places = (torch.arange(self.buckets, dtype=torch.float64) + 0.5) / self.buckets
        return TableCodebook.around_zero(self.centre - self.reach + 2 * self.reach * places)
