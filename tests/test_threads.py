"""Work on threads comes in order, is not begun far ahead, and stops at the first failure."""

import os
import threading
import time

import pytest

from metaq.errors import InputError
from metaq.threads import in_parallel, stream, thread_counts


def test_thread_counts(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert [thread_counts(parts) for parts in (1, 2, 3, 100)] == [(1, 3), (2, 1), (3, 1), (3, 1)]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_counts(5) == (1, 1)


def test_streams_are_in_order_and_not_far_ahead():
    running, most, lock = 0, 0, threading.Lock()
    taken = []

    def work(item):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, item - len(taken))
        time.sleep(0.001 * (item % 3))
        with lock:
            running -= 1
        return item

    for item in stream(work, range(40), 4):
        taken.append(item)
    assert taken == list(range(40))
    assert most <= 6
    assert list(stream(work, range(5), 1)) == list(range(5))


def test_the_first_failure_stops_the_rest():
    stop, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        if item == 3:
            raise InputError("three")
        return item

    with pytest.raises(InputError, match="three"):
        list(stream(work, range(1000), 2, stop))
    assert stop.is_set()
    assert len(begun) < 20


def test_the_first_failure_is_the_one_that_is_raised():
    stop = threading.Event()

    def work(item):
        if item == 3:
            raise InputError("three")
        return item

    with pytest.raises(InputError, match="three"):
        in_parallel(work, range(10), 2, stop)
    assert in_parallel(work, range(3), 2, threading.Event()) == [0, 1, 2]
