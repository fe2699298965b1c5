"""A folder's shards shared among the processes that torchrun started, which come to the files of one process.

The first rank searches, asks and decides; the others have their shards open and do what it sends them. What they send
back is added up in the shards' order, so that the search sees the same numbers as in one process. Every process must
see the folder and the output under the same paths.
"""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from metaq.checkpoints.checkpoint import Task
from metaq.checkpoints.parts import Parts
from metaq.errors import InputError, MetaqError
from metaq.io import open_source
from metaq.io.source import TensorSource, size_bytes
from metaq.progress import Progress
from metaq.torchrun import launch

Result = TypeVar("Result")

_LONGEST = timedelta(days=30)  # that a rank may wait for the others; one that is gone is noticed at once


@dataclass(frozen=True)
class _Shares:
    """The first message: each rank's shards, by the names of their parts, and the key that they are opened with."""

    paths: list[dict[str, Path]]
    key: str | None


@dataclass(frozen=True)
class _End:
    """The last message."""

    has_failed: bool


@dataclass
class Ranks:
    """The calling process among those of a run of torchrun, as `Workers` of a `Checkpoint`.

    Attributes:
        rank: of this process.
        count: of all processes.
        cores: that this process may take.
    """

    rank: int
    count: int
    cores: int
    _shares: list[list[str]] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that decides and prints."""
        return self.rank == 0

    def share(self, paths: Mapping[str, Path], sizes_bytes: Mapping[str, int], key: str | None) -> None:
        """Give each rank shards of about as many bytes, on the first one.

        Args:
            paths: by the names of their parts.
            key: under which state dicts lie in them.
        """
        self._shares = balanced(sizes_bytes, self.count)
        _send(_Shares([{part: paths[part] for part in share} for share in self._shares], key))

    def parts(self, sources: Mapping[str, TensorSource], progress: Progress) -> Parts:
        """The first rank's own parts, after `share`."""
        return Parts({part: sources[part] for part in sources if part in self._shares[0]}, progress, self.cores)

    def run(self, task: Task[Result], own: Parts) -> dict[str, Result]:
        """Do a task on all parts; the results of all, on the first rank.

        Raises:
            InputError: a rank is gone.
            Exception: what went wrong on a rank, on the lowest one if on several.
        """
        _send(task)
        found: dict[str, Result] = {}
        failures = []
        for result, failure in _gathered(*_outcome(task, own)):
            found |= result or {}
            failures += [] if failure is None else [failure]
        if failures:
            raise failures[0]
        return found

    def end(self, has_failed: bool) -> None:
        """Let the other ranks end, on the first one."""
        with suppress(InputError):  # gone already
            _send(_End(has_failed))

    def serve(self) -> bool:
        """Do what the first rank sends, until it ends; returns whether all went well."""
        with ExitStack() as opened:
            parts, failure = Parts({}, Progress()), None
            while not isinstance(message := _received(), _End):
                if isinstance(message, _Shares):
                    parts, failure = self._opened(message, opened)
                    continue
                _gathered(*(({}, failure) if failure else _outcome(message, parts)))
        if message.has_failed:
            with suppress(InputError):  # torchrun would end the first rank, which has yet to say what went wrong
                _received()
        return not message.has_failed

    def _opened(self, shares: _Shares, opened: ExitStack) -> tuple[Parts, Exception | None]:
        sources = {}
        try:
            for part, path in shares.paths[self.rank].items():
                sources[part] = opened.enter_context(closing(open_source(path, shares.key)))
        except Exception as failure:
            return Parts({}, Progress()), _sendable(failure, self.rank)
        return Parts(sources, Progress(), self.cores), None


@contextmanager
def joined() -> Iterator[Ranks | None]:
    """The ranks of torchrun's run, connected by gloo; None where it did not start this process, or no other.

    When the first rank leaves, by an error or without, the others end.
    """
    started = launch()
    if started.count == 1:
        yield None
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_LONGEST)
    # Not when the context ends: after a failure the others leave with the group, torchrun then ends the first rank, and
    # that one has to say before what went wrong. A process that ends with its group may be aborted.
    atexit.register(distributed.destroy_process_group)
    ranks = Ranks(started.rank, started.count, max(1, (os.cpu_count() or 1) // started.local_count))
    try:
        yield ranks
    except BaseException:
        if ranks.is_first:
            ranks.end(has_failed=True)
        raise
    if ranks.is_first:
        ranks.end(has_failed=False)


def balanced(sizes_bytes: Mapping[str, int], count: int) -> list[list[str]]:
    """Names in so many groups of about equal size: each, from the largest on, to the group that is smallest so far."""
    groups: list[list[str]] = [[] for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes_bytes, key=lambda name: (-sizes_bytes[name], name)):
        least = totals.index(min(totals))
        groups[least].append(name)
        totals[least] += sizes_bytes[name]
    return groups


def sizes_bytes(sources: Mapping[str, TensorSource]) -> dict[str, int]:
    """The bytes of each part's tensors."""
    return {part: size_bytes(source) for part, source in sources.items()}


def _outcome(task: Task[Result], parts: Parts) -> tuple[dict[str, Result] | None, Exception | None]:
    from torch import distributed

    try:
        return task(parts), None
    except Exception as failure:
        return None, _sendable(failure, distributed.get_rank())


def _sendable(failure: Exception, rank: int) -> Exception:
    """The failure, or what it says, where another process could not read it."""
    try:
        pickle.loads(pickle.dumps(failure))
    except Exception:
        return MetaqError(f"rank {rank}: {type(failure).__name__}: {failure}")
    return failure


def _send(message: Any) -> None:
    """From the first rank to all others."""
    from torch import distributed

    with _noticing_the_lost():
        distributed.broadcast_object_list([message])


def _received() -> Any:
    from torch import distributed

    box = [None]
    with _noticing_the_lost():
        distributed.broadcast_object_list(box)
    return box[0]


def _gathered(result: Any, failure: Exception | None) -> list[tuple[Any, Exception | None]]:
    """All ranks' results and failures on the first rank; nothing on the others."""
    from torch import distributed

    is_first = distributed.get_rank() == 0
    found: list[Any] = [None] * distributed.get_world_size() if is_first else []
    with _noticing_the_lost():
        distributed.gather_object((result, failure), found if is_first else None)
    return found


@contextmanager
def _noticing_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"ranks: expected all of them until the end, found one gone ({reason})") from None
