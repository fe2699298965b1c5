"""Compression methods: each decides weights, codebook and indices, never bytes."""

from __future__ import annotations

from metaq.errors import InputError, nearest_name
from metaq.methods.base import BoundMethod, Method
from metaq.methods.deep_compression import DeepCompression
from metaq.methods.lc import LC
from metaq.methods.metaq import METaQ

methods: dict[str, type[Method]] = {"metaq": METaQ, "lc": LC, "deep-compression": DeepCompression}


def by_name(name: str) -> type[Method]:
    """A method's configuration class.

    Raises:
        InputError: no method has that name.
    """
    if name not in methods:
        raise InputError(f"method: expected one of {', '.join(methods)}, found {name!r}{nearest_name(name, methods)}")
    return methods[name]


__all__ = ["LC", "BoundMethod", "DeepCompression", "METaQ", "Method", "by_name", "methods"]
