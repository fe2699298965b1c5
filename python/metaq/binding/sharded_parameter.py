"""Parameters in shards in the form that methods take: the local shard of a DTensor, in the same memory."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.graph import increment_version

from metaq.binding.shards import check_placements, is_distributed, local_part, spread
from metaq.binding.working_parameters import WorkingParameter


def working_parameter(name: str, path: str, parameter: nn.Parameter) -> WorkingParameter:
    """The working parameter of a parameter of any kind.

    Raises:
        InputError: shards that methods cannot work on.
    """
    return (ShardedParameter if is_distributed(parameter) else WorkingParameter)(name, path, parameter)


class ShardedParameter(WorkingParameter):
    """A DTensor, and its local shard as methods see it; it may be empty.

    FSDP2 may move the shard to other memory, so that it is looked for again before every use.
    """

    def __init__(self, name: str, path: str, parameter: nn.Parameter) -> None:
        check_placements(name, parameter)
        self.name, self.path, self.parameter, self.shape = name, path.split("."), parameter, parameter.shape
        self.working = nn.Parameter(local_part(parameter))
        self._version = parameter._version

    @property
    def is_same(self) -> bool:
        """That the memory is the same is enough."""
        return True

    @torch.no_grad()
    def begin_regularizing(self) -> None:
        """Before a method adjusts the gradient: give it the local part."""
        self.find()
        gradient = self.parameter.grad
        self.working.grad = None if gradient is None else local_part(gradient)

    @torch.no_grad()
    def end_regularizing(self) -> None:
        """After that: what the method has added is in the optimizer's gradient already, if there was one."""
        if self.parameter.grad is None and self.working.grad is not None:
            self.parameter.grad = spread(self.working.grad, self.parameter)
        self._version = self.parameter._version

    def lend(self) -> None:
        """Nothing, since the memory is the same."""

    def show(self) -> None:
        """What changes the parameter from here on is somebody else."""
        self._version = self.parameter._version

    def check_unchanged(self) -> None:
        """Nothing, since methods see the same memory."""

    def spend_gradient(self) -> None:
        """After the optimizer's step: hold the gradient no longer."""
        self.working.grad = None

    def adopt(self) -> None:
        """Take what the parameter holds now."""
        self.find()
        self._version = self.parameter._version

    def find(self) -> None:
        """Look for the shard, and pass on that somebody has changed it."""
        local = local_part(self.parameter)
        if local.data_ptr() != self.working.data_ptr() or local.shape != self.working.shape:
            self.working.data = local
        if self.parameter._version != self._version:
            increment_version(self.working)
            self._version = self.parameter._version

    def check(self, model: nn.Module) -> None:
        """Raise an InputError unless the model still has the parameter, as it was."""
        self.check_place(model)
        self.find()
