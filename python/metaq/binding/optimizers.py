"""Hooks of the optimizers that train a model's parameters, and what can be read off a learning-rate scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.hooks import RemovableHandle

from metaq.binding.selection import Choice, Fate
from metaq.errors import InputError


class Observer(Protocol):
    """Who is told of an optimizer's steps."""

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Before the optimizer changes anything, and before it calls its closure, if it has one."""

    def after_step(self, optimizer: Optimizer) -> None:
        """After the optimizer has changed the parameters."""

    def before_loading(self) -> None:
        """Before an optimizer takes a state, which it puts into the dtypes of its parameters."""

    def after_loading(self) -> None:
        """After that."""


class OptimizerHooks:
    """An observer's hooks on optimizers; the learning rate stays within a limit during their steps.

    Args:
        optimizers: their wrappers, such as those of accelerate and Lightning, are taken off.

    Raises:
        InputError: something that is no optimizer.
    """

    def __init__(self, optimizers: Optimizer | Iterable[Optimizer] | None) -> None:
        found = [] if optimizers is None else [optimizers] if _is_one(optimizers) else list(optimizers)  # type: ignore[arg-type]
        self.optimizers = [_inner(optimizer) for optimizer in found]
        self.learning_rate_limit = math.inf
        self._rates: list[Any] = []
        self._making_state: set[int] = set()  # ids of optimizers in a step that changes no parameter
        self._handles: list[RemovableHandle] = []

    def watch(self, observer: Observer) -> None:
        """Tell the observer of every step from here on."""

        def before(optimizer: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if _makes_only_state(optimizer):
                self._making_state.add(id(optimizer))
                return
            observer.before_step(optimizer, any(map(callable, (*arguments[1:], *named.values()))))
            self._limit_rates(optimizer)

        def after(optimizer: Optimizer, *_: Any) -> None:
            if id(optimizer) in self._making_state:
                self._making_state.discard(id(optimizer))
                return
            self._restore_rates(optimizer)
            observer.after_step(optimizer)

        for optimizer in self.optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(before),
                optimizer.register_step_post_hook(after),
                optimizer.register_load_state_dict_pre_hook(lambda *_: observer.before_loading()),
                optimizer.register_load_state_dict_post_hook(lambda *_: observer.after_loading()),
            ]

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _limit_rates(self, optimizer: Optimizer) -> None:
        self._rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
        if any(float(rate) > self.learning_rate_limit for rate in self._rates):
            for group in optimizer.param_groups:
                group["lr"] = min(float(group["lr"]), self.learning_rate_limit)
        else:
            self._rates = []

    def _restore_rates(self, optimizer: Optimizer) -> None:
        if self._rates:
            for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate
        self._rates = []


def _makes_only_state(optimizer: Optimizer) -> bool:
    """Whether a step is that of `torch.distributed.checkpoint.state_dict`, by which an optimizer makes its state.

    Its learning rate is 0.
    """
    return not optimizer.state and all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups)


def check_held(choices: Sequence[Choice], optimizers: Sequence[Optimizer]) -> None:
    """Raise an InputError for a parameter that is to be compressed and that none of the optimizers trains."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for choice in choices:
        if choice.fate in (Fate.COMPRESSED, Fate.ROUNDED) and id(choice.parameter) not in held:
            raise InputError(
                f"optimizer: expected one that trains {choice.name!r}, found none; make it from the model's present"
                f" parameters, or set requires_grad = False for those that are not trained"
            )


def length_of(training_steps: int | LRScheduler | None) -> int:
    """The training's length in steps of the optimizer, 0 where it is not known.

    Raises:
        InputError: fewer than one step, or a scheduler that counts epochs or has no length.
    """
    if training_steps is None:
        return 0
    if isinstance(training_steps, OneCycleLR):
        return int(training_steps.total_steps)
    if isinstance(training_steps, LambdaLR):  # those of transformers
        named = getattr(training_steps.lr_lambdas[0], "keywords", {})
        if "num_training_steps" in named:
            return int(named["num_training_steps"])
    if isinstance(training_steps, LRScheduler):
        name = type(training_steps).__name__
        raise InputError(f"training_steps: expected a scheduler with a length in steps, found {name}; give the number")
    if not isinstance(training_steps, int) or training_steps < 1:
        raise InputError(f"training_steps: expected at least 1, or None if it is not known, found {training_steps!r}")
    return training_steps


def _is_one(optimizers: object) -> bool:
    return isinstance(optimizers, Optimizer) or hasattr(optimizers, "param_groups")


def _inner(optimizer: Any) -> Optimizer:
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer: expected a torch.optim.Optimizer, found a {type(optimizer).__name__}")
    return optimizer
