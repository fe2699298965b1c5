"""Builds the fuzz targets with sanitizers and runs each for METAQ_FUZZ_SECONDS, or 10, on changed copies of good input.

With clang its libFuzzer makes the changes, without it `driver.cpp`; both keep the inputs that reach new code.
"""

import os
import shutil
import struct
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
FLAGS = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
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


SHAPES = [
    [(1, 1, 1)],
    [(20, 30, 1)],
    [(12, 6, 9), (5, 40, 1)],
    [(60, 60, 4)],
    [(3, 5, 1), (1, 9, 1), (8, 8, 1), (7, 3, 5)],
]


def shape_bytes(shapes):
    return bytes([len(shapes) - 1]) + b"".join(bytes([rows, channels, kernel - 1]) for rows, channels, kernel in shapes)


def coders():
    """Symbols and texts that are coded, payloads that are decoded, and payloads that are none."""
    generator = np.random.default_rng(1)
    for coder in range(1, 7):
        for scale in (2, 4, 8, 30, 130, 150, 1, 129):
            yield bytes([coder, 0]) + generator.bytes(13) + bytes([scale]) + generator.bytes(100)
        yield bytes([coder, 1]) + generator.bytes(60)
    encoders = ["huffman", "range", "mixing", "rans", "adaptive"]
    for shapes in SHAPES:
        for most in (0, 0.4, 2, 9, 300, 2**29):
            drawn = [np.rint(generator.normal(0, most / 3, shape)).clip(-(2**30) + 1, 2**30 - 1) for shape in shapes]
            symbols = [array.astype(np.int32) for array in drawn]
            widths = bytes([1 if most <= 9 else 2 if most <= 300 else 4])
            stored = widths * len(symbols) + b"".join(array.astype(f"<i{widths[0]}").tobytes() for array in symbols)
            payloads = [getattr(_native, f"{name}_encode")(symbols) for name in encoders]
            for coder, payload in enumerate([stored, *payloads]):
                yield bytes([coder, 1]) + shape_bytes(shapes) + payload
    for size in (0, 5, 300):
        text = generator.bytes(size // 3) + b"layers.0.weight" * (size // 20)
        yield bytes([6, 1]) + len(text).to_bytes(2, "little") + _native.text_encode(text)


def scales():
    """Matrices with and without scales, from one element to some thousands."""
    generator = np.random.default_rng(3)
    for flags in range(256):
        rows, columns = (
            generator.integers(0, 110, 2) if flags % 3 else [(0, 2000), (1500, 6), (63, 127)][flags // 3 % 3]
        )
        yield bytes([flags, flags, flags]) + struct.pack("<HH", rows, columns) + generator.bytes(3000)


# The numbers in a file, and the bytes, of the dtypes in the order of changes.cpp.
CHANGED_DTYPES = [(0, 4), (1, 2), (2, 2), (3, 8), (4, 1), (5, 1), (17, 1), (20, 8)]


def changes():
    """Elements and what they become; and streams."""
    generator = np.random.default_rng(2)
    for dtype in range(8):
        for times in (0, 16, 240):
            yield bytes([dtype, times]) + generator.bytes(400)
        yield bytes([dtype, 255]) + generator.bytes(60)
    for dtype, (number, width) in enumerate(CHANGED_DTYPES):
        base = (np.arange(3000 * width) ** 2 >> 3).astype(np.uint8)  # as in changes.cpp
        for share in (0, 0.01, 0.5):
            new = base ^ (generator.random(base.size) < share / width)
            payload, _ = _native.difference_encode(base, new.astype(np.uint8), number)
            yield bytes([dtype, 255]) + payload


def images():
    """Files of small devices, and what they are made of."""
    for data in whole_files():
        yield data
        try:
            yield CheckedFile(data).device_image()[0]
        except MetaqError:  # a difference, or a coder that devices have not
            continue


CORPORA = {
    "changes": changes,
    "coders": coders,
    "decoder": whole_files,
    "device": images,
    "header": headers,
    "scales": scales,
}


def build(target, program):
    """Whether the program has libFuzzer in it."""
    source, flags = HERE / f"{target}.cpp", [*FLAGS, "-fno-sanitize-recover=all", f"-I{ROOT / 'src'}"]
    if CLANG:
        command = [CLANG, *flags, "-fsanitize=fuzzer", source, "-o", program]
        if COMPILER is None or subprocess.run(command, capture_output=True).returncode == 0:
            return True
    coverage = "-fsanitize-coverage=trace-pc"
    subprocess.run([COMPILER, *flags, coverage, source, HERE / "driver.cpp", "-o", program], check=True)
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
