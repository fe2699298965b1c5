"""Where outputs may go: nowhere over a source, and over what exists only when told to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metaq.checkpoints.resumable import WorkFolder, fingerprint, finished_before, locked, put_back
from metaq.errors import InputError
from metaq.io.huggingface import Folder, read_folder
from metaq.io.standard import STANDARD


@contextmanager
def working(
    output: Path, work: str, sources: Mapping[str, Path], described: Mapping[str, Any], resume: bool
) -> Iterator[WorkFolder]:
    """The folder in which an output is made; after a failure it stays if a part of it is finished.

    Args:
        work: what is done.
        sources: the files that it is done with, by the names of what comes of them.
        described: all else that the parts depend on.
        resume: go on with what a stopped run left, which may be the output in its place (`WorkFolder.finished`).

    Raises:
        InputError: another run makes the output, or as of `WorkFolder`.
    """
    with locked(output):
        folder = WorkFolder(output, {"work": work, "source": fingerprint(sources), **described}, resume)
        try:
            yield folder
        except BaseException:
            folder.close()
            raise


def may_finish(output: Path, resume: bool) -> bool:
    """Whether an output that exists is no reason to refuse it: it is that of a stopped run, which is resumed."""
    return resume and finished_before(output) is not None


def check_file(source: Path, output: Path, force: bool) -> None:
    """Raise an InputError unless a file may be written to this place.

    Args:
        force: whether one that exists may be replaced.
    """
    if output == STANDARD or not output.exists():
        return
    if source != STANDARD and source.exists() and os.path.samefile(source, output):
        raise InputError(f"{output}: expected another place than the source, found the source itself")
    if not output.is_file():
        found = "a directory" if output.is_dir() else "a device or pipe"
        raise InputError(f"{output}: expected a file to write, found {found}")
    if not force:
        raise InputError(f"{output}: expected no such file yet, found one; --force replaces it")


def check_folder(source: Folder, output: Path, suffix: str, force: bool) -> None:
    """Raise an InputError unless a folder of shards of this suffix may be written to this place.

    Args:
        force: whether a folder of such shards that exists may be replaced; one of other files never is.
    """
    if output == STANDARD:
        raise InputError(f"{source.path}: expected a folder to write to for a folder, found standard output")
    own, wanted = source.path.resolve(), output.resolve()
    if wanted.is_relative_to(own):
        raise InputError(f"{output}: expected a place outside of {source.path}, found one inside")
    if own.is_relative_to(wanted):
        raise InputError(f"{output}: expected a place that is not around {source.path}, found one that is")
    put_back(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        _check_replaceable(output, suffix, force)
    source.check_names(suffix)


def _check_replaceable(output: Path, suffix: str, force: bool) -> None:
    expected = f"{output}: expected no such folder or an empty one"
    if not output.is_dir():
        raise InputError(f"{expected}, found a file")
    try:
        read_folder(output, suffix)
    except InputError:
        raise InputError(f"{expected}, found one with files in it that are no *{suffix} shards") from None
    if not force:
        raise InputError(f"{expected}, found one with files in it; --force replaces it")
