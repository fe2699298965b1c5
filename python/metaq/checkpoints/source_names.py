"""Which tensor of a model each tensor of its checkpoint has become.

A model's code may call a tensor otherwise than the files it is loaded from: with another prefix, or by a newer name. A
tensor is found by its values, and of several equal ones that is taken whose name has most in common. Matrices of
experts that the code has put together in one tensor of shape (experts, rows, columns) are found in there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from metaq.checkpoints.config import CompressionConfig
from metaq.errors import InputError
from metaq.io.source import TensorSource

_FEW = 16  # elements that are compared first


class Place(NamedTuple):
    """Where a tensor is in a model: in the tensor of this name, or in some rows of one of its experts."""

    own: str
    expert: int | None = None
    first_row: int = 0


@dataclass(frozen=True)
class Matches:
    """The outcome.

    Attributes:
        places: for each tensor of the sources, second names apart, its place in the model.
        missing: names of those that the model does not have, or not with these values.
    """

    places: dict[str, Place]
    missing: tuple[str, ...]

    def translated(self, config: CompressionConfig) -> CompressionConfig:
        """A configuration whose patterns match, by the model's names, what they match by those of the sources.

        Of experts, all of a tensor count as kept, or none.

        Raises:
            InputError: there is no such pattern.
        """
        changed = {place.own for name, place in self.places.items() if not config.keeps(name)}
        kept = dict.fromkeys(place.own for place in self.places.values() if place.own not in changed)
        bits = {self._translated(pattern): bits for pattern, bits in config.of_names(self.places).tensor_bits.items()}
        return replace(config, keep=tuple(map(_literal, kept)), tensor_bits=bits)

    def _translated(self, pattern: str) -> str:
        wanted = {place.own for name, place in self.places.items() if fnmatchcase(name, pattern)}
        known = {place.own for place in self.places.values()}
        for candidate in (pattern, f"*{pattern}", *(pattern[i + 1 :] for i, c in enumerate(pattern) if c == ".")):
            if {own for own in known if fnmatchcase(own, candidate)} == wanted:
                return candidate
        if len(wanted) == 1:
            return _literal(wanted.pop())
        found = f"names such as {min(wanted)}"
        raise InputError(f"pattern {pattern!r}: expected one that the model's own names match too, found {found}")


def match(sources: Iterable[TensorSource], state: Mapping[str, Tensor]) -> Matches:
    """Find the tensors of sources in a model's state dict, whose dtypes may be others.

    Raises:
        InputError: a tensor is there twice, or cannot be read.
    """
    by_shape: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, tensor in state.items():
        by_shape[tuple(tensor.shape)].append(name)
    experts = _Experts(state)
    places: dict[str, Place] = {}
    missing: list[str] = []
    seen: set[str] = set()
    taken: set[str] = set()
    for source in sources:
        for name, layout in source.layouts.items():
            if name in seen:
                raise InputError(f"{source.name}: expected other tensors than in the other shards, found {name!r} too")
            seen.add(name)
            if name in source.aliases:
                continue
            near = sorted(by_shape[layout.shape], key=lambda own: (-_likeness(name, own), own in taken))
            whole = next((Place(own) for own in near if _is_same(source, name, state[own])), None)
            found = whole or experts.find(source, name)
            if found is None:
                missing.append(name)
            else:
                places[name] = found
                taken.add(found.own)
    return Matches(places, tuple(missing))


class _Experts:
    """Finds matrices in tensors that hold some for each expert."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor for name, tensor in state.items() if tensor.ndim == 3 and tensor.numel()}
        self._known: dict[tuple[int, int], dict[bytes, Place]] = {}

    def find(self, source: TensorSource, name: str) -> Place | None:
        """The place of a source's tensor, if it is there."""
        shape = source.layouts[name].shape
        if len(shape) != 2 or not self._tensors or 0 in shape:
            return None
        if shape not in self._known:
            self._known[shape] = self._starts(*shape)
        start = source.read(name, range(min(_FEW, shape[1])))
        place = self._known[shape].get(_bytes(start))
        return place if place and _is_same(source, name, part(self._tensors[place.own], place, shape[0])) else None

    def _starts(self, rows: int, columns: int) -> dict[bytes, Place]:
        """The places of all matrices of a shape, by the elements that they begin with."""
        return {
            _bytes(tensor[expert, first, : min(_FEW, columns)]): Place(name, expert, first)
            for name, tensor in self._tensors.items()
            if tensor.shape[2] == columns and tensor.shape[1] % rows == 0
            for expert in range(tensor.shape[0])
            for first in range(0, tensor.shape[1], rows)
        }


def part(tensor: Tensor, place: Place, rows: int) -> Tensor:
    """What is at a place, of so many rows if it is an expert's."""
    return tensor if place.expert is None else tensor[place.expert, place.first_row : place.first_row + rows]


def _bytes(elements: Tensor) -> bytes:
    return elements.detach().float().cpu().contiguous().numpy().tobytes()


def _likeness(name: str, own: str) -> int:
    """How many parts two names have in common, in the same order."""
    blocks = SequenceMatcher(None, name.split("."), own.split("."), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def _is_same(source: TensorSource, name: str, own: Tensor) -> bool:
    """Whether a tensor has the model's values, the start being looked at first."""
    flat = own.detach().reshape(-1)
    return all(
        torch.equal(source.read(name, range(count)).to(flat.dtype), flat[:count].cpu())
        for count in sorted({min(_FEW, flat.numel()), flat.numel()})
    )


def _literal(name: str) -> str:
    """A pattern that matches one name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
