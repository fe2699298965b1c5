"""What becomes of each parameter of a model, for people to read before they train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from metaq.binding.selection import Choice
from metaq.codebook import Codebook, UniformCodebook
from metaq.metrics import entropy_bits


@dataclass(frozen=True)
class ParameterReport:
    """A parameter's row.

    Attributes:
        name: with the other names of the same weights, where they are tied.
        shape: of the weights.
        fate: what becomes of it, in words.
        levels: where they lie, empty for a parameter that is kept.
        bits_per_weight: entropy of its symbols now; those of its dtype for a parameter that is kept.
    """

    name: str
    shape: tuple[int, ...]
    fate: str
    levels: str
    bits_per_weight: float


@dataclass(frozen=True)
class Report:
    """The rows of all parameters, in the model's order."""

    rows: tuple[ParameterReport, ...]

    @classmethod
    def of(cls, parameters: Iterable[tuple[Choice, tuple[Codebook, Tensor] | None]]) -> Report:
        """The report on a model's parameters, each with its codebook and symbols as it is now, or None."""
        return cls(tuple(_row(choice, quantized) for choice, quantized in parameters))

    def __str__(self) -> str:
        """A table."""
        head = ("parameter", "shape", "bits/weight", "what becomes of it", "levels")
        lines = [
            (row.name, "x".join(map(str, row.shape)) or "1", f"{row.bits_per_weight:.2f}", row.fate, row.levels)
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
        padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in [head, *lines]]
        return "\n".join("  ".join(line).rstrip() for line in padded)


def _row(choice: Choice, quantized: tuple[Codebook, Tensor] | None) -> ParameterReport:
    name, shape = " = ".join(choice.names), tuple(choice.parameter.shape)
    if quantized is None:
        fate = choice.fate.value if choice.method is None else f"left in float by {type(choice.method).__name__}"
        return ParameterReport(name, shape, fate, "", 8.0 * choice.dtype.itemsize)
    codebook, symbols = quantized
    least, greatest = map(int, symbols.aminmax())
    levels = f"{least} to {greatest}"
    levels += f" times {codebook.step:.4g}" if isinstance(codebook, UniformCodebook) else " of a table"
    bits = entropy_bits(symbols) / symbols.numel()
    return ParameterReport(name, shape, f"{choice.fate.value} by {type(choice.method).__name__}", levels, bits)
