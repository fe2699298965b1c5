"""What `metaq demo` shows after its run: the file read back by a new process, and every number in one table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from metaq.compressed_model import read_model
from metaq.errors import FormatError, InputError
from metaq.experiments import run
from metaq.files import read_bytes
from metaq.format.reader import Reader
from metaq.report.coder_sizes import coder_rows
from metaq.report.tables import result_entries

_FILES = (run.CONFIG, run.METRICS, run.CHECKPOINT, run.FLOAT_NETWORK, run.FILE, run.RESULT, run.REPORT)


def earlier_files(folder: Path) -> list[str]:
    """Names of the files in a folder that a run would write over."""
    return [name for name in _FILES if (folder / name).exists()]


def forget_run(folder: Path) -> None:
    """Remove the files of an earlier run, and nothing else, so that a run starts anew.

    Raises:
        InputError: one of them cannot be removed.
    """
    for name in earlier_files(folder):
        try:
            (folder / name).unlink()
        except OSError as error:
            raise InputError(f"{folder / name}: expected a file to remove, found {error.strerror}") from None


def check_in_new_process(folder: Path, result: dict[str, Any]) -> None:
    """Have another process decode the file and measure it; its weights and accuracy must be the trained network's.

    Raises:
        FormatError: they are not.
    """
    path = folder / run.FILE
    command = [sys.executable, "-m", "metaq", "evaluate", str(path), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise FormatError(f"{path}: expected a new process to read it, found {finished.stderr.strip()}")
    found = json.loads(finished.stdout)
    if found["weights_sha256"] != result["weights_sha256"]:
        raise FormatError(f"{path}: expected the trained network's weights bit for bit, found others")
    if found["test_accuracy"] != result["test_after"]["accuracy"]:
        raise FormatError(
            f"{path}: expected accuracy {result['test_after']['accuracy']}, found {found['test_accuracy']}"
        )


def demo_entries(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """The run's result, and the same network's size under every coder."""
    model = read_model(Reader(read_bytes(folder / run.FILE)))
    others = {f"file with {row['coder']}": f"{row['bytes']:,} bytes" for row in coder_rows(model)}
    return result_entries(result) | others
