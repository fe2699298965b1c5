"""How a weight is a set of matrices, each of which multiplies inputs: y = W x.

A fully connected layer is one matrix. A convolution is one for each group of channels, a column for each channel of the
group and position in the kernel. Experts are one each. What an operation multiplies by may be all of a parameter, its
transpose, one of its matrices, or a block of its rows, as for queries, keys and values that are packed into one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaq.errors import InputError


@dataclass(frozen=True)
class MatrixView:
    """A weight as matrices of shape (rows, columns), rows being the outputs of a group and columns its inputs.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        groups: how many matrices there are.
        is_transposed: whether the parameter has the inputs before the outputs.

    >>> view = MatrixView("conv.weight", (8, 2, 3, 3), groups=4, rows=2, columns=18, is_transposed=False)
    >>> view.matrices(torch.zeros(8, 2, 3, 3)).shape
    torch.Size([4, 2, 18])
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    rows: int
    columns: int
    is_transposed: bool

    def matrices(self, weight: Tensor) -> Tensor:
        """The weight as float32, contiguous, of shape (groups, rows, columns).

        Raises:
            InputError: a weight of another shape.
        """
        if tuple(weight.shape) != self.shape:
            raise InputError(f"{self.name}: expected a weight of shape {self.shape}, found {tuple(weight.shape)}")
        values = weight.detach().to(torch.float32)
        if self.is_transposed:
            return values.reshape(self.groups, self.columns, self.rows).transpose(1, 2).contiguous()
        return values.reshape(self.groups, self.rows, self.columns).contiguous()

    def weight(self, matrices: Tensor) -> Tensor:
        """Matrices of shape (groups, rows, columns) in the shape of the weight.

        Raises:
            InputError: matrices of another shape.
        """
        expected = (self.groups, self.rows, self.columns)
        if tuple(matrices.shape) != expected:
            raise InputError(f"{self.name}: expected matrices of shape {expected}, found {tuple(matrices.shape)}")
        return (matrices.transpose(1, 2) if self.is_transposed else matrices).reshape(self.shape)


@dataclass(frozen=True)
class Factor:
    """What an operation multiplies by: some of a parameter's matrices.

    Attributes:
        view: of the parameter.
        first: the first of the groups.
        count: how many groups there are.
    """

    view: MatrixView
    first: int
    count: int

    @property
    def is_one_of_several(self) -> bool:
        """Whether the parameter has three dimensions, as experts have, and this is one of its matrices."""
        return self.count < self.view.groups and self.view.groups == self.view.shape[0] and len(self.view.shape) == 3


class Weights:
    """The parameters of a model that may be matrices, found again by where they lie in memory.

    Args:
        named: parameters by name; those of fewer than two dimensions are left out.

    Attributes:
        parameters: by name.
        views: of those that were found so far, in that order, by name.
        used_differently: names of those that later were used as other matrices than at first.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self.parameters = {name: parameter for name, parameter in named if parameter.ndim >= 2 and parameter.numel()}
        self.views: dict[str, MatrixView] = {}
        self.used_differently: set[str] = set()
        self._names: dict[int, list[str]] = {}
        for name, parameter in self.parameters.items():
            self._names.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)

    def matrix(self, used: Tensor) -> Factor | None:
        """The factor of an operation, if it is a parameter or a part of one.

        Args:
            used: of shape (outputs, inputs) or (groups, outputs, inputs).
        """
        return self._find(used, lambda name, parameter: _factor(name, parameter, used))

    def filters(self, used: Tensor, groups: int) -> Factor | None:
        """The factor of a convolution of so many groups of channels, if it is a parameter."""
        return self._find(used, lambda name, parameter: _filters(name, parameter, used, groups))

    def _find(self, used: Tensor, look: Callable[[str, Tensor], Factor | None]) -> Factor | None:
        for name in self._names.get(used.untyped_storage().data_ptr(), ()):
            found = look(name, self.parameters[name].detach())
            if found is not None:
                return self._in_known_view(found)
        return None

    def _in_known_view(self, factor: Factor) -> Factor | None:
        """The factor in the view in which its parameter was used first; None if it is not a part of that."""
        view = factor.view
        known = self.views.setdefault(view.name, view)
        if view == known:
            return factor
        first, first_rest = divmod(factor.first * view.rows, known.rows)
        count, count_rest = divmod(factor.count * view.rows, known.rows)
        if view.is_transposed or known.is_transposed or view.columns != known.columns or first_rest or count_rest:
            self.used_differently.add(view.name)
            return None
        return Factor(known, first, count)


def _factor(name: str, stored: Tensor, used: Tensor) -> Factor | None:
    """What ``used`` is of one parameter."""
    shape = tuple(stored.shape)
    for is_transposed in (False, True):
        oriented = used.detach().transpose(-1, -2) if is_transposed else used.detach()
        rows, columns = used.shape[-2:]
        if _is_same(oriented, stored):
            groups = shape[0] if used.ndim == 3 else 1
            return Factor(MatrixView(name, shape, groups, rows, columns, is_transposed), 0, groups)
        if used.ndim == 2 and stored.ndim == 3 and _is_same(oriented, stored[0], anywhere=True):
            group, rest = divmod(_offset(used, stored), stored.stride(0))
            if rest == 0 and 0 <= group < shape[0]:
                return Factor(MatrixView(name, shape, shape[0], rows, columns, is_transposed), group, 1)
    return _block_of_rows(name, stored, used)


def _block_of_rows(name: str, stored: Tensor, used: Tensor) -> Factor | None:
    """Rows that follow each other. Their number and place say how many rows make a group."""
    if used.ndim != 2 or not stored.is_contiguous():
        return None
    flat = stored.flatten(1)
    rows, columns = used.shape
    row, rest = divmod(_offset(used, stored), columns)
    if used.shape[1:] != flat.shape[1:] or used.stride() != flat.stride() or rest or not 0 <= row <= len(flat) - rows:
        return None
    size = math.gcd(row, rows, len(flat))
    view = MatrixView(name, tuple(stored.shape), len(flat) // size, size, columns, False)
    return Factor(view, row // size, rows // size)


def _offset(used: Tensor, stored: Tensor) -> int:
    """How many elements after the beginning of a parameter that of a part of it lies."""
    return int(used.storage_offset()) - int(stored.storage_offset())


def _filters(name: str, stored: Tensor, used: Tensor, groups: int) -> Factor | None:
    if not _is_same(used, stored):
        return None
    shape = tuple(used.shape)
    return Factor(MatrixView(name, shape, groups, shape[0] // groups, used[0].numel(), False), 0, groups)


def _is_same(one: Tensor, other: Tensor, anywhere: bool = False) -> bool:
    """Whether two tensors of one storage have the same shape and strides and, unless ``anywhere``, the same place."""
    if one.shape != other.shape or (not anywhere and one.storage_offset() != other.storage_offset()):
        return False
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or first == second for size, first, second in strides)
