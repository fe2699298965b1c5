"""What a checkpoint is compressed to, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from metaq import coding
from metaq.errors import InputError

QUALITIES = {"low": 3e-2, "medium": 3e-3, "high": 3e-4}
DEFAULT_BITS = 4.0
_TARGETS = ("max_error", "size_bytes", "bits", "quality", "step", "lossless")


@dataclass(frozen=True)
class CompressionConfig:
    """What to compress a checkpoint to. At most one of the first four, ``step`` and ``lossless``; without any, 4 bits.

    Attributes:
        max_error: ``Σ‖w - ŵ‖² / Σ‖w‖²`` over all quantized tensors.
        size_bytes: of the whole file, or of all files of a folder together.
        bits: coded bits that a quantized weight takes on average, headers and checksums not counted.
        quality: "low", "medium" or "high": a ``max_error`` of 3e-2, 3e-3 or 3e-4.
        keep: patterns (as in `fnmatch`, case-sensitive) of names whose tensors stay as they are, bit for bit.
        tensor_bits: bits per weight of the tensors that a pattern matches, all together, instead of an equal slope with
            the others. The first pattern that matches counts.
        step: every weight on the nearest multiple of this, whatever error and size that leads to.
        lossless: every tensor stays as it is, bit for bit.
        coder: that files are written with, and by which sizes are measured; by default the one that suits the size
            (`metaq.coding.suitable`).

    Raises:
        InputError: more than one target, one out of its range, patterns beside a target that leaves them no meaning,
            or an unknown coder.
    """

    max_error: float | None = None
    size_bytes: int | None = None
    bits: float | None = None
    quality: str | None = None
    keep: tuple[str, ...] = ()
    tensor_bits: Mapping[str, float] = field(default_factory=dict)
    step: float | None = None
    lossless: bool = False
    coder: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in _TARGETS if getattr(self, name) not in (None, False)]
        if len(given) > 1:
            raise InputError(f"compress: expected at most one of {', '.join(_TARGETS)}, found {', '.join(given)}")
        self._check_patterns()
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise InputError(f"max_error: expected more than 0 and less than 1, found {self.max_error:g}")
        if self.size_bytes is not None and self.size_bytes < 1:
            raise InputError(f"size_bytes: expected at least 1, found {self.size_bytes}")
        for bits in (*self.tensor_bits.values(), *([] if self.bits is None else [self.bits])):
            if not 0 < bits <= 24:
                raise InputError(f"bits: expected more than 0 and at most 24 bits per weight, found {bits:g}")
        if self.quality is not None and self.quality not in QUALITIES:
            raise InputError(f"quality: expected one of {', '.join(QUALITIES)}, found {self.quality!r}")
        if self.step is not None and not 0 < self.step < float("inf"):
            raise InputError(f"step: expected a finite number above 0, found {self.step:g}")
        if self.coder is not None:
            coding.by_name(self.coder)

    def _check_patterns(self) -> None:
        alone = "lossless" if self.lossless else "step" if self.step is not None else None
        if alone and self.tensor_bits:
            raise InputError(f"tensor_bits: expected none beside {alone}, found {', '.join(self.tensor_bits)}")
        if self.lossless and self.keep:
            raise InputError(f"keep: expected no pattern beside lossless, found {', '.join(self.keep)}")

    def check_names(self, names: Iterable[str]) -> None:
        """Raise an InputError unless every pattern matches one of a checkpoint's tensors."""
        known = list(names)
        for pattern in (*self.keep, *self.tensor_bits):
            if not any(fnmatchcase(name, pattern) for name in known):
                found = "no such tensor"
                raise InputError(f"pattern {pattern!r}: expected one that matches a tensor's name, found {found}")

    def keeps(self, name: str) -> bool:
        """Whether a pattern says that the tensor of this name stays as it is."""
        return any(fnmatchcase(name, pattern) for pattern in self.keep)

    def of_names(self, names: Iterable[str]) -> CompressionConfig:
        """The same, without patterns that match none of these names."""
        known = list(names)

        def counts(pattern: str) -> bool:
            return any(fnmatchcase(name, pattern) for name in known)

        bits = {pattern: bits for pattern, bits in self.tensor_bits.items() if counts(pattern)}
        return replace(self, keep=tuple(filter(counts, self.keep)), tensor_bits=bits)

    def bits_pattern(self, name: str) -> str | None:
        """The pattern by which the tensor of this name has bits of its own, if there is one."""
        return next((pattern for pattern in self.tensor_bits if fnmatchcase(name, pattern)), None)


@dataclass(frozen=True)
class CompressionReport:
    """What came of a compression.

    Attributes:
        file: the file or the folder written; "-" for standard output.
        shards: how many files there are in a folder; None for a single file.
        tensors: how many there are, second names of shared ones included.
        source_bytes: of all tensors in their dtypes.
        file_bytes: of the files written.
        relative_squared_error: ``Σ‖w - ŵ‖² / Σ‖w‖²`` over all quantized tensors; 0 if none is quantized.
        bits_per_weight: coded bits per quantized weight; None if none is quantized.
        coder: that the files are written with.
        seconds: by the clock, from the first look at the source on.
    """

    file: str
    shards: int | None
    tensors: int
    source_bytes: int
    file_bytes: int
    relative_squared_error: float
    bits_per_weight: float | None
    coder: str
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller the files are than the tensors."""
        return self.source_bytes / self.file_bytes

    def as_dict(self) -> dict[str, Any]:
        """The figures by the names that ``metaq compress --json`` gives them."""
        place = {"file": self.file} if self.shards is None else {"folder": self.file, "shards": self.shards}
        return {
            **place,
            "tensors": self.tensors,
            "bytes_before": self.source_bytes,
            "bytes": self.file_bytes,
            "ratio": self.ratio,
            "relative_squared_error": self.relative_squared_error,
            "bits_per_weight": self.bits_per_weight,
            "coder": self.coder,
            "seconds": self.seconds,
        }
