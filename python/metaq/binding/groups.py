"""Several methods on one model, each with parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from metaq.codebook import Codebook
from metaq.methods.base import BoundMethod
from metaq.methods.training import Training


class BoundGroups(BoundMethod):
    """The bound methods of a model as one: every hook is that of each, in turn."""

    works_on_shards = True

    def __init__(self, members: Sequence[BoundMethod], training: Training) -> None:
        super().__init__({name: p for member in members for name, p in member.parameters.items()}, training)
        self.members = list(members)
        self._members = {name: member for member in members for name in member.parameters}
        self.is_straight_through = all(member.is_straight_through for member in members)
        self.measure_every = min((member.measure_every for member in members if member.measure_every), default=0)
        self.needs_validation_loss = any(member.needs_validation_loss for member in members)
        self.quantizes_any_weights = all(member.quantizes_any_weights for member in members)
        self.last_phase_share = max(member.last_phase_share for member in members)
        self._limit_rate()

    @property
    def holds_file_weights(self) -> bool:
        """Whether all parameters hold the weights of the file now."""
        return all(member.holds_file_weights for member in self.members)

    def on_forward(self, is_training: bool) -> None:
        """Each puts into its parameters what a forward pass is to see."""
        for member in self.members:
            member.on_forward(is_training)

    def await_step(self, awaits_step: bool) -> None:
        """All wait for the step, or no longer."""
        for member in self.members:
            member.await_step(awaits_step)

    def on_gradients(self) -> None:
        """Each adds its gradients to its parameters'."""
        for member in self.members:
            member.on_gradients()
        self._limit_rate()

    def latent_weights(self, name: str) -> Tensor:
        """The weights of a parameter that the optimizer trains."""
        return self._members[name].latent_weights(name)

    def restore_weights(self) -> None:
        """Put all latent weights back into the parameters."""
        for member in self.members:
            member.restore_weights()

    def check_unchanged(self) -> None:
        """Raise an InputError if parameters have changed that hold the weights of the file."""
        for member in self.members:
            member.check_unchanged()

    def adopt_weights(self) -> None:
        """Take what the parameters hold now for the latent weights."""
        for member in self.members:
            member.adopt_weights()

    def on_size(self, measure: Callable[[], int]) -> None:
        """Those that aim at a size learn it: of the whole file, whatever the share of each."""
        for member in self.members:
            if member.measure_every:
                member.on_size(measure)

    def on_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Each decides, given what the others have decided before."""
        for member in self.members:
            member.on_epoch(validation_loss)

    def on_last_phase(self) -> None:
        """It begins for all."""
        for member in self.members:
            member.on_last_phase()

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """As the parameter's method does."""
        return self._members[name].quantize_parameter(name, weights)

    def file_weights(self) -> dict[str, Tensor]:
        """The weights of the file, by name."""
        return {name: weights for member in self.members for name, weights in member.file_weights().items()}

    def measures(self) -> dict[str, float]:
        """The measures of all; of two with the same name the last."""
        return {key: value for member in self.members for key, value in member.measures().items()}

    def state_dict(self) -> dict[str, Any]:
        """The states of all."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for member, of_member in zip(self.members, state["members"], strict=True):
            member.load_state_dict(of_member)
        self._limit_rate()

    def _limit_rate(self) -> None:
        self.learning_rate_limit = min(member.learning_rate_limit for member in self.members)
