"""The decoder for small devices decodes row by row what Python decodes, and takes no more memory than it says."""

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import malformed_files as malformed
import numpy as np
import pytest

import metaq.numpy
from metaq.format.checked_file import CheckedFile
from metaq.format.device_image import c_header

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
OF_OTHERS = ("gzip", "zstd", "lzma")
GOLDEN = [path for path in sorted((ROOT / "tests" / "golden").glob("*.mtq")) if not path.stem.endswith(OF_OTHERS)]
SMALL = ["-DMETAQ_SMALL", "-DMETAQ_NO_SIMD", "-DMETAQ_NO_THREADS", "-DMETAQ_NO_HEAP", "-DMETAQ_NO_DIFFERENCES"]
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti", *SMALL, f"-I{ROOT / 'src'}"]
BUILDS = {"O0": ["-O0"], "sanitized": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
ROOM = 1 << 22

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")


@pytest.fixture(scope="module", params=["O0", pytest.param("sanitized", marks=pytest.mark.slow)])
def program(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "mtq_device"
    subprocess.run([COMPILER, *FLAGS, *BUILDS[request.param], ROOT / "src/mtq_device.cpp", "-o", path], check=True)
    return path


@pytest.fixture
def run(program, tmp_path):
    """Runs the program on bytes in so large an arena: what it prints, and what it says is wrong."""

    def run_on(data, arena_bytes=ROOM):
        (tmp_path / "file").write_bytes(data)
        command = [program, tmp_path / "file", str(arena_bytes)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert (finished.returncode == 0) == (finished.stderr == "")
        return finished.stdout.splitlines(), finished.stderr

    return run_on


def expected_lines(data):
    arrays = metaq.numpy.load(data).values()
    return [f"{i} {array.nbytes} {zlib.crc32(array.tobytes()):08x}" for i, array in enumerate(arrays)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_and_their_images(path, run):
    data = path.read_bytes()
    lines, _ = run(data)
    assert lines[:-1] == expected_lines(data)
    image, arena_bytes = CheckedFile(data).device_image()
    lines, _ = run(image, arena_bytes)
    assert lines == [*expected_lines(data), f"arena {arena_bytes}"]
    if arena_bytes == 0:  # there is nothing
        return
    lines, error = run(image, arena_bytes - 16)
    assert lines == []
    assert error.startswith("mtq_device: no_memory: ")
    assert error.endswith(f"; the arena takes at least {arena_bytes} bytes\n")


def test_floats_of_64_bits(run):
    levels = np.array([-3.4e38, -1e-38, 0, 1e-45, 1e-38, 0.1], dtype=np.float32)
    for codebook in (malformed.table(*levels), b"\0\0" + struct.pack("<f", 1e38)):  # 5 of these steps are infinite
        data = malformed.file((malformed.tensor(dtype=b"\3", rest=malformed.shape(2, 3) + codebook),))
        assert run(data)[0][:-1] == expected_lines(data)


def test_floats_of_64_bits_with_scales_in_the_order_of_columns(run):
    data = malformed.scaled(bytes([7, 1, 2, 3, 4, 5, 6]), dtype=b"\3")
    assert run(data)[0][:-1] == expected_lines(data)


@pytest.mark.parametrize("coder", ["rans", "mixing"])
def test_an_arena_of_any_size_is_too_small_or_enough(coder, run):
    image, arena_bytes = CheckedFile((ROOT / f"tests/golden/network-{coder}.mtq").read_bytes()).device_image()
    for size in range(0, arena_bytes, max(1, arena_bytes // 20)):
        assert "no_memory" in run(image, size)[1]


def test_malformed_files_have_the_statuses_of_the_decoder(run):
    differences = set(malformed.changes())
    seen = set()
    for status, data in malformed.files():
        if status in seen or (status, data) in differences:
            continue
        seen.add(status)
        assert run(data)[1].startswith(f"mtq_device: {status}: "), status
    for data in (malformed.GOOD_DIFFERENCE, malformed.GOOD_CHANGE):
        assert run(data)[1].startswith("mtq_device: difference: ")


def test_damaged_images_are_refused(run):
    image, _ = CheckedFile((ROOT / "results/lenet5-mnist.mtq").read_bytes()).device_image()
    generator = np.random.default_rng(0)
    for size in (0, 3, 4, 11, 15, 16, 100, *generator.integers(0, len(image), 8)):
        assert run(image[:size])[1] != ""
    for position in (5, 7, 20, *generator.integers(12, len(image), 12)):
        flipped = bytearray(image)
        flipped[position] ^= 1 << generator.integers(8)
        assert re.match("mtq_device: (truncated|header_checksum|chunk_checksum): ", run(bytes(flipped))[1])


@pytest.mark.slow
def test_the_example_needs_no_heap(tmp_path):
    image, arena_bytes = CheckedFile((ROOT / "tests/golden/network-huffman.mtq").read_bytes()).device_image()
    (tmp_path / "model.h").write_text(c_header(image, arena_bytes, "model"))
    sources = [f"-I{tmp_path}", ROOT / "examples/device/main.cpp"]
    subprocess.run(
        [COMPILER, *FLAGS, "-Os", "-DMETAQ_CODERS=METAQ_CODER_HUFFMAN", "-c", *sources, "-o", tmp_path / "main.o"],
        check=True,
    )
    needed = subprocess.run(["nm", "-u", tmp_path / "main.o"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"\b(_Zn|_Zd|malloc|free|__cxa_throw|__cxa_guard|pthread)", needed), needed
    subprocess.run(
        [COMPILER, *FLAGS, "-DMETAQ_CODERS=METAQ_CODER_HUFFMAN", *sources, "-o", tmp_path / "main"], check=True
    )
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0
    # The report looks at a stack that nothing has written, of which compilers warn.
    report = ["-DMETAQ_REPORT", "-Wno-error", "-DMETAQ_CODERS=METAQ_CODER_RANS"]
    subprocess.run([COMPILER, *FLAGS, *report, *sources, "-o", tmp_path / "other"], check=True)
    refused = subprocess.run([tmp_path / "other"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert refused.stdout.startswith("unsupported_coder ")
