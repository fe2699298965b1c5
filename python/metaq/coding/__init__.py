"""Coders: blocks of integer symbols to bytes and back. Adding one is one file and one line in `coders`."""

from metaq.coding.adaptive import Adaptive
from metaq.coding.base import DEFAULT_CODER, SYMBOL_LIMIT, SYMBOLS_PER_BYTE, Coder, NativeCoder
from metaq.coding.generic import Gzip, Lzma, Stored, Zstd
from metaq.coding.huffman import Huffman
from metaq.coding.mixing import Mixing
from metaq.coding.range import Range
from metaq.coding.rans import Rans
from metaq.errors import FormatError, InputError, nearest_name

__all__ = [
    "DEFAULT_CODER",
    "SYMBOLS_PER_BYTE",
    "SYMBOL_LIMIT",
    "Coder",
    "NativeCoder",
    "Rans",
    "Stored",
    "by_identifier",
    "by_name",
    "coders",
    "identifiers",
]

coders: dict[str, Coder] = {
    coder.name: coder for coder in (Stored(), Huffman(), Range(), Mixing(), Gzip(), Zstd(), Lzma(), Rans(), Adaptive())
}
_by_identifier = {coder.identifier: coder for coder in coders.values()}


def by_name(name: str) -> Coder:
    """The coder of that name. Raises InputError, naming the nearest, if there is none."""
    if name in coders:
        return coders[name]
    raise InputError(f"coder: expected one of {', '.join(coders)}, found {name!r}{nearest_name(name, coders)}")


def by_identifier(identifier: int) -> Coder:
    """The coder with that byte in the file. Raises FormatError if there is none."""
    if identifier not in _by_identifier:
        raise FormatError(f"coder: expected an identifier among {sorted(_by_identifier)}, found {identifier}")
    return _by_identifier[identifier]


def identifiers() -> list[int]:
    """The bytes in a file that stand for a coder."""
    return list(_by_identifier)
