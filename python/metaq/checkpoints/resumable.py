"""The folder beside an output in which it is made, part by part, and from which a stopped run is resumed.

It is called like the output, with ``.partial`` behind, and holds

- `LOCK`, held by the run that works there, and gone last: by it the folder is known to be metaq's own,
- `STATE`, the options that the run began with, and what it came to once all is done,
- a note beside each part that is done, written by the process that did it, so that several can share the folder,
- `_FILES`, a folder with the parts and all else that is to become the output, and nothing but that,
- `_REPLACED`, a folder that the output takes the place of, for the moment between two renames.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any, cast

from metaq.errors import InputError
from metaq.files import TEMPORARY_PREFIX, replace_file, sync_folder, write_atomically, write_error

LOCK = "metaq-lock"
STATE = "metaq-state.json"
_NOTE = "metaq-state-{}.json"  # of a part
_STATE_KINDS = {"options": dict, "finished": dict | None}
_NOTE_KINDS = {"results": dict, "written": str | None}
_FILES = "files"
_REPLACED = "replaced"

_log = logging.getLogger(__name__)


def work_folder(output: Path) -> Path:
    """Where what is finished of an output waits for the rest: beside what a link leads to."""
    target = Path(os.path.realpath(output))
    return target.with_name(f"{target.name}.partial")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Alone in an output's work folder, which is made.

    Raises:
        InputError: another run works there, no run left the folder that is there, or it cannot be written.
    """
    place = work_folder(output)
    descriptor = None
    while descriptor is None:
        try:
            place.mkdir(exist_ok=True)
            _check_own(place)
        except OSError as error:
            raise write_error(place, error) from None
        descriptor = _lock(place, output)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(place: Path, output: Path) -> int | None:
    """The lock's descriptor; None if another run has just finished and taken the folder away."""
    try:
        descriptor = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise write_error(place, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        found = "one that is at work; wait until it is done, or stop it"
        raise InputError(f"{output}: expected no other run that writes it, found {found}") from None
    except OSError as error:  # not every network file system has locks
        _log.warning("%s: expected a file that can be locked, found %s; start no second run", place, error.strerror)
        return descriptor
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), os.stat(place / LOCK)):
            return descriptor
    os.close(descriptor)
    return None


def _check_own(place: Path) -> None:
    """A run that was killed at its very start has left an empty folder."""
    if not (place / LOCK).is_file() and any(place.iterdir()):
        raise InputError(f"{place}: expected no such folder, or one that a stopped run left, found another")


def put_back(output: Path) -> None:
    """Bring back the folder that a run had moved out of the way when it was killed, if one had.

    Raises:
        InputError: another run works there, or it cannot be moved.
    """
    moved = work_folder(output) / _REPLACED
    if moved.exists():
        with locked(output):
            _put_back(moved, Path(os.path.realpath(output)))


def _put_back(moved: Path, target: Path) -> None:
    if moved.exists() and not target.exists():
        try:
            os.rename(moved, target)
        except OSError as error:
            raise write_error(target, error) from None


def finished_before(output: Path) -> dict[str, Any] | None:
    """What a run came to that was stopped when the output was in its place already; None if none was."""
    place = work_folder(output)
    files = place / _FILES
    with suppress(OSError, InputError):
        found: dict[str, Any] | None = _read(place / STATE, _STATE_KINDS)["finished"]
        return found if output.exists() and not (files.is_dir() and any(files.iterdir())) else None
    return None


