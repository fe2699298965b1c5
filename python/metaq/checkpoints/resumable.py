"""A folder in which work goes on part by part, and the small file in it that an interrupted run is resumed from."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.files import TEMPORARY_PREFIX, write_atomically, write_error

STATE = "metaq-state.json"


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
        self._options = json.loads(json.dumps(options))
        self._results: dict[str, dict[str, dict[str, float]]] = {}
        self._written: dict[str, str] = {}
        self._changing = threading.Lock()
        if path.exists():
            self._check_own()
            if (path / STATE).is_file() and resumes:
                self._load()
        try:
            if not self._written and not self._results:
                shutil.rmtree(path, ignore_errors=True)
            path.mkdir(exist_ok=True)
            for left in path.glob(f"{TEMPORARY_PREFIX}*"):
                left.unlink()
        except OSError as error:
            raise write_error(path, error) from None
        try:
            self._save()
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

    def _load(self) -> None:
        place = self.path / STATE
        try:
            state = json.loads(place.read_text())
            options, self._results, self._written = state["options"], state["results"], state["written"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{place}: expected what a stopped run left, found something else") from None
        differing = [key for key in {**options, **self._options} if options.get(key) != self._options.get(key)]
        if differing:
            found = f"{differing[0]} {options.get(differing[0])!r} then and {self._options.get(differing[0])!r} now"
            raise InputError(f"{self.path}: expected the source and the options that the run began with, found {found}")

    def result(self, part: str, key: str) -> dict[str, float] | None:
        """What a part came to, if it was done by this key."""
        return self._results.get(part, {}).get(key)

    def is_written(self, part: str, key: str) -> bool:
        """Whether the part's file is there, and is that of this key."""
        return self._written.get(part) == key and (self.path / part).is_file()

    def record(self, part: str, key: str, result: Mapping[str, float]) -> None:
        """A part's file is written, and came to this."""
        with self._changing:
            self._results.setdefault(part, {})[key] = dict(result)
            self._written[part] = key
            self._save()

    def _save(self) -> None:
        state = {"options": self._options, "results": self._results, "written": self._written}
        write_atomically(self.path / STATE, json.dumps(state, indent=1).encode())

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
        """The folder takes the place of ``target``, which is removed; the state file stays behind in neither.

        Raises:
            InputError: it cannot.
        """
        before = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.tmp")
        try:
            if target.exists():
                os.rename(target, before)
            os.rename(self.path, target)
            (target / STATE).unlink()
        except OSError as error:
            raise write_error(target, error) from None
        shutil.rmtree(before, ignore_errors=True)

    def close(self) -> None:
        """After a failure: the folder is removed unless a part is finished."""
        if not self._written:
            self.remove()

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def fingerprint(paths: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size and time of change of files, by which it is noticed if they are others than before."""
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in paths.items()}
