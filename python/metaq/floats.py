"""The arithmetic that files are defined by, in threads that are set otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from metaq import _native


@contextmanager
def default_floats() -> Iterator[None]:
    """Round to nearest within, and keep subnormal floats; a function may be decorated with it.

    Threads may take those for zero, as after `torch.set_flush_denormal(True)`. Native code does so by itself.
    """
    floats = _native.DefaultFloats()
    try:
        yield
    finally:
        floats.restore()
