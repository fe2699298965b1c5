"""A compressor in somebody else's training loop: what the callbacks for all trainers do with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from metaq.api import save
from metaq.binding.selection import Methods
from metaq.coding import suitable
from metaq.compressed_model import CompressedModel, encode
from metaq.compressor import Compressor
from metaq.errors import InputError
from metaq.integrations.whole_states import gathered_state, spread_state

MEASUREMENTS = 20
"""How often a training is measured unless it says: often enough for a curve, and rarely enough to cost little."""

STEPS_BETWEEN_MEASUREMENTS = 500
"""The same for one whose length is not known."""


class TrainingSession:
    """Binds a method when a trainer begins, measures now and then, writes files, and lets go of the model at the end.

    Args:
        method: as of `Compressor`.
        measure_every: steps of the optimizer between two measurements; by default a twentieth of the training, and 500
            steps where its length is not known.
        validation_loss: of the model that it is given, which is in evaluation mode. Methods that prune call it at the
            end of an epoch; of several ranks the mean counts.
    """

    def __init__(
        self,
        method: Methods,
        measure_every: int | None = None,
        validation_loss: Callable[[nn.Module], float] | None = None,
    ) -> None:
        if measure_every is not None and measure_every < 1:
            raise InputError(f"measure_every: expected at least 1 step, found {measure_every}")
        self.method = method
        self.coder = ""  # that suits the model's size
        self.ended_epochs = 0
        self._measure_every = measure_every
        self._validation_loss = validation_loss
        self._measures: dict[str, float] = {}
        self._measured_at = 0
        self._compressor: Compressor | None = None

    @property
    def is_bound(self) -> bool:
        """Whether training has begun and not ended."""
        return self._compressor is not None

    @property
    def compressor(self) -> Compressor:
        """The compressor.

        Raises:
            InputError: there is none, since the trainer has not said that training begins.
        """
        if self._compressor is None:
            raise InputError("MetaqCallback: expected a training that has begun and not ended, found none")
        return self._compressor

    def begin(self, model: nn.Module, optimizer: Any, training_steps: int | None) -> None:
        """Bind the method to the model.

        Raises:
            InputError: what `Compressor` refuses, or a method that prunes by a validation loss that it was not given.
        """
        self.abandon()
        self.coder = suitable(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
        compressor = Compressor(model, self.method, optimizer, training_steps, encode=partial(encode, coder=self.coder))
        if compressor.bound.needs_validation_loss and self._validation_loss is None:
            compressor.detach()
            raise InputError(
                f"method: expected one without a validation loss, found {type(self.method).__name__}, which prunes by"
                " it; give MetaqCallback(..., validation_loss=...), a function of the model"
            )
        self._compressor = compressor
        self._measures = {}
        self.ended_epochs = 0
        self._interval = self._measure_every or _interval(training_steps)

    def measures(self) -> dict[str, float]:
        """The last measurement, which is made anew if it is old: ``size_bytes``, ``bits_per_weight``, ``entropy``."""
        step = self.compressor.training_step
        if not self._measures or step - self._measured_at >= self._interval:
            self._measures = dict(self.compressor.measure())
            self._measured_at = step
        return self._measures

    def end_epoch(self) -> None:
        """Let the method decide what it decides at the end of an epoch."""
        self.compressor.end_epoch(self._loss)
        self.ended_epochs += 1

    def write(self, path: str | os.PathLike[str], compressed: CompressedModel) -> int:
        """Write a file; returns its size in bytes."""
        return save(compressed, path, self.coder)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides model and optimizer, with whole tensors; all ranks call it together."""
        return {"compressor": gathered_state(self.compressor.state_dict()), "ended_epochs": self.ended_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, after `begin`."""
        self.compressor.load_state_dict(spread_state(state["compressor"], self.compressor.model))
        self.ended_epochs = state["ended_epochs"]

    def finish(self) -> None:
        """Leave the model with the weights of the file, and without hooks."""
        self.compressor.detach()
        self._compressor = None

    def abandon(self) -> None:
        """Leave the model with its latent weights, and without hooks, where a training has broken off."""
        if self._compressor is None:
            return
        compressor, self._compressor = self._compressor, None
        with compressor.latent_weights():
            latents = [parameter.detach().clone() for parameter in compressor.model.parameters()]
        compressor.detach()
        with torch.no_grad():
            for parameter, latent in zip(compressor.model.parameters(), latents, strict=True):
                parameter.copy_(latent)

    def _loss(self) -> float:
        model = self.compressor.model
        was_training = model.training
        assert self._validation_loss is not None
        try:
            with torch.no_grad():
                return float(self._validation_loss(model.eval()))
        finally:
            model.train(was_training)


def _interval(training_steps: int | None) -> int:
    return max(training_steps // MEASUREMENTS, 1) if training_steps else STEPS_BETWEEN_MEASUREMENTS
