"""A folder in which work goes on part by part, and the small files in it that an interrupted run is resumed from.

`STATE` has the options that the run began with. Each part that is done has a note beside it, which the process that did
the part writes, so that several processes can share a folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.files import TEMPORARY_PREFIX, write_atomically, write_error

STATE = "metaq-state.json"
_NOTE = "metaq-state-{}.json"  # of a part


class WorkFolder:
    """Parts done so far, each a file in the folder, with what they came to under the key they were done by.

    Args:
        path: the folder. One that an earlier run left is emptied unless ``resumes``.
        options: all that the parts depend on.
        resumes: go on with what is there, if anything is.

    Raises:
        InputError: the folder is there and no run left it, cannot be written, or is to be resumed with other options.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], resumes: bool) -> None:
        self.path = path
        own = json.loads(json.dumps(options))
        if path.exists():
            self._check_own()
            if (path / STATE).is_file() and resumes:
                self._check_options(own)
        try:
            if not (resumes and self._notes()):
                shutil.rmtree(path, ignore_errors=True)
            path.mkdir(exist_ok=True)
            for left in path.glob(f"{TEMPORARY_PREFIX}*"):
                left.unlink()
        except OSError as error:
            raise write_error(path, error) from None
        try:
            write_atomically(path / STATE, json.dumps({"options": own}, indent=1).encode())
        except BaseException:
            self.close()
            raise

    def _check_own(self) -> None:
        """A run that was killed at its very start has left an empty folder, or a state file that is not whole."""
        if not self.path.is_dir() or not (
            (self.path / STATE).is_file()
            or all(entry.name.startswith(TEMPORARY_PREFIX) for entry in self.path.iterdir())
        ):
            found = "another"
            raise InputError(f"{self.path}: expected no such folder, or one that a stopped run left, found {found}")

    def _check_options(self, own: Mapping[str, Any]) -> None:
        options = _read(self.path / STATE, {"options"})["options"]
        differing = [key for key in {**options, **own} if options.get(key) != own.get(key)]
        if differing:
            found = f"{differing[0]} {options.get(differing[0])!r} then and {own.get(differing[0])!r} now"
            raise InputError(f"{self.path}: expected the source and the options that the run began with, found {found}")

    def result(self, part: str, key: str) -> dict[str, float] | None:
        """What a part came to, if it was done by this key."""
        found: dict[str, float] | None = self._note(part)["results"].get(key)
        return found

    def is_written(self, part: str, key: str) -> bool:
        """Whether the part's file is there, and is that of this key."""
        return bool(self._note(part)["written"] == key) and (self.path / part).is_file()

    def record(self, part: str, key: str, result: Mapping[str, float]) -> None:
        """A part's file is written, and came to this."""
        results = self._note(part)["results"] | {key: dict(result)}
        note = {"results": results, "written": key}
        write_atomically(self.path / _NOTE.format(part), json.dumps(note, indent=1).encode())

    def _note(self, part: str) -> dict[str, Any]:
        """What is known of a part: results by the keys it was done by, and the key of the file that is there."""
        place = self.path / _NOTE.format(part)
        return _read(place, {"results", "written"}) if place.exists() else {"results": {}, "written": None}

    def _notes(self) -> list[Path]:
        return list(self.path.glob(_NOTE.format("*")))

    def publish(self, part: str, target: Path) -> None:
        """A part's file takes the place of ``target``, and the folder is removed.

        Raises:
            InputError: it cannot.
        """
        try:
            os.replace(self.path / part, target)
        except OSError as error:
            raise write_error(target, error) from None
        self.remove()

    def publish_all(self, target: Path) -> None:
        """The folder takes the place of ``target``, which is removed; state and notes stay behind in neither.

        Raises:
            InputError: it cannot.
        """
        before = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.tmp")
        try:
            if target.exists():
                os.rename(target, before)
            os.rename(self.path, target)
            for left in (target / STATE, *target.glob(_NOTE.format("*"))):
                left.unlink()
        except OSError as error:
            raise write_error(target, error) from None
        shutil.rmtree(before, ignore_errors=True)

    def close(self) -> None:
        """After a failure: the folder is removed unless a part is finished."""
        if not self._notes():
            self.remove()

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _read(place: Path, keys: set[str]) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not keys <= found.keys():
        raise InputError(f"{place}: expected what a stopped run left, found something else")
    return found


def fingerprint(paths: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size and time of change of files, by which it is noticed if they are others than before."""
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in paths.items()}