class WorkFolder:
    """Parts done so far, each a file in a folder, with what they came to under the key they were done by.

    Args:
        output: what is to come of it. What an earlier run left is removed unless ``resumes``.
        options: all that the parts depend on.
        resumes: go on with what is there, if anything is.

    Attributes:
        path: the folder that the parts are in.
        finished: what the run came to if it was stopped when the output was in its place already, otherwise None.

    Raises:
        InputError: the folder cannot be written, or is to be resumed with other options.
    """

    def __init__(self, output: Path, options: Mapping[str, Any], resumes: bool) -> None:
        self.target, self._place = Path(os.path.realpath(output)), work_folder(output)
        self.path = self._place / _FILES
        self._options = json.loads(json.dumps(options))
        self.finished: dict[str, Any] | None = None
        if resumes and (self._place / STATE).is_file():
            self._check_options()
            self.finished = finished_before(output)
        if self.finished is not None:
            return
        try:
            _put_back(self._place / _REPLACED, self.target)
            if not (resumes and (self._place / STATE).is_file() and self._notes()):
                self._empty()
            self.path.mkdir(parents=True, exist_ok=True)
            for left in self.path.rglob(f"{TEMPORARY_PREFIX}*.tmp"):
                if left.is_file():
                    left.unlink()
        except OSError as error:
            raise write_error(self._place, error) from None
        try:
            self._write_state(None)
        except BaseException:
            self.close()
            raise

    def _check_options(self) -> None:
        options, own = _read(self._place / STATE, _STATE_KINDS)["options"], self._options
        differing = [key for key in {**options, **own} if options.get(key) != own.get(key)]
        if differing:
            found = f"{differing[0]!r} {options.get(differing[0])!r} then and {own.get(differing[0])!r} now"
            expected = "the source and the options that the run began with"
            raise InputError(f"{self._place}: expected {expected}, found {found}")

    def _write_state(self, finished: Mapping[str, Any] | None) -> None:
        state = {"options": self._options, "finished": finished}
        write_atomically(self._place / STATE, json.dumps(state, indent=1).encode())

    def damaged(self) -> InputError:
        """What to raise where `finished` is not what a run comes to."""
        return _damaged(self._place / STATE)

    def result(self, part: str, key: str, names: Collection[str]) -> dict[str, float] | None:
        """The numbers of these names that a part came to, if it was done by this key.

        Raises:
            InputError: the part's note is none that a run leaves.
        """
        found = self._note(part)["results"].get(key)
        if found is None:
            return None
        if not isinstance(found, dict) or not all(_is_number(found.get(name)) for name in names):
            raise self.damaged_note(part)
        return {name: found[name] for name in names}

    def damaged_note(self, part: str) -> InputError:
        """What to raise where a part's note is none that a run leaves."""
        return _damaged(self._place / _NOTE.format(part))

    def is_written(self, part: str, key: str) -> bool:
        """Whether the part's file is there, and is that of this key."""
        return bool(self._note(part)["written"] == key) and (self.path / part).is_file()

    def record(self, part: str, key: str, result: Mapping[str, float]) -> None:
        """A part's file is written, and came to this."""
        results = self._note(part)["results"] | {key: dict(result)}
        note = {"results": results, "written": key}
        write_atomically(self._place / _NOTE.format(part), json.dumps(note, indent=1).encode())

    def _note(self, part: str) -> dict[str, Any]:
        """What is known of a part: results by the keys it was done by, and the key of the file that is there."""
        place = self._place / _NOTE.format(part)
        return _read(place, _NOTE_KINDS) if place.exists() else {"results": {}, "written": None}

    def _notes(self) -> list[Path]:
        return list(self._place.glob(_NOTE.format("*")))

    def publish(self, part: str, finished: Mapping[str, Any]) -> None:
        """A part's file takes the place of the output, and the folder is removed.

        Args:
            finished: what the run came to, for one that is resumed when it was stopped in here.

        Raises:
            InputError: it cannot.
        """
        self._write_state(finished)
        try:
            replace_file(self.path / part, self.target)
        except OSError as error:
            raise write_error(self.target, error) from None
        self.remove()

    def publish_all(self, finished: Mapping[str, Any]) -> None:
        """All files take the place of the output, which is removed, and so is the folder.

        Args:
            finished: as of `publish`.

        Raises:
            InputError: they cannot; what was there before is there then.
        """
        self._write_state(finished)
        moved = self._place / _REPLACED
        try:
            for folder, _, _ in os.walk(self.path):
                sync_folder(folder)
            if self.target.exists():
                self._take_permissions()
                os.rename(self.target, moved)
            os.rename(self.path, self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            _put_back(moved, self.target)
            raise write_error(self.target, error) from None
        self.remove()

    def _take_permissions(self) -> None:
        """Those of the folder to be replaced, and of the files in it that are replaced."""
        for old in (self.target, *self.target.rglob("*")):
            new = self.path / old.relative_to(self.target)
            if new.exists():
                shutil.copymode(old, new)

    def close(self) -> None:
        """After a failure: the folder is removed unless a part is finished."""
        if not self._notes():
            self.remove()

    def remove(self) -> None:
        """Remove the folder and all in it."""
        with suppress(OSError, InputError):  # what is left is known by its lock, and the next run removes it
            _put_back(self._place / _REPLACED, self.target)
            self._empty()
            (self._place / LOCK).unlink(missing_ok=True)
            self._place.rmdir()

    def _empty(self) -> None:
        """Remove all but the lock; first what would let a run be resumed."""
        for name in (self._place / STATE, *self._notes()):
            name.unlink(missing_ok=True)
        for folder in (self.path, self._place / _REPLACED):
            if folder.exists():
                shutil.rmtree(folder)
        for left in self._place.glob(f"{TEMPORARY_PREFIX}*.tmp"):
            left.unlink()


def _read(place: Path, kinds: Mapping[str, type | UnionType]) -> dict[str, Any]:
    """An object of JSON that has values of these kinds."""
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(key, ...), kind) for key, kind in kinds.items()):
        raise _damaged(place)
    return found


def _is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number of a size that floats have."""
    return type(value) in (int, float) and abs(cast(float, value)) <= sys.float_info.max


def _damaged(place: Path) -> InputError:
    """What to raise where a file is none that a run leaves."""
    expected = "what a stopped run left"
    return InputError(f"{place}: expected {expected}, found something else; without --resume all is made anew")


def clean_up(output: Path) -> None:
    """Remove what a run has left that was stopped when the output was in its place already."""
    with locked(output):
        WorkFolder(output, {}, resumes=False).remove()


def fingerprint(paths: Mapping[str, Path]) -> dict[str, list[int]]:
    """Size and time of change of files, by which it is noticed if they are others than before."""
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in paths.items()}
