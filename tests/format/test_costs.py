"""What a file costs at most: seconds and memory by the bytes of its header and by its symbols (docs/robustness.md).

Bounds here are ten times those of the document, so that no slow machine breaks them; with `-m slow -s` the files are
larger and what they took is printed.
"""

import subprocess
import sys
import time

import costly_files as costly
import malformed_files as malformed
import pytest

import metaq.numpy
from metaq import coding
from metaq.errors import MetaqError

HEADER_SECONDS = 3e-6  # for each byte of the header before text coding
HEADER_MEMORY = 400  # bytes for each such byte, beside 16 MB
SYMBOL_SECONDS = dict.fromkeys(coding.coders, 3e-7) | {"mixing": 5e-5, "adaptive": 1e-6}

CHILD = """
import sys, time
import metaq.numpy
from metaq.errors import MetaqError

def most_bytes():
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

data = open(sys.argv[1], "rb").read()
before, started = most_bytes(), time.process_time()
try:
    outcome = f"{sum(array.nbytes for array in metaq.numpy.load(data).values())} bytes"
except MetaqError as error:
    outcome = f"refused: {error}"
seconds = time.process_time() - started
print(seconds, most_bytes() - before, outcome[:200])
"""


def cost_here(data, folder):
    """Seconds of work to load a file, bytes of memory, which are not measured, and what came of it."""
    started = time.process_time()
    try:
        outcome = f"{sum(array.nbytes for array in metaq.numpy.load(data).values())} bytes"
    except MetaqError as error:
        outcome = f"refused: {error}"
    return time.process_time() - started, 0, outcome


def cost_elsewhere(data, folder):
    """As `cost_here`, with the memory, in a process of its own."""
    (folder / "file").write_bytes(data)
    command = [sys.executable, "-c", CHILD, folder / "file"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 2)
    return float(answer[0]), int(answer[1]), answer[2].strip()


def check_headers(size_bytes, cost_of, folder):
    for name, header, payload in costly.headers(size_bytes):
        data = malformed.sealed(header, [payload] if payload else [])
        seconds, memory, outcome = cost_of(data, folder)
        by_byte = f"{1e6 * seconds / len(header):.3f} us and {memory / len(header):.1f} bytes for each of the header's"
        print(f"{name}: {len(data)} bytes, {len(header)} of header, {seconds:.2f} s, {by_byte}; {outcome[:60]}")
        assert seconds < 0.5 + HEADER_SECONDS * len(header), name
        assert memory < (16 << 20) + HEADER_MEMORY * len(header), name


def check_coder(coder, count, shapes, cost_of, folder):
    for name, values in costly.symbols(count):
        for shape in shapes:
            data = costly.file_of(coder, values, shape)
            seconds, memory, outcome = cost_of(data, folder)
            by_symbol = f"{1e9 * seconds / count:.1f} ns and {memory / count:.1f} bytes for each symbol"
            print(f"{coder}, {name}, {shape}: {len(data)} bytes, {by_symbol}")
            assert outcome == f"{4 * count} bytes"
            assert seconds < 0.5 + SYMBOL_SECONDS[coder] * count, (name, shape)
            assert memory < (64 << 20) + 24 * count, (name, shape)


def test_headers(tmp_path):
    check_headers(1 << 13, cost_here, tmp_path)


@pytest.mark.parametrize("coder", coding.coders)
def test_coders(coder, tmp_path):
    check_coder(coder, 1 << 10, costly.shapes(1 << 10)[:2], cost_here, tmp_path)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
@pytest.mark.slow
def test_large_headers(tmp_path):
    check_headers(1 << 22, cost_elsewhere, tmp_path)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("coder", coding.coders)
def test_coders_on_many_symbols(coder, tmp_path):
    check_coder(coder, 1 << 18, costly.shapes(1 << 18), cost_elsewhere, tmp_path)
