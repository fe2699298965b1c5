"""The order of calls in a step of training: gradients, `regularize`, and the step of every optimizer, once each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from metaq.binding.working_parameters import WorkingParameter
from metaq.errors import InputError


class CallOrder:
    """Which optimizers may make a step now, and on what gradients.

    Args:
        optimizers: those that tell of their steps.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._all = set(map(id, optimizers))
        self._may_step: set[int] = set()  # those that have made none since `regularize`
        self._gradient: tuple[Tensor, int] | None = None  # one that `regularize` has adjusted, and its version after it

    @property
    def awaits_step(self) -> bool:
        """Whether gradients have been adjusted for a step that is still to come."""
        return bool(self._may_step)

    def check_gradients_are_new(self, working: Sequence[WorkingParameter]) -> None:
        """Refuse `regularize` for every part of an accumulated gradient: the method's would be added as often.

        After a step that a GradScaler has left out, the gradients are other tensors, or were set to zero in between.
        """
        if self._gradient is None or self._may_step != self._all:
            return
        before, version = self._gradient
        if any(w.parameter.grad is before for w in working) and before._version <= version + 1:
            raise InputError(
                "regularize(): expected a step of the optimizer since the last call, found none; call it once, after"
                " the last backward() of an accumulated gradient"
            )

    def allow_step(self, working: Sequence[WorkingParameter]) -> None:
        """Gradients have been adjusted: every optimizer may make a step."""
        self._may_step = set(self._all)
        gradient = next((w.parameter.grad for w in working if w.parameter.grad is not None), None)
        self._gradient = (gradient, gradient._version) if gradient is not None and self._all else None

    def may_step(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer's step would not be lost."""
        return id(optimizer) in self._may_step

    def check_step(self, optimizer: Optimizer) -> None:
        """Refuse a step that would be lost."""
        if not self.may_step(optimizer):
            raise InputError(
                "optimizer.step(): expected regularize() between the last backward() and this step, found none; without"
                " it the step would be lost"
            )

    def end_step(self, optimizer: Optimizer) -> None:
        """An optimizer has made its step."""
        self._may_step.discard(id(optimizer))
        self._gradient = None
