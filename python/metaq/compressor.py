"""Compressor: what a training loop holds. It binds a model to a method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metaq.binding import forward_hooks
from metaq.binding.base_network import BaseNetwork, has_base
from metaq.binding.bound import bind, bind_frozen
from metaq.binding.call_order import CallOrder
from metaq.binding.contents import Contents, check_finite, plain_state
from metaq.binding.difference_parameter import DifferenceParameter
from metaq.binding.optimizers import OptimizerHooks, check_held, length_of
from metaq.binding.report import Report
from metaq.binding.selection import Choice, Fate, Methods, select, unwrapped
from metaq.binding.sharded_parameter import working_parameter
from metaq.binding.shown_weights import ShownWeights
from metaq.binding.team import active_team, team_of
from metaq.binding.working_parameters import WorkingParameter
from metaq.compressed_model import CompressedModel
from metaq.compressed_model import encode as encode_model
from metaq.errors import InputError
from metaq.methods.training import Training
from metaq.metrics import coded_weights, entropy_of_order

_log = logging.getLogger(__name__)


class Compressor:
    """Trains a model towards a small file, from inside any training loop::

        compressor = metaq.Compressor(model, metaq.METaQ(), optimizer, training_steps=len(loader) * epochs)
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            compressor.regularize()
            optimizer.step()
        metaq.save(compressor.compress(), "model.mtq")

    The parameters hold what the file would give back: in training with `METaQ`, except where its levels are around the
    mean, and with `HEMP` where it is ``straight_through``; in evaluation with every method. The optimizer's own,
    *latent* weights are in them from `regularize` to the end of ``optimizer.step()`` only, with the other methods
    as long as the model is in training mode. So call `regularize` once between the last ``backward()`` and every
    ``optimizer.step()``, after gradients are clipped or unscaled; evaluate, save and copy the model wherever you like.

    Args:
        model: on its device, all of it on one; wrapped or not. Names are those of the network inside of wrappers.
        method: what to do with all parameters, or a mapping from patterns of names (``*`` and ``?``) to methods, or to
            None for what is to be kept exactly; see `metaq.binding.selection.select`.
        optimizer: what trains the parameters, or several that do. With it, a step without `regularize` is an error, and
            the parameters hold the weights of the file right after a step; without it, from the next forward pass on.
        training_steps: how many steps the optimizer will make, or a scheduler that knows. Methods whose schedules are
            shares of the training need it, and with it the last phase begins by itself.
        encode: how the file will be written, for methods that aim at its size.

    Attributes:
        model: the network inside of the wrappers.
        bound: the method at work.
        training_step: calls of `regularize` so far.
        training_steps: the training's length, 0 where it is not known.
        base: the network that the method's differences are from; None where it trains weights.
        last_phase_step: the number of steps after which the last phase begins by itself; None for never.

    Raises:
        InputError: parameters that cannot be compressed; patterns that fit none; an optimizer that does not train
            them; or another compressor on the model.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Methods,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        training_steps: int | LRScheduler | None = None,
        encode: Callable[[CompressedModel], bytes] = encode_model,
    ) -> None:
        self.model = unwrapped(model)
        self.training_steps, self.training_step = length_of(training_steps), 0
        choices = select(self.model, method)
        self._hooks = OptimizerHooks(optimizer)
        if self._hooks.optimizers:
            check_held(choices, self._hooks.optimizers)
        self.team = team_of(model, (choice.parameter for choice in choices))
        self._has_equal_replicas = False
        trained = [c for c in choices if c.fate in (Fate.COMPRESSED, Fate.ROUNDED)]
        forward_hooks.check_unhooked(self.model, [choice.parameter for choice in trained])
        self.base = self._base_of(choices)
        self._working = [self._working_parameter(choice) for choice in trained]
        for working in self._working:
            check_finite(working.name, working.working)
        training = Training(self.training_steps)
        self.bound = bind(trained, {w.name: w.working for w in self._working}, training)
        choices, self.frozen = bind_frozen(choices, training)
        self._contents = Contents(choices, [self.bound, *([self.frozen] if self.frozen else [])], self.team, self.base)
        share = 1 - self.bound.last_phase_share
        self.last_phase_step = round(share * self.training_steps) if self.training_steps else None
        self.is_last_phase = False
        self._encode = encode
        self._shown = ShownWeights(self.model, self.bound, self._working, self.team)
        self._order = CallOrder(self._hooks.optimizers)
        # With these the parameters hold the weights of the file whenever a compiled model may look at them.
        is_shown = self.bound.is_straight_through and bool(self._hooks.optimizers)
        parameters = [choice.parameter for choice in trained]
        self._handles = forward_hooks.install(self.model, parameters, self._before_forward, not is_shown)
        self._hooks.watch(self)
        if self._hooks.optimizers:
            self.show(self.model.training)

    # In the training loop.

    def regularize(self) -> None:
        """Add the method's gradient to the loss's; call between ``backward()`` and ``optimizer.step()``.

        Gradients are clipped, and unscaled by ``GradScaler.unscale_``, before: the method's gradient is not scaled.

        Raises:
            InputError: it was called before, on the same gradients; or the parameters are others than those bound, or
                have changed since the last forward pass.
        """
        self._shown.check_parameters()
        self._order.check_gradients_are_new(self._working)
        self._check_forward_pass()
        self.training_step += 1
        if self.training_step == self.training_steps + 1 > 1:
            _log.warning("the training was to take %d steps, and goes on; schedules have ended", self.training_steps)
        if self.bound.measure_every and self.training_step % self.bound.measure_every == 0:
            self.bound.on_size(self._measure)
        for working in self._working:
            working.begin_regularizing()
        self.bound.on_gradients()
        for working in self._working:
            working.end_regularizing()
        self._hooks.learning_rate_limit = self.bound.learning_rate_limit
        self._order.allow_step(self._working)
        self.bound.await_step(self._order.awaits_step)
        self._shown.mode = None

    def show(self, is_training: bool) -> None:
        """Put into the parameters what forward passes in training or in evaluation are to see.

        Forward passes do so themselves, and so do steps of the optimizer. Call it where neither happens before the
        parameters are looked at, such as in a loop that computes with them and with no module.
        """
        if self._shown.is_lent:
            return
        if is_training and self.last_phase_step is not None and self.training_step >= self.last_phase_step:
            self.begin_last_phase()
        self._shown.show(is_training)

    @property
    def learning_rate_limit(self) -> float:
        """The optimizer's learning rate should not be above it, and is not if the compressor has the optimizer."""
        return self.bound.learning_rate_limit

    def end_epoch(self, validation_loss: Callable[[], float]) -> None:
        """Tell the method that an epoch is over, for those that make decisions then.

        Args:
            validation_loss: measures the model on held-out data; called as often as the method needs it. Of several
                processes' losses the mean counts.
        """
        with self._shown.changing(bool(self._hooks.optimizers)):
            if self.bound.measure_every:
                self.bound.on_size(self._measure)
            self.bound.on_epoch(lambda: self.team.mean(validation_loss()))

    def begin_last_phase(self) -> None:
        """Tell the method that the last phase of training begins, in which the rest settles; once is enough.

        Methods that prune keep their zeros from here on, and one that aims at a size now moves weights until the file
        is no larger, every time that it measures it.
        """
        if not self.is_last_phase:
            self.is_last_phase = True
            with self._shown.changing(bool(self._hooks.optimizers)):
                self.bound.on_last_phase()

    # The result.

    def compress(self, averaged: nn.Module | None = None) -> CompressedModel:
        """The model as it stands, quantized: exactly the weights that it has in evaluation mode.

        Training goes on afterwards as if there had been no call. Of a model in shards, all processes must call it, and
        the first one gets all tensors; the model that the others get has none, and cannot be saved.

        Args:
            averaged: another network of the same parameters, such as their moving average: its weights are quantized
                instead, with the method's present levels.

        Raises:
            InputError: a weight has become NaN or infinite; other parameters than the model's; or an average of
                weights that the method assigns to levels itself, as `LC` and `DeepCompression` do.
        """
        if averaged is not None:
            return self._contents.of_average(unwrapped(averaged))
        self._contents.check_finite()
        with self._shown.file(self._order.awaits_step):
            return self._contents.of_model(self.model)

    def measure(self) -> dict[str, float]:
        """What to log: ``size_bytes`` of the whole file, and ``bits_per_weight`` and ``entropy`` of its coded weights.

        Both are in bits; the first is of the whole file over the number of weights, the second of zero order, tensor by
        tensor, without what names, shapes and kept tensors take. Of a model in shards, all processes must call it, and
        all get the same.
        """
        compressed = self.compress()
        size_bytes, bits = self._of_first(
            lambda: len(self._encode(compressed)),
            lambda: entropy_of_order(compressed, 1) if coded_weights(compressed) else 0.0,
        )
        bits_per_weight = 8 * size_bytes / self._contents.weights
        return {"size_bytes": int(size_bytes), "bits_per_weight": bits_per_weight, "entropy": bits}

    def report(self) -> Report:
        """What becomes of each parameter, in the model's order; as a string it is a table.

        Of a model in shards, all processes must call it.
        """
        return self._contents.report()

    def detach(self) -> None:
        """Leave the model with the weights of the file, and model and optimizer with no hook of the compressor."""
        self.show(False)
        self._remove_hooks()

    # The latent weights.

    @contextmanager
    def latent_weights(self) -> Iterator[None]:
        """In this context the parameters hold the weights that the optimizer trains, for those who average them::

        with compressor.latent_weights():
            average.update_parameters(model)
        """
        with self._shown.latent():
            yield

    def adopt_weights(self) -> None:
        """Take what the parameters hold now for the latent weights: after weights have been loaded from elsewhere.

        The method's own state, such as its levels, stays as it is.
        """
        self._shown.adopt()
        self.show(self.model.training)

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, besides the state dicts of model and optimizer; like theirs, it holds no copies."""
        return {
            "training_step": self.training_step,
            "is_last_phase": self.is_last_phase,
            "method": self.bound.state_dict(),
            "frozen": None if self.frozen is None else self.frozen.state_dict(),
            "base": None if self.base is None else self.base.state_dict(),
            "float_weights": {w.name: w.working.detach() for w in self._working if not w.is_same},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the model's own state may be loaded before or after, or before binding.

        Raises:
            InputError: the state is of a `Difference`, and this compressor's method is none, or the other way round.
        """
        kinds = ["a Difference" if base is not None else "weights" for base in (self.base, state.get("base"))]
        if kinds[0] != kinds[1]:
            raise InputError(f"state of a Compressor: expected one that trains {kinds[0]}, found one of {kinds[1]}")
        self.training_step, self.is_last_phase = state["training_step"], state["is_last_phase"]
        if self.base is not None:
            self.base.load_state_dict(state["base"])
        with torch.no_grad():
            for working in self._working:
                if not working.is_same:
                    working.working.copy_(state["float_weights"][working.name])
        self.bound.load_state_dict(state["method"])
        if self.frozen is not None:
            self.frozen.load_state_dict(state["frozen"])
        self._shown.load()

    def __reduce__(self) -> NoReturn:
        raise InputError("Compressor: expected no copy, since it belongs to one model; its state_dict() can be saved")

    # What the hooks call.

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Refuse a step that would be lost; a closure may still call `regularize`."""
        if has_closure and not self._order.may_step(optimizer):
            return
        self._order.check_step(optimizer)
        if self._shown.mode is not None:  # somebody has evaluated the model in between
            self._shown.restore()

    def after_step(self, optimizer: Optimizer) -> None:
        """The parameters have made their step: they hold the weights of the file again."""
        self._order.check_step(optimizer)
        self._order.end_step(optimizer)
        self.bound.await_step(self._order.awaits_step)
        for working in self._working:
            working.spend_gradient()
        self.show(self.model.training)

    def before_loading(self) -> None:
        """An optimizer's state is of the dtype of the parameters that it sees."""
        for working in self._working:
            working.lend()

    def after_loading(self) -> None:
        """The parameters are again of their own dtype."""
        for working in self._working:
            working.show()

    def _before_forward(self, module: nn.Module) -> None:
        self._check_replicas()
        is_training = self.model.training
        if self._shown.is_stale(is_training) or module is self.model:
            self.show(is_training)

    # Helpers.

    def _base_of(self, choices: Sequence[Choice]) -> BaseNetwork | None:
        """The network as it is now, where what is trained is the difference from it."""
        if not has_base(choices):
            return None
        if not self._hooks.optimizers:
            raise InputError(
                "Compressor of a Difference: expected the optimizer, found none; give Compressor(..., optimizer), since"
                " the parameters hold differences from regularize() to the end of its step"
            )
        return BaseNetwork(plain_state(self.model))

    def _working_parameter(self, choice: Choice) -> WorkingParameter:
        if self.base is None:
            return working_parameter(choice.name, choice.path, choice.parameter)
        if choice.name not in self.base.tensors:
            raise InputError(f"model: expected {choice.name!r} in its state_dict(), found no such tensor")
        return DifferenceParameter(choice.name, choice.path, choice.parameter, self.base.tensors[choice.name])

    def _check_replicas(self) -> None:
        """In the first forward pass: replicas must have been equal before the compressor was made, and be so now."""
        if self._has_equal_replicas or self.team.has_shards:
            return
        if not self.team.groups:
            self.team = active_team()
        if self.team.groups:
            self._has_equal_replicas = True
            latent = [self.bound.latent_weights(name) for name in self.bound.parameters]
            base = [] if self.base is None else self.base.tensors.values()
            self.team.check_equal([*latent, *self.bound.file_weights().values(), *base])

    def _check_forward_pass(self) -> None:
        """Refuse gradients of latent weights, where the method is to have those of the file's.

        A step that a GradScaler has left out is one of the optimizer's that the compressor has, which show them.
        """
        saw_others = self._shown.mode is None and self.bound.is_straight_through and not self._hooks.optimizers
        if saw_others and any(working.parameter.grad is not None for working in self._working):
            raise InputError(
                "regularize(): expected a forward pass of the model or its modules since the last step, found none;"
                " give the Compressor the optimizer, or call show(True) before you compute with parameters alone"
            )

    def _measure(self) -> int:
        compressed = self.compress()
        return int(self._of_first(lambda: len(self._encode(compressed)))[0])

    def _of_first(self, *measures: Callable[[], float]) -> list[float]:
        """What the first process measures of a model in shards; of any other what the calling one does."""
        if not self.team.has_shards:
            return [measure() for measure in measures]
        return self.team.first([measure() if self.team.is_first else 0.0 for measure in measures])

    def _remove_hooks(self) -> None:
        self._hooks.remove()
        for handle in self._handles:
            handle.remove()
