"""Sees what goes into and comes out of every weight of a model while it runs.

Calls of torch functions are intercepted rather than modules hooked: it does not matter then whether a weight belongs to
a Linear, to packed projections, to experts or to no module that anybody knows. What is called, and what comes of it,
stays the same, bit for bit.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from metaq.errors import InputError
from metaq.quantizers.layers import Factor, Weights
from metaq.quantizers.operations import Operation, recognise

Listener = Callable[[Factor, Operation, Tensor], Tensor]
"""Is told of a factor, its operation and what came of it; gives what the model goes on with."""


class Observation(TorchFunctionMode):
    """A context in which a listener is told of every operation with one of some weights."""

    def __init__(self, weights: Weights, listener: Listener) -> None:
        super().__init__()
        self.weights, self.listener = weights, listener

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = keywords or {}
        if function is functional.multi_head_attention_forward:
            with self:
                return _attention(*arguments, **keywords)
        operation = recognise(function, arguments, keywords)
        output = function(*arguments, **keywords)
        if operation is None:
            return output
        factor = operation.factor(self.weights)
        return output if factor is None else self.listener(factor, operation, output)


def _open(function: Any) -> Callable[..., Any]:
    """A torch function whose inner calls are seen, too, since it does not ask whether it is intercepted itself."""
    scope = function.__globals__ | {"has_torch_function": lambda _: False}
    opened = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


_attention = _open(functional.multi_head_attention_forward)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, that remembers nothing from one run to the next and whose operations are seen.

    Fused kernels for attention are not taken. In transformers' models caches of keys and values are off, and experts
    are multiplied one by one or sorted, not by copies.
    """
    modes = {module: module.training for module in model.modules()}
    had_fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    changed = [change for module in model.modules() for change in _configure(getattr(module, "config", None))]
    try:
        yield
    finally:
        for config, name, value in changed:
            setattr(config, name, value)
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
        for module, mode in modes.items():
            module.training = mode


def _configure(config: Any) -> Iterator[tuple[Any, str, Any]]:
    """Change what a configuration says; gives what it said."""
    if getattr(config, "use_cache", None) is True:
        config.use_cache = False
        yield config, "use_cache", True
    implementation = getattr(config, "_experts_implementation", None)
    if isinstance(implementation, str) and implementation not in ("eager", "grouped_mm"):
        config._experts_implementation = "eager"
        yield config, "_experts_implementation", implementation


def apply(model: nn.Module, batch: Any) -> Any:
    """The output of a model for a batch: a tensor, a tuple or list that begins with one, or keyword arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, list | tuple) else batch)


def run(model: nn.Module, batch: Any, index: int) -> Any:
    """As `apply`, with errors that say which batch they are about.

    Raises:
        InputError: the model does not take the batch, its own exception being the cause; or a listener's.
    """
    try:
        return apply(model, batch)
    except InputError as error:
        raise InputError(f"batch {index}: {error}") from error
    except Exception as error:
        found = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise InputError(f"batch {index}: expected one that the model takes, found {found}") from error


def batch_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in their order."""
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    return [part for part in parts if isinstance(part, Tensor)]


def batch_bytes(batch: Any) -> int:
    """How large the tensors of a batch are."""
    return sum(tensor.nbytes for tensor in batch_tensors(batch))


def sample_count(batch: Any) -> int:
    """How many samples a batch has: the first dimension of its first tensor that has one."""
    return next((len(tensor) for tensor in batch_tensors(batch) if tensor.ndim), 1)
