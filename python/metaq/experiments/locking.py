"""Work in a folder that several processes share, one at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metaq.errors import InputError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in a folder, which is made: among the processes of all machines that see it.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write to, found {error.strerror}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
