"""A log of a network's steps: keyframes, and between them differences (docs/format.md, "Update logs")."""

from __future__ import annotations

import fcntl
import logging
import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import numpy as np

from metaq.errors import InputError
from metaq.files import Closable, atomic_file, sync_folder, write_error
from metaq.format.applying import Application, in_memory, open_difference
from metaq.format.changes import encode_difference
from metaq.format.log_file import MOST_STEP, LogFile, Record, checked_file
from metaq.format.network import Network, OctetNetwork
from metaq.format.reader import NewArray, Reader
from metaq.format.whole_network import encode_network, read_network

Array = TypeVar("Array")
LogPlace = str | os.PathLike[str] | BinaryIO

_logger = logging.getLogger(__name__)


class LogReader(Closable, Generic[Array]):
    """The steps of an update log, whose file may grow meanwhile.

    Args:
        file: the log's path, or a file object that can be read and moved in, which stays open.
        new: makes arrays.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is no log, or is damaged.
    """

    def __init__(self, file: LogPlace, new: NewArray[Array]) -> None:
        self._new, self._own = new, not hasattr(file, "read")
        opened = _opened(file, os.O_RDONLY) if isinstance(file, str | os.PathLike) else checked_file(file, False)
        self._log = LogFile(opened, _name_of(file))
        try:
            self._log.scan()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of a file that was opened by its path."""
        if self._own:
            self._log.file.close()

    @property
    def steps(self) -> list[int]:
        """The steps that are there by now, in order; one that is not finished is not among them.

        Raises:
            FormatError: the log is damaged.
        """
        self._log.scan()
        return [record.step for record in self._log.records]

    def read(self, step: int | None = None) -> dict[str, Array]:
        """Every tensor of a step, by default the last one, by name; shared ones are the same object.

        Raises:
            InputError: there is no such step.
            FormatError: the log is damaged.
        """
        return self._arrays(network_at(self._log, self._place(step)))

    def read_from(self, step: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """That step and all later ones in order, each with its tensors, made of the one before.

        Raises:
            InputError: there is no such step.
            FormatError: the log is damaged.
        """
        network: OctetNetwork | None = None
        place = self._place(step)
        while place < len(self._log.records):
            network = network_at(self._log, place, network)
            yield self._log.records[place].step, self._arrays(network)
            place += 1
            self._log.scan()

    def payload(self, step: int) -> bytes:
        """A step's `.mtq` file: a whole network, or a difference from the step before, for `metaq.apply`.

        Raises:
            InputError: there is no such step.
        """
        return self._log.payload(self._log.records[self._place(step)])

    def metadata(self, step: int) -> dict[str, str]:
        """The texts that a step was given.

        Raises:
            InputError: there is no such step.
            FormatError: the log is damaged.
        """
        return dict(_reader(self._log, self._log.records[self._place(step)]).header.metadata)

    def _place(self, step: int | None) -> int:
        steps = self.steps
        if not steps:
            raise InputError(f"{self._log.name}: expected a step, found none yet")
        place = len(steps) - 1 if step is None else bisect_left(steps, step)
        if step is not None and (place == len(steps) or steps[place] != step):
            found = f"steps {steps[0]} to {steps[-1]}, {len(steps)} in all"
            raise InputError(f"{self._log.name}: expected step {step}, found {found}")
        return place

    def _arrays(self, network: OctetNetwork) -> dict[str, Array]:
        made: dict[str, Array] = {}
        for name, layout in network.layouts.items():
            if name in network.aliases:
                made[name] = made[network.aliases[name]]
                continue
            made[name], memory = self._new(*layout)
            memory.reshape(-1).view(np.uint8)[:] = network.octets(name, range(layout.size))
        return made


class LogWriter(Closable):
    """Appends steps to an update log, each there as a whole or not at all, wherever the program is killed.

    The last step stays in memory, since the next one is written as a difference from it. A file has one writer at a
    time.

    Args:
        file: the log's path, which is made if it is not there; or a file object that can be read, written to and moved
            in, which stays open. What an earlier writer did not finish is cut off.
        keyframe_every: of so many steps the first is written whole, so that no more than the others are applied to it.

    Raises:
        InputError: the file cannot be opened or written, or another writer has it.
        FormatError: it is no log, or is damaged.
    """

    def __init__(self, file: LogPlace, *, keyframe_every: int = 100) -> None:
        if keyframe_every < 1:
            raise InputError(f"keyframe_every: expected at least 1, found {keyframe_every}")
        self._keyframe_every = keyframe_every
        self._path = Path(file) if isinstance(file, str | os.PathLike) else None
        self._log = self._opened_log(file)
        try:
            self._log.scan()
            if self._log.end and (left := self._log.unfinished_bytes()):
                _logger.warning("%s: the last %d bytes are of a step that was not finished; removed", file, left)
            is_new = self._log.end == 0
            self._log.cut()
            if is_new and self._path is not None:
                self._sync_name()
            last = len(self._log.records) - 1
            self._last = network_at(self._log, last) if last >= 0 else None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the last step, and of a file that was opened by its path."""
        self._last = None
        if self._path is not None:
            self._log.file.close()

    @property
    def steps(self) -> list[int]:
        """The steps that are there, in order."""
        return [record.step for record in self._log.records]

    def append_network(self, network: Network, step: int | None) -> int:
        """Write a network as the next step.

        Args:
            step: its number, above all that are there; by default one more than the last.

        Returns:
            The bytes that it takes.

        Raises:
            InputError: another number, something that no file can hold, or no room; the log is as it was.
        """
        steps = self.steps
        least = steps[-1] + 1 if steps else 0
        number = least if step is None else step
        if not least <= number <= MOST_STEP:
            raise InputError(f"{self._log.name}: expected a step from {least} to {MOST_STEP}, found {number}")
        last = None if self._last is None or self._since_keyframe() >= self._keyframe_every else self._last
        payload = encode_network(network) if last is None else encode_difference(last, network)
        size = self._log.append(number, last is None, payload)
        last, self._last = self._last, None  # where the copy is not finished, the next step is a keyframe
        self._last = copied(network, last)
        return size

    def drop(self, before: int) -> None:
        """Remove all steps below a number; the log is rewritten, and takes its own place once all is done.

        The first step that is left becomes a keyframe. Readers that have the log open see the old one.

        Raises:
            InputError: no step would be left, the log is no file at a path, or cannot be written; it is as it was, or
                all is done but that its folder could not be synced.
            FormatError: it is damaged.
        """
        place = bisect_left(self.steps, before)
        if self._path is None:
            raise InputError(f"{self._log.name}: expected a log at a path to drop steps of, found a file object")
        if place == len(self._log.records):
            raise InputError(f"{self._log.name}: expected a step of {before} or more to keep, found none")
        if place == 0:
            return
        first, *others = self._log.records[place:]
        payload = self._log.payload(first) if first.is_keyframe else encode_network(network_at(self._log, place))
        kept: BinaryIO | None = None
        try:
            with atomic_file(self._path) as file:
                kept = os.fdopen(os.dup(file.fileno()), "r+b", buffering=0)
                fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before it has the log's name
                new = LogFile(file, self._log.name)
                new.append(first.step, True, payload, is_synced=False)
                for record in others:
                    new.append(record.step, record.is_keyframe, self._log.payload(record), is_synced=False)
        finally:
            if kept is not None:
                self._continue_in(kept)

    def _continue_in(self, file: BinaryIO) -> None:
        """Take a file for the log if it has the log's name, as it may after an error too; otherwise close it."""
        if not _has_name(file, self._log.name):
            file.close()
            return
        self._log.file.close()
        self._log = LogFile(file, self._log.name)
        self._log.scan()

    def _sync_name(self) -> None:
        """Have the disk know the log's name, without which its steps would be lost, however often they are synced."""
        try:
            sync_folder(Path(os.path.realpath(self._log.name)).parent)
        except OSError as error:
            raise write_error(self._log.name, error) from None

    def _since_keyframe(self) -> int:
        """How many records there are from the last keyframe on."""
        flags = [record.is_keyframe for record in reversed(self._log.records)]
        return flags.index(True) + 1

    def _opened_log(self, file: LogPlace) -> LogFile:
        if not isinstance(file, str | os.PathLike):
            return LogFile(checked_file(file, True), _name_of(file))
        while True:
            opened = _opened(file, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                opened.close()
                raise InputError(f"{file}: expected no other writer of this log, found one") from None
            if _has_name(opened, file):
                return LogFile(opened, str(file))
            opened.close()  # another writer has dropped steps meanwhile, so that the log is another file


def network_at(log: LogFile, place: int, before: OctetNetwork | None = None) -> OctetNetwork:
    """The network of the record at a place.

    Args:
        before: that of the record before it, if it is at hand.

    Raises:
        InputError: the difference is one of another network.
        FormatError: the log is damaged.
    """
    first = place
    while before is None and not log.records[first].is_keyframe:
        first -= 1
    for record in log.records[first : place + 1]:
        reader = _reader(log, record)
        before = in_memory(Application(reader, before)) if before and not record.is_keyframe else read_network(reader)
        before.name = reader.name
    assert before is not None
    return before


def copied(network: Network, into: OctetNetwork | None) -> OctetNetwork:
    """A network in memory of its own, which is another's where that has the same tensors."""
    owned = [name for name in network.layouts if name not in network.aliases]
    octets: dict[str, np.ndarray] = {}
    for name in owned:
        layout = network.layouts[name]
        now = network.octets(name, range(layout.size))
        is_alike = into is not None and into.layouts.get(name) == layout and name not in into.aliases
        old = into.octets(name, range(layout.size)) if into is not None and is_alike else np.empty_like(now)
        old[:] = now
        octets[name] = old
    return OctetNetwork(dict(network.layouts), dict(network.aliases), octets)


def _reader(log: LogFile, record: Record) -> Reader:
    name = f"{log.name}, step {record.step}"
    data = memoryview(log.payload(record))
    return Reader(data, name) if record.is_keyframe else open_difference(data, name)


def _opened(path: str | os.PathLike[str], flags: int) -> BinaryIO:
    wanted = "a readable" if flags == os.O_RDONLY else "a writable"
    if os.path.exists(path) and not os.path.isfile(path):
        found = "a directory" if os.path.isdir(path) else "a device or pipe"
        raise InputError(f"{path}: expected {wanted} file, found {found}")
    try:
        return os.fdopen(os.open(path, flags, 0o666), "rb" if flags == os.O_RDONLY else "r+b", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: expected {wanted} file, found {error.strerror}") from None


def _has_name(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    """Whether it is an open file that a path leads to."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _name_of(file: LogPlace) -> str:
    return str(file) if isinstance(file, str | os.PathLike) else str(getattr(file, "name", "update log"))
