"""Hooks before forward passes, of a model and of every module in it that has compressed parameters.

Those of the modules make a model right whose own forward pass nobody calls: parts of it are, or Lightning's steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from metaq.errors import InputError


class ForwardHook:
    """Calls a function before a module's forward pass. In a copy of the module, pickled or deep, it does nothing.

    Args:
        call: takes the module.
        breaks_graph: whether to call it within `torch.compile` too, where that costs a second graph.
    """

    def __init__(self, call: Callable[[nn.Module], None] | None = None, breaks_graph: bool = False) -> None:
        self.call, self.breaks_graph = call, breaks_graph

    def __call__(self, module: nn.Module, _: Any) -> None:
        """What torch calls."""
        if self.call is None:
            return
        if not torch.compiler.is_compiling():
            self.call(module)
        elif self.breaks_graph:
            _call_uncompiled(self.call, module)

    def __deepcopy__(self, _: Any) -> ForwardHook:
        return ForwardHook()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[()]]:
        return ForwardHook, ()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _call_uncompiled(call: Callable[[nn.Module], None], module: nn.Module) -> None:
    call(module)


def check_unhooked(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Raise an InputError if the model, or a module that owns one of the parameters, has a hook of the kind already."""
    for module in _modules(model, parameters):
        if any(isinstance(hook, ForwardHook) and hook.call for hook in module._forward_pre_hooks.values()):
            raise InputError("model: expected none that has a Compressor, found one; call detach() of that one before")


def install(
    model: nn.Module, parameters: Iterable[nn.Parameter], call: Callable[[nn.Module], None], breaks_graph: bool
) -> list[RemovableHandle]:
    """Hook the model, and the modules that own one of the parameters.

    Args:
        breaks_graph: whether a compiled model, too, is to call the function for its outermost module.
    """
    hooks = {module: ForwardHook(call, breaks_graph and module is model) for module in _modules(model, parameters)}
    # Before the hooks of FSDP2, which put whole parameters together from the shards.
    return [module.register_forward_pre_hook(hook, prepend=True) for module, hook in hooks.items()]


def _modules(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Module]:
    """The model first, then those that own one of the parameters."""
    ids = {id(parameter) for parameter in parameters}
    owners = (module for module in model.modules() if ids & {id(p) for p in module._parameters.values()})
    return list(dict.fromkeys([model, *owners]))
