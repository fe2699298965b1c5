"""Builds the fuzz targets with sanitizers and runs each for METAQ_FUZZ_SECONDS, or 10, on changed copies of good input.

With clang and its libFuzzer changes are led by coverage; without it, `driver.cpp` makes random ones.
"""

import os
import shutil
import subprocess
from pathlib import Path

import malformed_files as malformed
import numpy as np
import pytest
import reference_decoder as reference

from metaq import _native
from metaq.errors import MetaqError
from metaq.format.checked_file import CheckedFile

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPILER = shutil.which("g++")
CLANG = shutil.which("clang++")
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
SECONDS = int(os.environ.get("METAQ_FUZZ_SECONDS", "10"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (COMPILER or CLANG), reason="no compiler")]


def whole_files():
    golden = [path.read_bytes() for path in sorted((ROOT / "tests" / "golden").rglob("*.mtq"))]
    return [*golden, malformed.GOOD, malformed.GOOD_SCALED, malformed.GOOD_DIFFERENCE, malformed.GOOD_CHANGE]


def headers():
    for data in whole_files():
        sizes = reference.Bytes(data, 4)
        size, coded_size = sizes.varint(), sizes.varint()
        yield reference.decode_text(sizes.take(coded_size), size)


def blocks():
    generator = np.random.default_rng(1)
    for coder in range(6):
        for scale in (1, 2, 4, 8, 30, 130, 150):
            yield bytes([coder, 0]) + generator.bytes(13) + bytes([scale]) + generator.bytes(100)
        yield bytes([coder, 1]) + generator.bytes(60)


def changes():
    """Elements and what they become; and streams."""
    generator = np.random.default_rng(2)
    for dtype in range(8):
        for times in (0, 16, 240):
            yield bytes([dtype, times]) + generator.bytes(400)
        yield bytes([dtype, 255]) + generator.bytes(60)
    base = generator.integers(0, 2**16, 3000).astype(np.uint16)
    for share in (0.01, 0.5):
        new = base + (generator.random(base.size) < share).astype(np.uint16)
        payload, _ = _native.difference_encode(base.view(np.uint8), new.view(np.uint8), 2)
        yield bytes([2, 255]) + payload


def images():
    """Files of small devices, and what they are made of."""
    for data in whole_files():
        yield data
        try:
            yield CheckedFile(data).device_image()[0]
        except MetaqError:  # a difference, or a coder that devices have not
            continue


CORPORA = {"changes": changes, "decoder": whole_files, "device": images, "header": headers, "round_trips": blocks}


def build(target, program):
    """Whether the program has libFuzzer in it."""
    source, flags = HERE / f"{target}.cpp", [*FLAGS, "-fno-sanitize-recover=all", f"-I{ROOT / 'src'}"]
    if CLANG:
        command = [CLANG, *flags, "-fsanitize=fuzzer", source, "-o", program]
        if COMPILER is None or subprocess.run(command, capture_output=True).returncode == 0:
            return True
    subprocess.run([COMPILER, *flags, source, HERE / "driver.cpp", "-o", program], check=True)
    return False


@pytest.mark.parametrize("target", CORPORA)
def test_target(target, tmp_path):
    has_libfuzzer = build(target, tmp_path / "fuzz")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, data in enumerate(CORPORA[target]()):
        (folder / str(number)).write_bytes(data)
    options = [f"-max_total_time={SECONDS}", "-max_len=16384", folder]
    options = options if has_libfuzzer else [str(SECONDS), *folder.iterdir()]
    result = subprocess.run([tmp_path / "fuzz", *options], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert ("Done " in result.stderr) if has_libfuzzer else result.stdout.endswith(" runs\n")
