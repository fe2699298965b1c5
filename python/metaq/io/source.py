"""Where weights come from: named tensors that are read a piece at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from metaq.format.dtypes import Dtype
from metaq.format.network import Layout, NamedTensors

if TYPE_CHECKING:
    from torch import Tensor


class StoredTensor(NamedTuple):
    """A tensor to be written: ``octets`` are its elements' bytes, row-major, uint8 in one dimension.

    Tensors that share their octets, the same object, are one tensor under several names.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    octets: np.ndarray


class TensorSource(NamedTensors, Protocol):
    """Named tensors of a checkpoint. May be read from several threads at a time."""

    def read(self, name: str, elements: range) -> Tensor:
        """Elements of a tensor by their places in the flattened one, in its dtype, on the CPU; not to be changed.

        Raises:
            InputError: they cannot be read any more.
        """

    def close(self) -> None:
        """Let go of what is open."""


class StateSource:
    """A state dict in memory, on any device, as a `TensorSource`.

    Attributes:
        is_part: whether the file that the state dict is of holds more beside it.

    Raises:
        InputError: an empty state, or a tensor that a file cannot hold.
    """

    is_part = False

    def __init__(self, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, name: str = "") -> None:
        from metaq.compressed_model import check_state, shared_names
        from metaq.tensors import FORMAT_DTYPES

        check_state(state)
        self.name, self.metadata, self.aliases = name, dict(metadata or {}), shared_names(state)
        self.layouts = {key: Layout(FORMAT_DTYPES[tensor.dtype], tuple(tensor.shape)) for key, tensor in state.items()}
        self._flat = {
            key: tensor.detach().cpu().resolve_neg().reshape(-1)
            for key, tensor in state.items()
            if key not in self.aliases
        }

    def read(self, name: str, elements: range) -> Tensor:
        """Elements of a tensor, as a view."""
        return self._flat[name][elements.start : elements.stop]

    def close(self) -> None:
        """Do nothing, because nothing is open."""


def size_bytes(source: TensorSource) -> int:
    """The bytes of all tensors, those of shared ones counted once."""
    return sum(layout.size_bytes for name, layout in source.layouts.items() if name not in source.aliases)


def stored(state: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Torch's tensors, to be written; those that are the same object stay shared."""
    from metaq.tensors import FORMAT_DTYPES, octets_of

    octets: dict[int, np.ndarray] = {}
    for tensor in state.values():
        if id(tensor) not in octets:
            octets[id(tensor)] = octets_of(tensor)
    return {
        name: StoredTensor(FORMAT_DTYPES[tensor.dtype], tuple(tensor.shape), octets[id(tensor)])
        for name, tensor in state.items()
    }


def tensor_of(tensor: StoredTensor) -> Tensor:
    """Torch's tensor of the same memory, or of a copy where that must not be changed."""
    import torch

    from metaq.tensors import DTYPES

    octets = tensor.octets if tensor.octets.flags.writeable else tensor.octets.copy()
    if not octets.size:
        return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    return torch.from_numpy(octets).view(DTYPES[tensor.dtype]).reshape(tensor.shape)
