"""METaQ at work on levels that the network sees: fixed or learned multiples of a step for each tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import UniformCodebook, short_step
from metaq.methods.base import BoundMethod
from metaq.methods.metaq.learned_steps import LearnedSteps
from metaq.methods.metaq.method import Final, Levels, METaQ, Objective
from metaq.methods.metaq.objectives import (
    BoundObjective,
    CodeLengthObjective,
    CountsObjective,
    PerspectiveObjective,
    View,
    code_lengths,
)
from metaq.methods.metaq.quantized_view import QuantizedView
from metaq.methods.schedule import factor_at
from metaq.solvers import knapsack

_MEASURE_EVERY = 50  # training steps between two measurements of the file
# Steering: the strength is multiplied by a power of the ratio of the size to what it should be, for good, and by
# another until the next measurement, which answers at once and damps what the first alone would overshoot.
_LASTING_GAIN, _PASSING_GAIN = 0.2, 2.0
_LAST_PASSING_GAIN = 50.0  # in the last phase, where hardly anything but less of a pull keeps a file from shrinking
_LARGEST_PASSING = 4.0
_AIM_ABOVE = 1.03  # of the target: in the last phase weights easily become cheaper, and hardly dearer
_RATE_WEIGHTS = 0.2, 0.1, 0.05, 0.025, 0.0125  # squared steps per bit that the final quantization tries, boldest first
_FIRST_RATE_WEIGHT, _LAST_RATE_WEIGHT = 2.0**-10, 2.0**10
_BISECTIONS = 8


class RegularizedTraining(BoundMethod):
    """What METaQ does wherever its levels are: determine ξ now and then, add λβ in every training step."""

    view: View

    def __init__(self, config: METaQ, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__(parameters)
        self.config = config
        self.training_step = 0
        self.strength = config.strength
        self.passing_factor = 1.0  # of the strength, until the file is measured again
        self.is_last_phase = False
        self.objective = _objective(config)

    def on_gradients(self) -> None:
        """Give the optimizer its weights back and add strength·β to their gradients."""
        self.on_forward(True)
        self.take_back(self.strength * self.passing_factor * factor_at(self.config.schedule, self.training_step))
        self.training_step += 1

    @abstractmethod
    def take_back(self, strength: float) -> None:
        """The latter of `on_gradients`."""

    def is_due(self) -> bool:
        """Whether ξ are to be determined anew in this training step."""
        return self.training_step % self.config.refresh_every == 0

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer; between two training steps there is no more."""
        return {
            "training_step": self.training_step,
            "strength": self.strength,
            "passing_factor": self.passing_factor,
            "is_last_phase": self.is_last_phase,
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.training_step, self.strength = state["training_step"], state["strength"]
        self.passing_factor, self.is_last_phase = state["passing_factor"], state["is_last_phase"]
        self.objective.load_state_dict(self.here(state["objective"]))


class BoundMETaQ(RegularizedTraining):
    """METaQ's state for one model whose forward passes see the levels."""

    view: QuantizedView

    def __init__(self, config: METaQ, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        super().__init__(config, parameters)
        self.measure_every = _MEASURE_EVERY if config.target_bytes else 0
        self.first_bytes = 0
        self.rate_weight = 0.0  # of a final quantization that is being tried
        self.lengths = torch.empty(0)  # the code lengths that it uses, (T, 2 * radius + 1)
        tensors = list(self.parameters.values())
        steps = [short_step(config.step * float(tensor.detach().abs().max())) for tensor in tensors]
        self.view = QuantizedView(tensors, steps, config.radius)
        is_learned = config.levels is Levels.LEARNED
        self.learned = LearnedSteps(self.view, config.step_learning_rate) if is_learned else None

    def on_forward(self, is_training: bool) -> None:
        """Show the model quantized weights; straight through, their gradients go to the latent ones."""
        if not self.view.is_shown:
            counts = self.view.show(count=self.is_due())
            if counts is not None:
                self.objective.refresh(self.view, counts)

    def undo_forward(self) -> None:
        """Give the optimizer its weights back."""
        self.view.hide()

    def take_back(self, strength: float) -> None:
        """Both gradients, and the steps' own where they are learned."""
        learned = None if self.is_last_phase else self.learned
        if learned is not None:
            learned.on_loss_gradients()
        self.objective.take_back(self.view, strength)
        if learned is not None:
            learned.on_all_gradients()

    def on_size(self, measure: Callable[[], int]) -> None:
        """Steer the strength: up where the file is larger than it should be by now, down where it is smaller.

        In the last phase, where it is too large, weights move to cheaper levels at once.
        """
        size_bytes, target = measure(), self.config.target_bytes * (1.0 if self.is_last_phase else _AIM_ABOVE)
        self.first_bytes = self.first_bytes or size_bytes
        way = min(1.0, self.training_step / self.config.target_steps)
        ratio = size_bytes / (self.first_bytes * (target / self.first_bytes) ** way)
        self.strength *= ratio**_LASTING_GAIN
        if self.is_last_phase:
            self.passing_factor = min(ratio**_LAST_PASSING_GAIN, 1.0)
        else:
            self.passing_factor = min(max(ratio**_PASSING_GAIN, 1 / _LARGEST_PASSING), _LARGEST_PASSING)
        if self.is_last_phase and size_bytes > target:
            self._shrink(measure)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """In the last phase, where asked for: the boldest rate-aware quantization that validation allows."""
        if not self.is_last_phase or self.config.final is not Final.RATE:
            return
        self.view.hide()
        allowed = validation_loss() * (1 + self.config.tolerance)
        before = [parameter.detach().clone() for parameter in self.view.parameters]
        self._count()
        for rate_weight in _RATE_WEIGHTS:
            self._move(rate_weight)
            if validation_loss() <= allowed:
                self.view.hide()
                self.view.pin_commonest()
                break
            self.view.hide()
            torch._foreach_copy_([parameter.detach() for parameter in self.view.parameters], before)

    def on_last_phase(self) -> None:
        """Weights at their tensor's commonest level, nearly always zero, stay there; the others train on."""
        self.is_last_phase = True
        if self.learned is not None:
            self.view.hide()
            self.view.steps = [short_step(step) for step in self.view.steps]
        self.view.pin_commonest()

    def quantize(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of the parameter's step within the radius: what the forward pass has been seeing."""
        index = list(self.parameters).index(name)
        codebook = UniformCodebook(self.view.steps[index])
        if self.rate_weight:
            latent = self.view.latent_weights()[index] / codebook.step
            return codebook, cheapest(latent, self.lengths[index], self.rate_weight).cpu()
        return codebook, nearest(weights.cpu(), codebook).clamp_(-self.config.radius, self.config.radius)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer; between two training steps there is no more."""
        return super().state_dict() | {
            "first_bytes": self.first_bytes,
            "latents": self.view.latents,
            "steps": self.view.steps,
            "learned": self.learned and self.learned.state_dict(),
            "pinned": self.view.pinned,
            "pinned_values": self.view.pinned_values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.first_bytes = state["first_bytes"]
        self.view.steps = list(state["steps"])
        if self.learned is not None:
            self.learned.load_state_dict(state["learned"])
        self.view.pinned, self.view.pinned_values = self.here(state["pinned"]), state["pinned_values"]
        self.view.restore(state["latents"])

    def _shrink(self, measure: Callable[[], int]) -> None:
        """Move weights to cheaper levels, as few bits as possible beyond those that the target asks for."""
        self._count()
        low, high = 0.0, _FIRST_RATE_WEIGHT
        while self._size_at(high, measure) > self.config.target_bytes and high < _LAST_RATE_WEIGHT:
            low, high = high, 4 * high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._size_at(middle, measure) <= self.config.target_bytes else (middle, high)
        self._move(high)
        self.view.pin_commonest()

    def _size_at(self, rate_weight: float, measure: Callable[[], int]) -> int:
        self.rate_weight = rate_weight
        size_bytes = measure()
        self.rate_weight = 0.0
        return size_bytes

    def _move(self, rate_weight: float) -> None:
        """Put the latent weights on the levels of a rate-aware quantization, at the code lengths of the last count."""
        self.view.hide()
        for index, (latent, step) in enumerate(zip(self.view.latent_weights(), self.view.steps, strict=True)):
            self.view.move(index, cheapest(latent / step, self.lengths[index], rate_weight))

    def _count(self) -> None:
        self.view.hide()
        counts = self.view.show(count=True)
        self.view.hide()
        assert counts is not None
        self.lengths = code_lengths(counts)


def _objective(config: METaQ) -> BoundObjective:
    if config.objective is Objective.COUNTS:
        return CountsObjective(config.slopes, config.counts)
    if config.objective is Objective.PERSPECTIVE:
        return PerspectiveObjective(config.perspective)
    return CodeLengthObjective(config.slopes)


def cheapest(weights: Tensor, lengths: Tensor, rate_weight: float) -> Tensor:
    """Rate-aware symbols: ``argmin_b (w - b)² + rate_weight · ξ_b`` for each weight, entropy-constrained quantization.

    Since (w - b)² is w² and a line in w, the least of them over b is w² less twice the lower hull's conjugate: with the
    hull of the points (b, b² + rate_weight · ξ_b), the level for w is where the hull's slope passes 2w. O(C + n).

    Args:
        weights: any shape, in units of the step.
        lengths: (2R + 1,) code lengths ξ of the levels -R ... R, in bits.
        rate_weight: squared steps that a bit is worth.

    Returns:
        int32 symbols in the weights' shape, at most R either way.
    """
    radius = len(lengths) // 2
    places = torch.arange(-radius, radius + 1, dtype=torch.float64, device=weights.device)
    edges = knapsack.hull((places.square() + rate_weight * lengths.to(torch.float64))[None], places)
    passed = torch.searchsorted(edges.slope[0], 2 * weights.detach().to(torch.float64))
    return (passed - radius).to(torch.int32)
