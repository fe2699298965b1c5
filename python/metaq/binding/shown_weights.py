"""Which weights a model's parameters hold: those that a forward pass is to see, or those that the optimizer trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from metaq.binding.shards import reshard
from metaq.binding.team import Team
from metaq.binding.working_parameters import WorkingParameter
from metaq.methods.base import BoundMethod


class ShownWeights:
    """Puts weights into the parameters of a model.

    Args:
        working: the parameters as the method sees them.

    Attributes:
        mode: whether the parameters hold what forward passes in training see, or those in evaluation (False); None
            where they hold the latent weights.
        is_lent: whether they hold the latent ones because somebody wants to see those.
    """

    def __init__(self, model: nn.Module, bound: BoundMethod, working: Sequence[WorkingParameter], team: Team) -> None:
        self.mode: bool | None = None
        self.is_lent = False
        self._model, self._bound, self._working, self._team = model, bound, working, team

    def is_stale(self, is_training: bool) -> bool:
        """Whether the parameters hold other weights than a forward pass in that mode is to see."""
        return self.mode is None or (self.mode != is_training and not self._bound.is_straight_through)

    def show(self, is_training: bool) -> None:
        """Put into the parameters what a forward pass in that mode is to see, and check it if it is there already."""
        # A method may have moved its weights since, as those do that try what a validation loss allows.
        must_copy = self.is_stale(is_training) or not self._bound.holds_file_weights
        if must_copy and self.mode is not None:
            for working in self._working:
                working.check_unchanged()
        self._find_shards()
        self._bound.on_forward(is_training)
        if must_copy:
            for working in self._working:
                working.show()
        self.mode = is_training

    def restore(self) -> None:
        """Put what the optimizer trains into the parameters."""
        self._find_shards()
        self._bound.restore_weights()
        self._lend()
        self.mode = None

    @torch.no_grad()
    def load(self) -> None:
        """Put into the parameters what the method says that they hold, whose state was loaded."""
        self._find_shards()
        if self._bound.holds_file_weights:
            for name, weights in self._bound.file_weights().items():
                self._bound.parameters[name].copy_(weights)
        for working in self._working:
            working.show()
        self.mode = None

    def adopt(self) -> None:
        """Take what the parameters hold now for the latent weights."""
        for working in self._working:
            working.adopt()
        self._bound.adopt_weights()
        self.mode = None

    def check_parameters(self) -> None:
        """Raise an InputError unless the model still has the parameters that were bound."""
        if self._team.has_shards:
            reshard(self._model)
        for working in self._working:
            working.check(self._model)

    @contextmanager
    def file(self, awaits_step: bool) -> Iterator[None]:
        """In this context the parameters hold the weights of the file; afterwards what they held before.

        Args:
            awaits_step: whether that is what an optimizer is about to change.
        """
        before = self.mode
        try:
            self._find_shards()
            self._bound.on_forward(False)
            for working in self._working:
                working.show()
            yield
        finally:
            self.mode = None
            if before is not None:
                self.show(before)
            else:
                self._bound.restore_weights()
                if self.is_lent:
                    self._reveal()
                elif awaits_step:
                    self._lend()

    @contextmanager
    def latent(self) -> Iterator[None]:
        """In this context the parameters hold the latent weights; afterwards what they held before."""
        before, self.is_lent = self.mode, True
        try:
            self.restore()
            self._reveal()
            yield
        finally:
            self.is_lent = False
            if before is not None:
                self.show(before)

    @contextmanager
    def changing(self, shows_after: bool) -> Iterator[None]:
        """In this context the method may change weights in ways of its own."""
        before = self.mode
        try:
            yield
        finally:
            self.mode = None
            if before is not None and shows_after:
                self.show(before)

    def _lend(self) -> None:
        for working in self._working:
            working.lend()

    def _reveal(self) -> None:
        for working in self._working:
            working.reveal()

    def _find_shards(self) -> None:
        if self._team.has_shards:
            reshard(self._model)
        for working in self._working:
            working.find()
