"""Sums of products of inputs, from which second moments follow."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.quantizers.layers import Factor, MatrixView
from metaq.quantizers.operations import Operation

_DOUBLE_ELEMENTS = 1 << 20  # of sums that are kept in float64


@dataclass
class InputSums:
    """Sums over all inputs of a weight's groups.

    Attributes:
        products: Σ x xᵀ, of shape (groups, columns, columns).
        positions: how many inputs each group has seen, int64.
    """

    products: Tensor
    positions: Tensor

    @classmethod
    def zeros(cls, view: MatrixView, device: torch.device) -> InputSums:
        """Of no inputs yet."""
        shape = (view.groups, view.columns, view.columns)
        size = shape[0] * shape[1] * shape[2]
        dtype = torch.float64 if size <= _DOUBLE_ELEMENTS and device.type != "mps" else torch.float32
        return cls(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(view.groups, dtype=torch.int64))

    def add(self, factor: Factor, operation: Operation) -> None:
        """Add the inputs of an operation.

        Raises:
            InputError: they, or their products, are not finite.
        """
        for piece in operation.pieces(factor):
            first = factor.first + piece.first
            product = piece.inputs.transpose(1, 2) @ piece.inputs
            if not bool(torch.isfinite(product).all()):
                raise InputError(f"{factor.view.name}: expected finite inputs, found NaN, infinite or too large ones")
            self.products[first : first + piece.count] += product
            self.positions[first : first + piece.count] += piece.inputs.shape[1]


@dataclass
class SharedSums:
    """The sums of all weights, one for those that are always multiplied by the same inputs.

    Attributes:
        views: of every weight that was used, in that order, by name.
        owners: whose sums are a weight's, by name.
        sums: by owner.
        counts: of the rows of tables, int64, by name.
    """

    views: dict[str, MatrixView] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    sums: dict[str, InputSums] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    _latest: dict[str, tuple[weakref.ref[Tensor], int]] = field(default_factory=dict)

    def add(self, factor: Factor, operation: Operation) -> None:
        """Add what an operation multiplies by a weight.

        Raises:
            InputError: inputs that are not finite, or not those of the weights with which it has shared them so far.
        """
        view = factor.view
        self.views[view.name] = view
        if operation.is_lookup:
            counts = self.counts.setdefault(view.name, torch.zeros(view.rows, dtype=torch.int64))
            counts += operation.inputs.flatten().bincount(minlength=view.rows).cpu()
            return
        owner = self.owners.setdefault(view.name, self._owner(factor, operation.inputs))
        if owner == view.name:
            if owner not in self.sums:
                self.sums[owner] = InputSums.zeros(view, operation.inputs.device)
            self.sums[owner].add(factor, operation)
            self._latest[owner] = (weakref.ref(operation.inputs), operation.inputs._version)
        elif not self._was_latest(owner, operation.inputs):
            expected = f"the inputs of {owner}, as before"
            raise InputError(f"{view.name}: expected {expected}, found others; calibrate on batches of one kind")

    def positions(self, name: str) -> Tensor:
        """How many inputs each group of a weight has seen; of tables, how many rows were looked up."""
        owner = self.owners.get(name)
        return self.counts[name].sum()[None] if owner is None else self.sums[owner].positions

    def _owner(self, factor: Factor, inputs: Tensor) -> str:
        """The weight that has been multiplied by the same inputs as one that is new."""
        view = factor.view
        if view.groups > 1 or factor.is_one_of_several or len(view.shape) > 2:
            return view.name
        for name in self._latest:
            other = self.views[name]
            if (other.groups, other.columns, len(other.shape)) == (1, view.columns, 2) and self._was_latest(
                name, inputs
            ):
                return name
        return view.name

    def _was_latest(self, name: str, inputs: Tensor) -> bool:
        reference, version = self._latest.get(name, (None, -1))
        return reference is not None and reference() is inputs and inputs._version == version
