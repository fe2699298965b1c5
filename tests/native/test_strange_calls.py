"""The native module called with what it does not expect: exceptions in one line, and no crash."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metaq import _native

HERE = Path(__file__).parent


@functools.cache
def run(seed, calls):
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-X", "faulthandler", HERE / "strange_calls.py", str(seed), str(calls)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    ("seed", "calls"), [(0, 600), *(pytest.param(seed, 6000, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_strange_calls(seed, calls):
    result = run(seed, calls)
    assert result.returncode == 0, (result.stdout.splitlines()[-3:], result.stderr[-2000:])


def test_every_function_is_called():
    called = set(run(0, 600).stdout.split())
    functions = {name for name in dir(_native) if not name.startswith("_")} - {"File", "FileError"}
    assert functions <= called, functions - called
    methods = {name for name in dir(_native.File) if callable(getattr(_native.File, name)) and not name.startswith("_")}
    assert {f"File.{name}" for name in methods} <= called


# What takes no array of elements wider than a byte.
BYTES_ONLY = {"File", "FileError", "ColumnQuantizer", "difference_encode", "rans_encode_bytes", "split_plane"}
BYTES_ONLY |= {"DefaultFloats", "text_encode", "text_decode"}


def test_every_function_refuses_arrays_that_are_not_aligned():
    """With the same words: `strange_calls.py` looks at them."""
    refused = {name.removeprefix("unaligned:") for name in run(0, 600).stdout.split() if name.startswith("unaligned:")}
    functions = {name for name in dir(_native) if not name.startswith("_")} - BYTES_ONLY
    methods = {"ColumnQuantizer.quantize", "write_quantized", "restore_latent", "File.decode", "File.decode_chunk"}
    assert functions | methods <= refused, (functions | methods) - refused
