"""Sums of products of inputs, from which second moments follow."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metaq.errors import InputError
from metaq.quantizers import second_order
from metaq.quantizers.layers import Factor, MatrixView
from metaq.quantizers.observation import Listener
from metaq.quantizers.operations import Operation

_DOUBLE_ELEMENTS = 1 << 20  # of sums that are kept in float64
_UNSEEN = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # shares of the mean energy that are tried
_TINY = 1e-12  # of the mean energy, for inputs that have none


@dataclass
class Sharing:
    """Which weights are always multiplied by the same inputs, so that they have the same moments.

    Attributes:
        views: of every weight that was used, in that order, by name.
        owners: for each that is multiplied, the first with the same inputs, which may be itself.
    """

    views: dict[str, MatrixView] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    _latest: dict[str, tuple[weakref.ref[Tensor], int]] = field(default_factory=dict)

    def is_new(self, factor: Factor, operation: Operation) -> bool:
        """Whether the inputs of an operation are to be counted: not if they were for another weight.

        Raises:
            InputError: inputs other than those of the weights with which this one has shared them so far.
        """
        view, inputs = factor.view, operation.inputs
        self.views[view.name] = view
        if operation.is_lookup:
            return True
        if view.name not in self.owners:
            self.owners[view.name] = self._owner(factor, inputs)
        owner = self.owners[view.name]
        if owner == view.name:
            self._latest[owner] = (weakref.ref(inputs), inputs._version)
        elif not self._was_latest(owner, inputs):
            expected = f"the inputs of {owner}, as before"
            raise InputError(f"{view.name}: expected {expected}, found others; calibrate on batches of one kind")
        return owner == view.name

    def _owner(self, factor: Factor, inputs: Tensor) -> str:
        """The weight that has been multiplied by the same inputs as one that is new."""
        view = factor.view
        if view.groups > 1 or len(view.shape) > 2:
            return view.name
        for name in self._latest:
            other = self.views[name]
            is_alike = (other.groups, other.columns, len(other.shape)) == (1, view.columns, 2)
            if is_alike and self._was_latest(name, inputs):
                return name
        return view.name

    def _was_latest(self, name: str, inputs: Tensor) -> bool:
        reference, version = self._latest.get(name, (None, -1))
        return reference is not None and reference() is inputs and inputs._version == version


@dataclass
class InputSums:
    """Sums over all inputs of a weight's groups.

    Attributes:
        halves: Σ x xᵀ over the first half of each batch, and over the second, of shape (2, groups, columns, columns).
        cross: Σ (r - x) xᵀ over all inputs, of r that x came from, in the same shape; None where they cannot be
            compared.
        positions: how many inputs each group has seen, int64.
    """

    halves: Tensor
    cross: Tensor | None
    positions: Tensor

    @classmethod
    def zeros(cls, view: MatrixView, device: torch.device, has_cross: bool = False) -> InputSums:
        """Of no inputs yet."""
        shape = (view.groups, view.columns, view.columns)
        size = shape[0] * shape[1] * shape[2]
        dtype = torch.float64 if size <= _DOUBLE_ELEMENTS and device.type != "mps" else torch.float32
        cross = torch.zeros(shape, dtype=dtype, device=device) if has_cross else None
        halves = torch.zeros(2, *shape, dtype=dtype, device=device)
        return cls(halves, cross, torch.zeros(view.groups, dtype=torch.int64))

    @property
    def products(self) -> Tensor:
        """Σ x xᵀ over all inputs, of shape (groups, columns, columns)."""
        return self.halves[0] + self.halves[1]

    @property
    def unseen(self) -> float:
        """What energy inputs have besides what was seen of them, as a share of their mean energy.

        It is the one with which one half of the data tells best how much of each input is in the other, by the
        likelihood of Gaussian inputs. Features that few samples have, such as those of one class among a thousand, are
        seen too much or not at all; weights that they meet may matter all the same.
        """
        halves = self.halves.diagonal(dim1=2, dim2=3).double().cpu().flatten(1)
        means = halves.mean(1, keepdim=True)
        if not bool((means > 0).all()):
            return 0.0
        halves = halves / means

        def missed(share: float) -> float:
            expected = (halves + max(share, _TINY)) / (1 + share)
            return float((expected.log() + halves.flip(0) / expected).mean())

        return min(_UNSEEN, key=missed)

    @property
    def optimism(self) -> float:
        """How many times as much errors of weights cost on inputs that feedback has not seen."""
        return second_order.optimism(self.halves, self.positions // 2, self.unseen)

    def add(self, factor: Factor, operation: Operation, reference: Operation | None = None) -> None:
        """Add the inputs of an operation.

        Args:
            reference: the same operation on the inputs r.

        Raises:
            InputError: they, or their products, are not finite.
        """
        if reference is None or reference.inputs.shape != operation.inputs.shape:
            self.cross = None
        references = reference.pieces(factor) if reference is not None and self.cross is not None else None
        for piece in operation.pieces(factor):
            groups = slice(factor.first + piece.first, factor.first + piece.first + piece.count)
            middle = piece.inputs.shape[1] // 2
            for total, half in zip(self.halves, (piece.inputs[:, :middle], piece.inputs[:, middle:]), strict=True):
                product = half.transpose(1, 2) @ half
                if not bool(torch.isfinite(product).all()):
                    found = "NaN, infinite or too large ones"
                    raise InputError(f"{factor.view.name}: expected finite inputs, found {found}")
                total[groups] += product
            self.positions[groups] += piece.inputs.shape[1]
            if references is not None and self.cross is not None:
                difference = next(references).inputs - piece.inputs
                self.cross[groups] += difference.transpose(1, 2) @ piece.inputs


@dataclass
class SharedSums:
    """The sums of all weights, one for those that share their inputs.

    Attributes:
        has_cross: whether sums of (r - x) xᵀ are wanted.
        sharing: who shares.
        sums: by owner.
        counts: of the rows of tables, int64, by name.
    """

    has_cross: bool = False
    sharing: Sharing = field(default_factory=Sharing)
    sums: dict[str, InputSums] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self,
        factor: Factor,
        operation: Operation,
        reference: Operation | None = None,
        is_token: Tensor | None = None,
    ) -> None:
        """Add what an operation multiplies by a weight, without what is at padding.

        Args:
            reference: as in `InputSums.add`.
            is_token: as in `metaq.quantizers.padding.token_mask`.

        Raises:
            InputError: inputs that are not finite, or not those of the weights with which it has shared them so far.
        """
        name = factor.view.name
        if not self.sharing.is_new(factor, operation):
            return
        operation = operation.at_tokens(is_token)
        if operation.is_lookup:
            counts = self.counts.setdefault(name, torch.zeros(factor.view.rows, dtype=torch.int64))
            counts += operation.inputs.flatten().bincount(minlength=factor.view.rows).cpu()
            return
        if name not in self.sums:
            self.sums[name] = InputSums.zeros(factor.view, operation.inputs.device, self.has_cross)
        self.sums[name].add(factor, operation, reference and reference.at_tokens(is_token))

    def listener(
        self, is_token: Tensor | None = None, take_reference: Callable[[str], Operation | None] | None = None
    ) -> Listener:
        """Adds every operation of a run on a batch.

        Args:
            is_token: of the batch, as for `add`.
            take_reference: gives the reference of the next operation with a weight, by its name.
        """

        def listen(factor: Factor, operation: Operation, output: Tensor) -> Tensor:
            self.add(factor, operation, take_reference and take_reference(factor.view.name), is_token)
            return output

        return listen

    def of(self, name: str) -> InputSums | None:
        """The sums of a weight; None if it is only looked up in."""
        owner = self.sharing.owners.get(name)
        return None if owner is None else self.sums[owner]

    def positions(self, name: str) -> Tensor:
        """How many inputs each group of a weight has seen; of tables, how many rows were looked up."""
        found = self.of(name)
        return self.counts[name].sum()[None] if found is None else found.positions
