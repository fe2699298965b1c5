"""Coders: blocks of integer symbols to bytes and back. Adding one is one file and one line in `coders`."""

from metaq.coding.adaptive import Adaptive
from metaq.coding.base import CHUNK_SYMBOLS, SYMBOL_LIMIT, SYMBOLS_PER_BYTE, Coder, NativeCoder, Speed
from metaq.coding.generic import Gzip, Lzma, Stored, Zstd
from metaq.coding.huffman import Huffman
from metaq.coding.mixing import Mixing
from metaq.coding.range import Range
from metaq.coding.rans import Rans
from metaq.errors import FormatError, entry_of_name

__all__ = [
    "CHUNK_SYMBOLS",
    "DEFAULT_CODER",
    "DIFFERENCE",
    "SYMBOLS_PER_BYTE",
    "SYMBOL_LIMIT",
    "Coder",
    "NativeCoder",
    "Rans",
    "Speed",
    "Stored",
    "by_identifier",
    "by_name",
    "coders",
    "identifiers",
    "name_of",
    "suitable",
]

DIFFERENCE = 9  # the byte in a file of what codes changes of a base, which is no coder of symbols
DEFAULT_CODER = "mixing"  # of networks that were trained to be small
_SLOW_BYTES = 1 << 22  # the slow coder takes well below a second for tensors of fewer bytes

coders: dict[str, Coder] = {
    coder.name: coder for coder in (Stored(), Huffman(), Range(), Mixing(), Gzip(), Zstd(), Lzma(), Rans(), Adaptive())
}
_by_identifier = {coder.identifier: coder for coder in coders.values()}


def by_name(name: str) -> Coder:
    """The coder of that name. Raises InputError, naming the nearest, if there is none."""
    return entry_of_name(name, coders, "coder")


def by_identifier(identifier: int) -> Coder:
    """The coder with that byte in the file. Raises FormatError if there is none."""
    if identifier not in _by_identifier:
        found = f"{identifier}; a newer metaq may have it"
        raise FormatError(f"coder: expected an identifier among {sorted(_by_identifier)}, found {found}")
    return _by_identifier[identifier]


def name_of(identifier: int) -> str:
    """What reports call the coder with that byte in the file, also that of changes."""
    return "difference" if identifier == DIFFERENCE else by_identifier(identifier).name


def identifiers() -> list[int]:
    """The bytes in a file that stand for a coder."""
    return list(_by_identifier)


def suitable(size_bytes: int, lossless: bool = False) -> str:
    """Name of the coder that suits a checkpoint whose tensors have so many bytes; slow ones suit small checkpoints."""
    if size_bytes < _SLOW_BYTES:
        return DEFAULT_CODER
    return "rans" if lossless else "adaptive"
