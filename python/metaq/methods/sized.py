"""A method that is given the size to end at, and finds its own strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method
from metaq.methods.size_control import SizeTarget, aimed
from metaq.methods.training import UNKNOWN_TRAINING, Training


@dataclass(frozen=True)
class Sized(Method):
    """A method that trains to a size: ``Sized(HEMP(), target_bytes=20_000)`` or ``Sized(LC(), target_ratio=20)``.

    The size is that of the whole file at the end of a training whose length is known. With pruning, write
    ``Pruned(Sized(METaQ(), target_bytes=...), LOBSTER())``.

    Attributes:
        method: `METaQ` (for which its own two fields are a shorthand), `HEMP` or `LC`.
        target_bytes: of the file, or 0 where `target_ratio` says it.
        target_ratio: bytes of the method's parameters in float32 for one of the file's; 0 where `target_bytes` says it.

    Raises:
        InputError: neither target or both; in `bind`, a method that cannot be steered, or an unknown length.
    """

    method: Method
    target_bytes: int = 0
    target_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not self._target():
            raise InputError("Sized: expected target_bytes or target_ratio, found neither")

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundMethod:
        """The method at work on these parameters, with its size as the aim."""
        return aimed(self.method.bind(parameters, training), self._target())

    def bind_frozen(self, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> BoundMethod | None:
        """As the method itself does."""
        return self.method.bind_frozen(parameters, training)

    def _target(self) -> SizeTarget:
        return SizeTarget(self.target_bytes, self.target_ratio)
