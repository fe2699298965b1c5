"""Parameters in the form that methods take: float32, in one piece on this process, with dense gradients.

A plain float32 parameter is that already. For one of a narrower dtype the optimizer is given float32 weights too, for
the time of its step: a bfloat16 weight of 1 would not notice an update of 0.003.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaq.errors import InputError


class WorkingParameter:
    """A model's parameter, and the one that methods work on.

    Attributes:
        name: the one by which methods and files know it.
        path: its name in the model, with those of wrappers inside of the model.
        parameter: the model's own.
        working: what methods see: the same object where it can be.
    """

    def __init__(self, name: str, path: str, parameter: nn.Parameter, working: Tensor | None = None) -> None:
        self.name, self.path, self.parameter, self.shape = name, path.split("."), parameter, parameter.shape
        if working is None:
            working = parameter if parameter.dtype == torch.float32 else parameter.detach().float()
        self.working = working if isinstance(working, nn.Parameter) else nn.Parameter(working)
        self._own = parameter.data  # the model's memory, while the optimizer is given other
        self._version = parameter._version
        self._is_sparse = False

    @property
    def is_same(self) -> bool:
        """Whether methods work on the model's parameter itself."""
        return self.working is self.parameter

    def find(self) -> None:
        """Look whether somebody has moved or changed the parameter, before its working form is used."""

    # Steps of small networks are so short that even entering `no_grad` for each of their parameters would count.

    def begin_regularizing(self) -> None:
        """Before a method adjusts the gradient: give it one of its own kind."""
        gradient = self.parameter.grad
        self._is_sparse = gradient is not None and gradient.is_sparse
        if gradient is not None and self._is_sparse:
            gradient = gradient.detach().to_dense()
        if self.is_same and self._is_sparse:
            self.parameter.grad = gradient
        elif not self.is_same:
            self.working.grad = None if gradient is None else gradient.detach().to(torch.float32)

    def end_regularizing(self) -> None:
        """After that: give the optimizer the weights and the gradient that the method has left."""
        if not self.is_same:
            self.lend()
            self.parameter.grad = self.working.grad
        if self._is_sparse and self.parameter.grad is not None:
            self.parameter.grad = _with_all_rows(self.parameter.grad.detach())

    def lend(self) -> None:
        """Let the model's parameter hold the float32 weights, for as long as an optimizer looks at them."""
        if not self.is_same:
            self.parameter.data = self.working.data

    def show(self) -> None:
        """Put what the working parameter holds now into the model's, in the model's dtype."""
        if not self.is_same:
            self._own.copy_(self._weights())
            self.parameter.data = self._own
            self._version = self.parameter._version

    def reveal(self) -> None:
        """Let the model's parameter hold the latent weights, for people to look at."""
        self.lend()

    def spend_gradient(self) -> None:
        """After the optimizer's step: drop a float32 gradient, to which that of the next pass could not be added."""
        if not self.is_same:
            self.parameter.grad = self.working.grad = None

    @torch.no_grad()
    def adopt(self) -> None:
        """Take what the model's parameter holds now."""
        if not self.is_same:
            self.working.copy_(self._latent(self.parameter.detach()))
            self._version = self.parameter._version

    def check(self, model: nn.Module) -> None:
        """Raise an InputError unless the model still has the parameter, as it was."""
        self.check_place(model)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise an InputError if somebody has changed the model's parameter since it was put there."""
        now = self.parameter
        if self.is_same or now.data_ptr() != self._own.data_ptr() or now._version == self._version:
            return
        if not torch.equal(now, self._weights()):
            raise InputError(
                f"parameter {self.name!r}: expected the weights that the last forward pass saw, found others; call"
                " regularize() between backward() and optimizer.step(), and adopt_weights() after loading weights"
            )
        self._version = now._version

    def check_place(self, model: nn.Module) -> nn.Parameter:
        """The model's parameter; an InputError unless it is still the one that was bound."""
        now = self._present(model)
        if now is None or now is not self.parameter:
            found = "none" if now is None else f"another, a {type(now).__name__} of shape {tuple(now.shape)}"
            remedy = "make the Compressor after whatever replaces parameters, such as fully_shard or a resizing"
            raise InputError(f"parameter {self.name!r}: expected the one that was bound, found {found}; {remedy}")
        if now.shape != self.shape:
            raise InputError(
                f"parameter {self.name!r}: expected shape {tuple(self.shape)}, found {tuple(now.shape)}; make a new"
                " Compressor after resizing"
            )
        return now

    def _weights(self) -> Tensor:
        """What the working parameter holds now, as the model has it."""
        return self.working.detach().to(self._own.dtype)

    def _latent(self, weights: Tensor) -> Tensor:
        """What the working parameter holds when the model's holds these weights."""
        return weights

    def _present(self, model: nn.Module) -> nn.Parameter | None:
        """What the model has where the parameter was."""
        *path, last = self.path
        module: nn.Module | None = model
        for part in path:
            module = module._modules.get(part) if module is not None else None
        return module._parameters.get(last) if module is not None else None


def _with_all_rows(gradient: Tensor) -> Tensor:
    """A dense gradient in the sparse layout, which some optimizers insist on."""
    rows = torch.arange(len(gradient), device=gradient.device)[None]
    return torch.sparse_coo_tensor(rows, gradient, gradient.shape, check_invariants=False, is_coalesced=True)
