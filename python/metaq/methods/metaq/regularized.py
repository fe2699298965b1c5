"""METaQ at work on levels that the network sees: fixed or learned multiples of a step for each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import UniformCodebook, short_step
from metaq.methods.base import BoundMethod
from metaq.methods.metaq.config import Final, LevelPlacement, METaQConfiguration, Objective
from metaq.methods.metaq.learned_steps import LearnedSteps
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
from metaq.methods.training import Training
from metaq.solvers import knapsack

_MEASURE_EVERY = 50  # training steps between two measurements of the file
_LEFT_IN_HUNDRED = 0.5  # share of the size that 100 training steps leave on the way to a target without target_steps
# Steering multiplies the strength by two powers of the ratio of the file's size to what it should be by now. The first
# factor is for good; the second lasts until the next measurement, acts at once, and damps what the first alone would
# overshoot.
_LASTING_GAIN, _PASSING_GAIN = 0.2, 2.0
_LAST_PASSING_GAIN = 50.0  # the second power in the last phase, where only a weaker pull keeps a file from shrinking
_LARGEST_PASSING = 4.0
_AIM_ABOVE = 1.03  # times the target is the aim before the last phase, in which files easily shrink and hardly grow
_RATE_WEIGHTS = 0.2, 0.1, 0.05, 0.025, 0.0125  # squared steps per bit that the final quantization tries, boldest first
_FIRST_RATE_WEIGHT, _LAST_RATE_WEIGHT = 2.0**-10, 2.0**10
_BISECTIONS = 8


class RegularizedTraining(BoundMethod):
    """What all of METaQ's forms have: a strength λ, a count of training steps, and an objective that gives β."""

    view: View

    def __init__(
        self, config: METaQConfiguration, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        super().__init__(parameters, training)
        self.config = config
        self.training_step = 0
        self.strength = config.strength
        self.passing_factor = 1.0  # of the strength, until the file is measured again
        self.is_last_phase = False
        self.objective = _objective(config)

    def present_strength(self) -> float:
        """λ in this training step."""
        return self.strength * self.passing_factor * factor_at(self.config.schedule, self.training_step)

    def is_due(self) -> bool:
        """Whether ξ are to be determined anew in this training step."""
        return self.training_step % self.config.refresh_every == 0

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "training_step": self.training_step,
            "strength": self.strength,
            "passing_factor": self.passing_factor,
            "is_last_phase": self.is_last_phase,
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.training_step, self.strength = state["training_step"], state["strength"]
        self.passing_factor, self.is_last_phase = state["passing_factor"], state["is_last_phase"]
        self.objective.load_state_dict(self.on_device(state["objective"]))


class BoundMETaQ(RegularizedTraining):
    """METaQ's state for one model whose forward passes see the levels."""

    works_on_shards = True

    view: QuantizedView

    def __init__(
        self, config: METaQConfiguration, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        super().__init__(config, parameters, training)
        self.measure_every = _MEASURE_EVERY if config.target_bytes else 0
        self.first_bytes = 0  # size of the file when it was measured first, 0 before
        self.has_refreshed = False  # whether ξ is already that of the present training step
        self.rate_weight = 0.0  # squared steps per bit in a final quantization that is being tried, 0 otherwise
        self.lengths = torch.empty(0)  # the code lengths in bits that it uses, (T, 2 * radius + 1)
        if config.objective is not Objective.CODELENGTH:
            self.ranks.refuse_shards("METaQ objective", "Objective.CODELENGTH, or whole parameters")
        tensors = list(self.parameters.values())
        greatest = self.ranks.max(torch.stack([_greatest(tensor) for tensor in tensors])).tolist()
        steps = [short_step(config.step * most) for most in greatest]
        self.view = QuantizedView(tensors, steps, config.radius, self.ranks)
        self.is_straight_through = True
        is_learned = config.levels is LevelPlacement.LEARNED
        self.learned = LearnedSteps(self.view, config.step_learning_rate) if is_learned else None

    @property
    def holds_file_weights(self) -> bool:
        """Whether the parameters hold the quantized weights now."""
        return self.view.holds_quantized

    def on_forward(self, is_training: bool) -> None:
        """Put quantized weights into the parameters; in training determine ξ where it is due.

        Evaluation leaves ξ alone: training is to go on as if there had been none.
        """
        must_refresh = is_training and self.is_due() and not self.has_refreshed
        if self.holds_file_weights:
            self.check_unchanged()
        if not self.holds_file_weights or must_refresh:
            counts = self.view.put_quantized(count=must_refresh)
            self._versions = self._present_versions()
            if counts is not None:
                self.objective.refresh(self.view, counts)
                self.has_refreshed = True

    def on_gradients(self) -> None:
        """Give the optimizer the latent weights, both gradients, and the steps' own where they are learned."""
        self.on_forward(True)
        learned = None if self.is_last_phase else self.learned
        if learned is not None:
            learned.on_loss_gradients()
        self.objective.add_gradients(self.view, self.present_strength())
        if learned is not None:
            learned.on_all_gradients()
        self.training_step += 1
        self.has_refreshed = False

    def latent_weights(self, name: str) -> Tensor:
        """The weights of a parameter that the optimizer trains."""
        return self.view.latent_weights()[self._index(name)]

    def restore_weights(self) -> None:
        """Put the latent weights back into the parameters."""
        if self.holds_file_weights:
            self.check_unchanged()
        self.view.put_latent()

    def adopt_weights(self) -> None:
        """Take what the parameters hold now for the latent weights."""
        self.view.shadow_weights = None
        self.has_refreshed = False

    def on_size(self, measure: Callable[[], int]) -> None:
        """Steer the strength: up where the file is larger than it should be by now, down where it is smaller.

        In the last phase, where it is too large, weights move to cheaper levels at once.
        """
        size_bytes, target = measure(), self.config.target_bytes * (1.0 if self.is_last_phase else _AIM_ABOVE)
        self.first_bytes = self.first_bytes or size_bytes
        way = min(1.0, self.training_step / self._target_steps())
        ratio = size_bytes / (self.first_bytes * (target / self.first_bytes) ** way)
        self.strength *= ratio**_LASTING_GAIN
        if self.is_last_phase:
            self.passing_factor = min(ratio**_LAST_PASSING_GAIN, 1.0)
        else:
            self.passing_factor = min(max(ratio**_PASSING_GAIN, 1 / _LARGEST_PASSING), _LARGEST_PASSING)
        if self.is_last_phase and size_bytes > target:
            self._shrink(measure)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """In the last phase, where asked for: take the boldest rate-aware quantization that validation allows."""
        if not self.is_last_phase or self.config.final is not Final.RATE:
            return
        self.restore_weights()
        allowed = validation_loss() * (1 + self.config.tolerance)
        self._count()
        before = [latent.clone() for latent in self.view.latent_weights()]
        for rate_weight in _RATE_WEIGHTS:
            self._move(rate_weight)
            loss = validation_loss()
            self.restore_weights()
            if loss <= allowed:
                self._pin_commonest()
                break
            torch._foreach_copy_(self.view.latent_weights(), before)

    def on_last_phase(self) -> None:
        """Weights at their tensor's commonest level, nearly always zero, stay there; the others train on."""
        self.is_last_phase = True
        self.restore_weights()
        if self.learned is not None:
            self.view.steps = [short_step(step) for step in self.view.steps]
        self._pin_commonest()

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[UniformCodebook, Tensor]:
        """Nearest multiple of the parameter's step within the radius: what the forward pass has been seeing."""
        index = self._index(name)
        codebook = UniformCodebook(self.view.steps[index])
        if self.rate_weight:
            return codebook, cheapest(weights / codebook.step, self.lengths[index], self.rate_weight).cpu()
        return codebook, self.view.symbols(index, weights).cpu()

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "first_bytes": self.first_bytes,
            "has_refreshed": self.has_refreshed,
            "steps": self.view.steps,
            "learned": self.learned and self.learned.state_dict(),
            "pinned": self.ranks.spread(self.view.pinned or [_nowhere(tensor) for tensor in self.view.parameters]),
            "pinned_values": self.view.pinned_values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict({**state, "holds_file_weights": False})
        self.first_bytes, self.has_refreshed = state["first_bytes"], state["has_refreshed"]
        self.view.steps = list(state["steps"])
        if self.learned is not None:
            self.learned.load_state_dict(state["learned"])
        self.view.pinned_values = list(state["pinned_values"])
        self.view.pinned = self.on_device(self.ranks.local(state["pinned"])) if self.view.pinned_values else None
        self.view.load_shadow_weights(
            self.ranks.local(state["latent_weights"]) if state["holds_file_weights"] else None
        )

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
        self._pin_commonest()

    def _size_at(self, rate_weight: float, measure: Callable[[], int]) -> int:
        self.rate_weight = rate_weight
        size_bytes = measure()
        self.rate_weight = 0.0
        return size_bytes

    def _move(self, rate_weight: float) -> None:
        """Put the latent weights on the levels of a rate-aware quantization, at the code lengths of the last count."""
        self.restore_weights()
        for index, (latent, step) in enumerate(zip(self.view.latent_weights(), self.view.steps, strict=True)):
            self.view.move(index, cheapest(latent / step, self.lengths[index], rate_weight))
        self.has_refreshed = False

    def _pin_commonest(self) -> None:
        self.view.pin_commonest()
        self.has_refreshed = False

    def _count(self) -> None:
        self.restore_weights()
        counts = self.view.put_quantized(count=True)
        self.view.put_latent()
        assert counts is not None
        self.lengths = code_lengths(counts)

    def _target_steps(self) -> float:
        """Training steps in which the size comes down to the target."""
        if self.config.target_steps:
            return self.config.target_steps
        return max(1.0, 100 * math.log(self.config.target_bytes / self.first_bytes, _LEFT_IN_HUNDRED))

    def _index(self, name: str) -> int:
        return list(self.parameters).index(name)


def _greatest(tensor: Tensor) -> Tensor:
    return tensor.detach().abs().max() if tensor.numel() else tensor.new_zeros(())


def _nowhere(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=torch.bool, requires_grad=False)


def _objective(config: METaQConfiguration) -> BoundObjective:
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
