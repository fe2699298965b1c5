"""Which tensor of a model each tensor of its checkpoint has become.

A model's code may call a tensor otherwise than the files it is loaded from: with another prefix, or by a newer name. A
tensor is found by its values, and of several equal ones that is taken whose name has most in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from metaq.checkpoints.config import CompressionConfig
from metaq.errors import InputError
from metaq.io.source import TensorSource

_FEW = 16  # elements that are compared first


@dataclass(frozen=True)
class Matches:
    """The outcome.

    Attributes:
        names: for each tensor of the sources, second names apart, the name that the model has for it.
        missing: names of those that the model does not have, or not with these values.
    """

    names: dict[str, str]
    missing: tuple[str, ...]

    def translated(self, config: CompressionConfig) -> CompressionConfig:
        """A configuration whose patterns match, by the model's names, what they match by those of the sources.

        Raises:
            InputError: there is no such pattern.
        """
        kept = [own for name, own in self.names.items() if config.keeps(name)]
        bits = {self._translated(pattern): bits for pattern, bits in config.of_names(self.names).tensor_bits.items()}
        return replace(config, keep=tuple(dict.fromkeys(map(_literal, kept))), tensor_bits=bits)

    def _translated(self, pattern: str) -> str:
        wanted = {own for name, own in self.names.items() if fnmatchcase(name, pattern)}
        for candidate in (pattern, f"*{pattern}", *(pattern[i + 1 :] for i, c in enumerate(pattern) if c == ".")):
            if {own for own in self.names.values() if fnmatchcase(own, candidate)} == wanted:
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
    names: dict[str, str] = {}
    missing: list[str] = []
    seen: set[str] = set()
    for source in sources:
        for name, layout in source.layouts.items():
            if name in seen:
                raise InputError(f"{source.name}: expected other tensors than in the other shards, found {name!r} too")
            seen.add(name)
            if name in source.aliases:
                continue
            taken = set(names.values())
            near = sorted(by_shape[layout.shape], key=lambda own: (-_likeness(name, own), own in taken))
            found = next((own for own in near if _is_same(source, name, state[own])), None)
            if found is None:
                missing.append(name)
            else:
                names[name] = found
    return Matches(names, tuple(missing))


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
