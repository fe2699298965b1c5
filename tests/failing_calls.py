"""Commands in processes of their own whose calls of the C library fail, by `failing_calls.c`, loaded before it.

As a program it is the process that they are forked from, so that Python and torch start once and not for each of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = shutil.which("gcc") or shutil.which("cc")
FOLDER = "FAILING_CALLS_FOLDER"


class Failure(IntEnum):
    """What becomes of calls from the n-th on."""

    NONE = 0
    ONCE = 1  # the n-th fails, no other
    FROM_THEN_ON = 2
    DISK_FULL = 3  # what takes room fails; of a write that is the n-th, half is done
    SHORT_WRITES = 4  # every write does half of what it is asked for


class Outcome(NamedTuple):
    """What became of a command.

    Attributes:
        code: its exit code.
        errors: its standard error.
        calls: how many calls it made that change something in the folder.
        failed: the name of the first of them that failed; "" if none did.
    """

    code: int
    errors: str
    calls: int
    failed: str


class Commands:
    """Runs commands whose calls fail where they change something in a folder.

    Args:
        folder: whose changes are counted.
        place: to build the library in.
    """

    def __init__(self, folder: Path, place: Path) -> None:
        library = place / "failing_calls.so"
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", SOURCE, "-o", library, "-ldl"], check=True)
        settings = {"LD_PRELOAD": str(library), FOLDER: str(folder), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=os.environ | settings, stdin=-1, stdout=-1, text=True
        )

    def run(self, *arguments: object, failure: Failure = Failure.NONE, at: int = 0) -> Outcome:
        """A command's outcome: ``metaq`` and its arguments, or ``append`` and those of the function below."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([failure, at, *map(str, arguments)]), file=self._process.stdin, flush=True)
        return Outcome(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _metaq(*arguments: str) -> None:
    from metaq.cli import app

    sys.argv = ["metaq", *arguments]
    app.main()


def append(path: str, count: str, kept: str) -> None:
    """Append steps to an update log until it has had so many, and drop all but the last ones."""
    import metaq
    from metaq.errors import MetaqError

    try:
        with metaq.DeltaWriter(path, keyframe_every=2) as log:
            for step in range(log.steps[-1] + 1 if log.steps else 0, int(count)):
                log.append(state_of(step))
            log.drop(before=int(count) - int(kept))
    except MetaqError as error:
        print(f"metaq: {error}", file=sys.stderr)
        sys.exit(2)


def state_of(step: int) -> dict[str, object]:
    """The tensors of a step."""
    import torch

    weights = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    weights[step] += step
    return {"weight": weights, "step": torch.tensor(step)}


def _code_of(command: Callable[..., None], arguments: list[str]) -> int:
    """What a command exits with; 1, with a traceback, for an error that it does not catch."""
    try:
        command(*arguments)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
    return 0


def _serve() -> None:
    """Fork a process for each line on standard input, and write what became of it."""
    # What commands import when they run, so that a fork has little left to import.
    import metaq.checkpoints.checkpoint
    import metaq.checkpoints.compression
    import metaq.checkpoints.decompression
    import metaq.checkpoints.lossy_updates
    import metaq.checkpoints.updates
    import metaq.cli.app
    import metaq.report.tables

    with suppress(metaq.errors.InputError):  # typer imports more when it parses
        metaq.cli.app.app(["compress", os.devnull, "-o", "x.mtq"], standalone_mode=False)
    os.cpu_count = lambda: 1  # on several threads, calls would come in another order each time
    calls = ctypes.CDLL(None)
    calls.failing_calls_failed.restype = ctypes.c_char_p
    for line in sys.stdin:
        failure, at, command, *arguments = json.loads(line)
        calls.failing_calls_begin(failure, ctypes.c_long(at))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 2)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.close(reader)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process
            os._exit(_code_of({"metaq": _metaq, "append": append}[command], arguments))
        os.close(writer)
        with open(reader, encoding="utf-8") as errors:
            text = errors.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome = Outcome(code, text, calls.failing_calls_count(), calls.failing_calls_failed().decode())
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    _serve()
