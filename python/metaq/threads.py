"""Work on several threads, in order, that ends when it should."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from metaq.errors import MetaqError

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 3  # each takes up to 130 MB


class StoppedError(MetaqError):
    """Work was given up because other work failed."""


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], at_most: int | None = None) -> list[Result]:
    """`work` on every item, in order, on as many threads as there are cores, or fewer."""
    threads = min(len(items), os.cpu_count() or 1, at_most or len(items))
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def stream(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, stop: threading.Event | None = None
) -> Iterator[Result]:
    """`work` on every item, in order, no more than ``threads`` results ahead of the one that is taken.

    Where it ends early, ``stop`` is set, so that work under way can be given up, and what is left is not begun.
    """
    if threads < 2:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BaseException:
        if stop is not None:
            stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def thread_counts(parts: int, cores: int | None = None) -> tuple[int, int]:
    """On how many threads to work on files at a time, and on each of them; by default on all cores."""
    threads = min(cores or os.cpu_count() or 1, MOST_THREADS)
    outer = max(1, min(threads, parts))
    return outer, threads // outer


def in_parallel(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> list[Result]:
    """`work` on every item, in order; the first failure stops what else is under way, and is raised."""
    failures: list[BaseException] = []

    def guarded(item: Item) -> Result:
        try:
            return work(item)
        except StoppedError:
            raise
        except BaseException as failure:
            failures.append(failure)
            stop.set()
            raise

    try:
        return list(stream(guarded, items, threads, stop))
    except StoppedError:
        raise failures[0] from None
