"""The npm package, built once for all tests of a session, and what Node makes of it."""

import base64
import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "wasm"
NODE = shutil.which("node")
# The modules that an engine with vectors takes, and one without.
BUILDS = {"simd": ["plain", "simd"], "plain": ["plain"]}

needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no ziglang to build with")
needs_node = pytest.mark.skipif(NODE is None, reason="no node")


@functools.cache
def built_package() -> Path:
    """A folder with what `npm publish` would take."""
    folder = Path(tempfile.mkdtemp(prefix="metaq-wasm-"))
    files = json.loads((SOURCES / "package.json").read_text())["files"]
    for pattern in ["package.json", *files]:
        for path in SOURCES.glob(pattern):
            if path.suffix != ".wasm":
                shutil.copy(path, folder)
    subprocess.run([sys.executable, SOURCES / "build.py", folder / "dist"], check=True)
    return folder


def in_node(calls, build="simd", *flags):
    """What functions of in_node.mjs give, each called with its arguments, under Node with these flags."""
    command = [NODE, *flags, Path(__file__).parent / "in_node.mjs", built_package(), ",".join(BUILDS[build])]
    finished = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
