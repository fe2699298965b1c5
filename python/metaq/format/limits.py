"""What a reader of strangers' files will spend on one."""

from __future__ import annotations

from dataclasses import dataclass

from metaq.errors import InputError
from metaq.format.header import MAX_HEADER_BYTES

_MOST_BYTES = 2**64 - 1


@dataclass(frozen=True)
class Limits:
    """How large a `.mtq` file may be once it is decoded, for who reads files of strangers::

        tensors = metaq.load_file("stranger.mtq", limits=metaq.Limits(header_bytes=1 << 20, decoded_bytes=1 << 30))

    A file may be a million times as large when it is decoded. One beyond the limits is refused before that costs
    anything; docs/robustness.md says how many seconds and bytes of memory a byte within them takes at most.

    Attributes:
        header_bytes: of names, shapes, codebooks and metadata together, before compression; at most the format's 2^26,
            which is the default. 2^20 are enough for some ten thousand tensors.
        decoded_bytes: of all tensors together, each counted once; None for as many as there are.

    Raises:
        InputError: a limit is no number above zero, or the header's is above 2^26.
    """

    header_bytes: int = MAX_HEADER_BYTES
    decoded_bytes: int | None = None

    def __post_init__(self) -> None:
        self._check("header_bytes", self.header_bytes, MAX_HEADER_BYTES)
        if self.decoded_bytes is not None:
            self._check("decoded_bytes", self.decoded_bytes, _MOST_BYTES)

    def numbers(self) -> tuple[int, int]:
        """Both, as numbers."""
        return self.header_bytes, _MOST_BYTES if self.decoded_bytes is None else self.decoded_bytes

    def _check(self, name: str, found: int, most: int) -> None:
        if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= most:
            raise InputError(f"Limits: expected {name} to be 1 to {most}, found {found!r}")
