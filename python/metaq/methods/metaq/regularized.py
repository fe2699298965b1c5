"""METaQ at work on levels that the network sees: fixed or learned multiples of a step for each tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import UniformCodebook, short_step
from metaq.errors import InputError
from metaq.methods.base import BoundMethod
from metaq.methods.metaq.config import Final, LevelPlacement, METaQConfiguration, Objective
from metaq.methods.metaq.growing_steps import GrowingSteps
from metaq.methods.metaq.learned_steps import LearnedSteps
from metaq.methods.metaq.objectives import (
    BoundObjective,
    CodeLengthObjective,
    CountsObjective,
    PerspectiveObjective,
    View,
)
from metaq.methods.metaq.quantized_view import QuantizedView
from metaq.methods.schedule import factor_at, in_steps
from metaq.methods.size_control import Steered, cheapest, code_lengths, entropy_bytes, sampled, weights_of
from metaq.methods.training import Training

_OPEN_RADIUS, _SOLVED_RADIUS = 511, 63  # levels on either side of zero with slopes, where levels go on without end
_LARGEST_RADIUS = 1024  # that levels which are made finer may need, where they end
_MOST_FITS = 10  # times that all steps may be halved or doubled to fit a size that is asked for
_SPARE_BITS = 1.5  # of entropy a weight that levels may have beyond what a size needs; more than a doubling takes away
_RATE_WEIGHTS = 0.2, 0.1, 0.05, 0.025, 0.0125  # squared steps per bit that the final quantization tries, boldest first


class RegularizedTraining(BoundMethod):
    """What all of METaQ's forms have: a strength λ, a count of training steps, and an objective that gives β."""

    view: View

    def __init__(
        self, config: METaQConfiguration, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        super().__init__(parameters, training)
        self.config = config
        self.training_step = 0
        has_target = bool(config.size_target(training))
        self.schedule = () if has_target else in_steps(config.schedule, self.training_steps, "METaQ schedule")
        self.strength = config.strength_for(weights_of(self))
        self.is_last_phase = False
        self.objective = _objective(config)

    def present_strength(self) -> float:
        """λ in this training step."""
        return self.strength * factor_at(self.schedule, self.training_step)

    def is_due(self) -> bool:
        """Whether ξ are to be determined anew in this training step."""
        return self.training_step % self.config.refresh_every == 0

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "training_step": self.training_step,
            "is_last_phase": self.is_last_phase,
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.training_step, self.is_last_phase = state["training_step"], state["is_last_phase"]
        self.objective.load_state_dict(self.on_device(state["objective"]))


class BoundMETaQ(RegularizedTraining, Steered):
    """METaQ's state for one model whose forward passes see the levels."""

    works_on_shards = True
    works_on_differences = True

    view: QuantizedView

    def __init__(
        self, config: METaQConfiguration, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        super().__init__(config, parameters, training)
        self.has_refreshed = False  # whether ξ is already that of the present training step
        self.counts = torch.empty(0)  # of every parameter's symbols when they were counted last, (T, 2 * radius + 1)
        self.settled: list[Tensor] | None = None  # latent weights that the last step of training is not to change
        self.lengths = torch.empty(0)  # in bits, by which a rate-aware quantization chooses, in the same shape
        if config.objective is not Objective.CODELENGTH:
            self.ranks.refuse_shards("METaQ objective", "Objective.CODELENGTH, or whole parameters")
        tensors = list(self.parameters.values())
        self.growing: GrowingSteps | None = None
        self.has_given_steps = bool(training.level_distances)
        if self.has_given_steps and config.step:
            raise InputError(f"METaQ step of a difference: expected 0, as Difference.step is set, found {config.step}")
        if self.has_given_steps:
            steps = [short_step(training.level_distances[name]) for name in self.parameters]
        elif config.step:
            greatest = self.ranks.max(torch.stack([_greatest(tensor) for tensor in tensors])).tolist()
            steps = [short_step(config.step * most) for most in greatest]
        else:
            self.growing = GrowingSteps(tensors, config.start_error, self.training_steps, self.ranks)
            steps = self.growing.steps
        open_radius = _OPEN_RADIUS if config.objective is Objective.CODELENGTH else _SOLVED_RADIUS
        self.view = QuantizedView(tensors, steps, config.radius or open_radius, self.ranks, is_open=not config.radius)
        self.is_straight_through = True
        self.needs_validation_loss = config.final is Final.RATE
        is_learned = config.levels is LevelPlacement.LEARNED
        self.learned = LearnedSteps(self.view, config.step_learning_rate) if is_learned else None

    def present_strength(self) -> float:
        """λ in this training step."""
        return super().present_strength() if self.control is None else self.control.strength

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
        elif self.settled is not None and self.training_step == self.training_steps:
            torch._foreach_copy_(self.view.latent_weights(), self.settled)
            self.settled = None
        if not self.holds_file_weights or must_refresh:
            if must_refresh:
                self._refresh()
            else:
                self.view.put_quantized()
            self._versions = self._present_versions()

    def on_gradients(self) -> None:
        """Give the optimizer the latent weights, both gradients, and the steps' own where they are learned."""
        self.on_forward(True)
        if self.control is not None:
            self.control.on_gradients(self)
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

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """In the last phase, where asked for: take the boldest rate-aware quantization that validation allows."""
        if not self.is_last_phase or self.config.final is not Final.RATE:
            return
        self.restore_weights()
        allowed = validation_loss() * (1 + self.config.tolerance)
        self.begin_moves()
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
        super().on_last_phase()
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
            return codebook, self._cheapest(index, weights, self.rate_weight, self._pinned(index)).cpu()
        return codebook, self.view.symbols(index, weights).cpu()

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "counts": self.counts.tolist(),
            "settled": self.settled and self.ranks.spread(self.settled),
            "has_refreshed": self.has_refreshed,
            "radius": self.view.radius,
            "steps": self.view.steps,
            "growing": self.growing and self.growing.state_dict(),
            "learned": self.learned and self.learned.state_dict(),
            "pinned": self.ranks.spread(self.view.pinned or [_nowhere(tensor) for tensor in self.view.parameters]),
            "pinned_values": self.view.pinned_values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict({**state, "holds_file_weights": False})
        self.settled = state["settled"] and self.on_device(self.ranks.local(state["settled"]))
        self.counts, self.has_refreshed = torch.tensor(state["counts"]), state["has_refreshed"]
        self.view.steps, self.view.radius = list(state["steps"]), state["radius"]
        if self.growing is not None:
            self.growing.load_state_dict(state["growing"])
        if self.learned is not None:
            self.learned.load_state_dict(state["learned"])
        self.view.pinned_values = list(state["pinned_values"])
        self.view.pinned = self.on_device(self.ranks.local(state["pinned"])) if self.view.pinned_values else None
        self.view.load_shadow_weights(
            self.ranks.local(state["latent_weights"]) if state["holds_file_weights"] else None
        )

    def _refresh(self) -> None:
        """Put quantized weights into the parameters, on steps that have grown with them, and determine ξ."""
        self.counts = self._put_counted()
        growing = self._growing_now()
        while growing is not None and (steps := growing.grown(self.view.steps, self.counts)) != self.view.steps:
            self.view.put_latent()
            self.view.steps = steps
            if self.learned is not None:
                self.learned.adopt_steps()
            self.counts = self._put_counted()
        self.objective.refresh(self.view, self.counts)
        if self.growing is not None:
            self.objective.release(self.growing.free(self.training_step))
        self.has_refreshed = True

    def _growing_now(self) -> GrowingSteps | None:
        """The growth of the steps, unless they are settled, or are learned and have a scale to learn from."""
        if self.growing is None or self.is_last_phase:
            return None
        return self.growing if self.learned is None or self.training_step < self.growing.free_steps else None

    def _put_counted(self) -> Tensor:
        counts = self.view.put_quantized(count=True)
        assert counts is not None
        return counts

    # What a control of the size needs.

    def fit_levels(self, bits_per_weight: float) -> None:
        """Halve or double all steps until the weights' entropy is at least so much, and not much more.

        Steps that are a fraction of the largest weight are never doubled, and those of differences stay: somebody has
        chosen them.
        """
        if self.has_given_steps:
            return
        weights = weights_of(self)
        for _ in range(_MOST_FITS):
            entropy = 8 * entropy_bytes(self._counts_now()) / weights
            if entropy < bits_per_weight and (self.view.radius < _LARGEST_RADIUS or self.view.is_open):
                self._scale_steps(-1)
            elif entropy > bits_per_weight + _SPARE_BITS and self.growing is not None:
                self._scale_steps(1)
            else:
                break
        if self.learned is not None:
            self.learned = LearnedSteps(self.view, self.config.step_learning_rate)

    def _scale_steps(self, power: int) -> None:
        self.view.steps = [short_step(math.ldexp(step, power)) for step in self.view.steps]
        if self.growing is not None:
            self.growing.scale(power)
        if not self.view.is_open:
            self.view.radius *= 2

    def level_distances(self) -> list[float]:
        """The steps."""
        return self.view.steps

    def add_regularizer(self, strength: float) -> None:
        """Add λβ, at the present code lengths."""
        self.objective.add_gradients(self.view, strength)

    def coded_bytes(self) -> float:
        """The entropy of the symbols as they were counted last, or as `rate_weight` chooses them now."""
        if not self.rate_weight:
            return entropy_bytes(self.counts)
        rows = []
        for index, weights in enumerate(self.view.latent_weights()):
            pinned = None if self.view.pinned is None else sampled(self.view.pinned[index])
            sample = sampled(weights)
            radius = self.view.radius
            places = self._cheapest(index, sample, self.rate_weight, pinned).clamp_(-radius, radius).add_(radius)
            counts = places.bincount(minlength=2 * radius + 1)
            rows.append(counts * (weights.numel() / max(1, sample.numel())))
        return entropy_bytes(self.ranks.sum(torch.stack(rows)))

    def begin_moves(self) -> None:
        """Count the symbols, which give the code lengths."""
        self.restore_weights()
        self.counts = self._counts_now()
        self.lengths = code_lengths(self.counts)

    def move_weights(self, rate_weight: float) -> None:
        """Put the latent weights on the levels that ``rate_weight`` chooses; those pinned stay."""
        self._move(rate_weight)

    def settle(self) -> None:
        """The weights that training ends with, which the last step of the optimizer is not to change."""
        self.settled = [latent.clone() for latent in self.view.latent_weights()]

    def _move(self, rate_weight: float) -> None:
        self.restore_weights()
        for index, latent in enumerate(self.view.latent_weights()):
            self.view.move(index, self._cheapest(index, latent, rate_weight, self._pinned(index)))
        self.has_refreshed = False

    def _pinned(self, index: int) -> Tensor | None:
        return None if self.view.pinned is None else self.view.pinned[index]

    def _cheapest(self, index: int, weights: Tensor, rate_weight: float, pinned: Tensor | None) -> Tensor:
        """Rate-aware symbols of a parameter's weights, int32; pinned ones, and those without a level here, stay."""
        radius, step = self.view.radius, self.view.steps[index]
        places = torch.arange(-radius, radius + 1, device=weights.device)
        price = self.control.prices[index] if self.control and self.control.prices else 1.0
        chosen = cheapest(weights / step, places, self.lengths[index], price * rate_weight).sub_(radius)
        present = self.view.symbols(index, weights)
        stays = present.abs() > radius  # so far out that it has no code length
        return torch.where(stays if pinned is None else stays | pinned, present, chosen)

    def _counts_now(self) -> Tensor:
        self.restore_weights()
        counts = self._put_counted()
        self.view.put_latent()
        return counts

    def _pin_commonest(self) -> None:
        self.view.pin_commonest()
        self.has_refreshed = False

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
