"""Compression methods: each decides weights, codebook and symbols, never bytes."""

from __future__ import annotations

from metaq.errors import entry_of_name
from metaq.methods.base import BoundMethod, Method
from metaq.methods.deep_compression import DeepCompression
from metaq.methods.difference import Difference
from metaq.methods.hemp import HEMP
from metaq.methods.lc import LC
from metaq.methods.lobster import LOBSTER
from metaq.methods.metaq.method import METaQ
from metaq.methods.pruned import Pruned
from metaq.methods.sized import Sized

methods: dict[str, type[Method]] = {
    "metaq": METaQ,
    "hemp": HEMP,
    "lobster": LOBSTER,
    "lc": LC,
    "deep-compression": DeepCompression,
}


def by_name(name: str) -> type[Method]:
    """A method's configuration class.

    Raises:
        InputError: no method has that name.
    """
    return entry_of_name(name, methods, "method")


__all__ = [
    "HEMP",
    "LC",
    "LOBSTER",
    "BoundMethod",
    "DeepCompression",
    "Difference",
    "METaQ",
    "Method",
    "Pruned",
    "Sized",
    "by_name",
    "methods",
]
