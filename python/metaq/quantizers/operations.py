"""Operations that multiply inputs by a weight, as they are called: what they multiply, and by what.

`recognise` takes any call of a torch function. What it knows are products, convolutions, products with one of several
matrices for each input (experts), and lookups in a table. Padding that a module does itself is in the inputs already.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from metaq.quantizers.layers import Factor, Weights
from metaq.quantizers.padding import at_tokens

_PATCH_ELEMENTS = 1 << 24  # that are made of a convolution's inputs at a time


@dataclass(frozen=True)
class Piece:
    """Inputs that were multiplied by some of an operation's groups.

    Attributes:
        first: the first of these groups, counted from the first of the operation's.
        count: how many groups there are.
        inputs: float32, of shape (count, positions, columns), or (1, positions, columns) if all groups have the same.
    """

    first: int
    count: int
    inputs: Tensor


@dataclass(frozen=True)
class Operation(ABC):
    """A call that multiplies ``inputs`` by ``weight``."""

    inputs: Tensor
    weight: Tensor

    @property
    def is_lookup(self) -> bool:
        """Whether the inputs are indices of rows, rather than multiplied."""
        return False

    @property
    def is_routed(self) -> bool:
        """Whether it depends on the model which inputs are multiplied by which group."""
        return False

    def at_tokens(self, is_token: Tensor | None) -> Self:
        """Without inputs at padding, if they are ordered by samples and positions (`metaq.quantizers.padding`)."""
        return replace(self, inputs=at_tokens(self.inputs, is_token, inner=0 if self.is_lookup else 1))

    @abstractmethod
    def factor(self, weights: Weights) -> Factor | None:
        """The parameter multiplied by, if it is one."""

    @abstractmethod
    def pieces(self, factor: Factor) -> Iterator[Piece]:
        """The inputs as matrices."""


class _Product(Operation):
    """``inputs @ weight.T``, weight of shape (outputs, inputs)."""

    def factor(self, weights: Weights) -> Factor | None:
        return weights.matrix(self.weight)

    def pieces(self, factor: Factor) -> Iterator[Piece]:
        yield Piece(0, factor.count, self.inputs.detach().float().reshape(1, -1, factor.view.columns))


class _SlotProduct(_Product):
    """``inputs[g] @ weight[g].T``, weight of shape (groups, outputs, inputs)."""

    def at_tokens(self, is_token: Tensor | None) -> Self:
        return replace(self, inputs=at_tokens(self.inputs.transpose(0, 1), is_token).transpose(0, 1))

    def pieces(self, factor: Factor) -> Iterator[Piece]:
        yield Piece(0, factor.count, self.inputs.detach().float())


@dataclass(frozen=True)
class _SortedProduct(Operation):
    """As `_SlotProduct`, of inputs that follow each other by group, ``ends`` being where each group's end."""

    ends: Tensor

    @property
    def is_routed(self) -> bool:
        return True

    def factor(self, weights: Weights) -> Factor | None:
        return weights.matrix(self.weight)

    def pieces(self, factor: Factor) -> Iterator[Piece]:
        for group, part in enumerate(self._parts(self.inputs)):
            yield Piece(group, 1, part.detach().float()[None])

    def _parts(self, tensor: Tensor) -> Iterator[Tensor]:
        start = 0
        for end in self.ends.tolist():
            yield tensor[start:end]
            start = end


@dataclass(frozen=True)
class _Convolution(Operation):
    """A convolution in one to three dimensions; its columns are channels of a group times positions in the kernel."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def factor(self, weights: Weights) -> Factor | None:
        return weights.filters(self.weight, self.groups)

    def pieces(self, factor: Factor) -> Iterator[Piece]:
        samples = self._batched(self.inputs.detach())
        ends = [width for pair in reversed(self.padding) for width in pair]
        size = math.prod(samples.shape[1:]) * math.prod(self.weight.shape[2:])
        for part in samples.split(max(1, _PATCH_ELEMENTS // max(1, size))):
            yield Piece(0, self.groups, self._patches(functional.pad(part.float(), ends)))

    def _batched(self, tensor: Tensor) -> Tensor:
        return tensor[None] if tensor.ndim < self.weight.ndim else tensor

    def _patches(self, padded: Tensor) -> Tensor:
        """Of shape (groups, samples * positions, channels of a group * positions in the kernel)."""
        kernel = self.weight.shape[2:]
        patches = padded
        for axis, (size, step, gap) in enumerate(zip(kernel, self.stride, self.dilation, strict=True)):
            patches = patches.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
        grouped = patches.unflatten(1, (self.groups, -1))  # samples, groups, channels, positions..., kernel...
        places = range(3, 3 + len(kernel))
        order = (1, 2, *(place + len(kernel) for place in places), 0, *places)  # so that long runs are copied
        columns: Tensor = grouped.permute(order).reshape(self.groups, self.weight[0].numel(), -1)
        return columns.transpose(1, 2)


class _Lookup(Operation):
    """Rows of a table, at the indices ``inputs``."""

    @property
    def is_lookup(self) -> bool:
        return True

    def factor(self, weights: Weights) -> Factor | None:
        return weights.matrix(self.weight)

    def pieces(self, factor: Factor) -> Iterator[Piece]:
        yield from ()


def recognise(function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Operation | None:
    """What a call of a torch function multiplies, if it is such a call."""
    read = _READERS.get(function)
    if read is None:
        return None
    try:
        return read(*arguments, **keywords)
    except TypeError:  # a form of the call that the reader does not know
        return None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Operation | None:
    return _Product(input, weight) if weight.ndim == 2 else None


def _times(input: Tensor, other: Tensor, **_: Any) -> Operation | None:
    """``input @ other``."""
    if not isinstance(other, Tensor) or input.ndim == 0 or other.ndim not in (2, 3):
        return None
    if other.ndim == 2:
        return _Product(input, other.T)
    return _SlotProduct(input, other.transpose(1, 2)) if input.ndim == 3 and len(input) == len(other) else None


def _add_times(input: Tensor, first: Tensor, second: Tensor, **_: Any) -> Operation | None:
    """``input + first @ second``."""
    return _times(first, second)


def _sorted(input: Tensor, weight: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Operation | None:
    """``input @ weight[g]`` of inputs that are sorted by group."""
    if offs is None or input.ndim != 2 or weight.ndim != 3:
        return None
    return _SortedProduct(input, weight.transpose(1, 2), offs)


def _lookup(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Operation:
    return _Lookup(input, weight)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Operation:
    count = weight.ndim - 2
    gaps = _each(dilation, count)
    if isinstance(padding, str):
        spans = [gap * (size - 1) for gap, size in zip(gaps, weight.shape[2:], strict=True)]
        ends = [(span // 2, span - span // 2) if padding == "same" else (0, 0) for span in spans]
    else:
        ends = [(width, width) for width in _each(padding, count)]
    return _Convolution(input, weight, _each(stride, count), tuple(ends), gaps, groups)


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each dimension."""
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * (count if len(value) == 1 else 1)


_READERS: dict[Callable[..., Any], Callable[..., Operation | None]] = {
    functional.linear: _linear,
    functional.embedding: _lookup,
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    torch.matmul: _times,
    torch.mm: _times,
    torch.bmm: _times,
    torch.addmm: _add_times,
    torch.baddbmm: _add_times,
    Tensor.matmul: _times,
    Tensor.__matmul__: _times,
    Tensor.mm: _times,
    Tensor.bmm: _times,
}
if hasattr(torch, "_grouped_mm"):
    _READERS[torch._grouped_mm] = _sorted
