"""The base of a difference: a network as a compressor was given it, and what of a trained one is not as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaq.binding.selection import Choice
from metaq.binding.shards import is_distributed
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, check_state, shared_names
from metaq.differences import checksum
from metaq.errors import InputError
from metaq.methods.difference import Difference
from metaq.tensors import octets_of


class BaseNetwork:
    """All tensors of a base, and the name that files know it by.

    Args:
        state: a model's state dict, which is copied.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        check_state(state)
        aliases = shared_names(state)
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in state.items():
            first = aliases.get(name)
            self.tensors[name] = tensor.detach().clone() if first is None else self.tensors[first]
        self._checksum: str | None = None

    def difference(
        self, entries: Mapping[str, CodedTensor | Tensor | Alias], state: Mapping[str, Tensor], coded: Iterable[str]
    ) -> CompressedModel:
        """What of a network is to be stored: its tensors that are not as in the base.

        Args:
            entries: of all tensors of the network what a file would hold.
            state: the tensors themselves.
            coded: names of those whose entries are differences.
        """
        sums = set(coded)
        found: dict[str, CodedTensor | Tensor | Alias] = {}
        for name, entry in entries.items():
            if isinstance(entry, Alias):
                is_changed = entry.name in found
            elif name in sums and isinstance(entry, CodedTensor):
                is_changed = bool(entry.symbols.any())
            else:
                is_changed = not _are_equal(state[name], self.tensors[name])
            if is_changed:
                found[name] = entry
        if self._checksum is None:
            self._checksum = checksum(self.tensors)
        return CompressedModel(found, base=self._checksum)

    def state_dict(self) -> dict[str, Any]:
        """The tensors: a run that is resumed goes on from this base, whatever its model holds then."""
        return {"tensors": self.tensors}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
        self._checksum = None


def has_base(choices: Iterable[Choice]) -> bool:
    """Whether the parameters are to be differences from a base.

    Raises:
        InputError: some are, and others of a method are not: a file holds either; or one is in shards, or is float64,
            which the float32 differences that methods train cannot reach.
    """
    choices = [choice for choice in choices if choice.method is not None]
    methods = {type(choice.method) for choice in choices}
    if Difference in methods and len(methods) > 1:
        others = ", ".join(sorted(method.__name__ for method in methods - {Difference}))
        raise InputError(f"method: expected Difference for all patterns, or for none, found {others} beside it")
    if Difference not in methods:
        return False
    for choice in choices:
        _check_parameter(choice.name, choice.parameter)
    return True


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if is_distributed(parameter):
        raise InputError(f"parameter {name!r}: expected a whole one for a difference, found shards of fully_shard")
    if parameter.dtype == torch.float64:
        raise InputError(f"parameter {name!r}: expected at most float32 for a difference, found float64")


def _are_equal(tensor: Tensor, base: Tensor) -> bool:
    if tensor.shape != base.shape or tensor.dtype != base.dtype:
        return False
    return octets_of(tensor).tobytes() == octets_of(base).tobytes()
