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

    Within `torch.compile` only the function of the outermost module is called, so that graphs stay whole.
    """

    def __init__(self, call: Callable[[nn.Module], None] | None = None) -> None:
        self.call = call

    def __call__(self, module: nn.Module, _: Any) -> None:
        """What torch calls."""
        if self.call is not None and not torch.compiler.is_compiling():
            self.call(module)

    def __deepcopy__(self, _: Any) -> ForwardHook:
        return ForwardHook()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[()]]:
        return ForwardHook, ()


def install(
    model: nn.Module, parameters: Iterable[nn.Parameter], call: Callable[[nn.Module], None]
) -> list[RemovableHandle]:
    """Hook the model, and the modules that own one of the parameters.

    Raises:
        InputError: another hook of the kind is there already.
    """
    ids = {id(parameter) for parameter in parameters}
    modules = {model: None} | {
        module: None for module in model.modules() if ids & {id(p) for p in module._parameters.values()}
    }
    for module in modules:
        if any(isinstance(hook, ForwardHook) and hook.call for hook in module._forward_pre_hooks.values()):
            raise InputError("model: expected none that has a Compressor, found one; call detach() of that one before")
    # Before the hooks of FSDP2, which put whole parameters together from the shards.
    return [module.register_forward_pre_hook(ForwardHook(call), prepend=True) for module in modules]
