"""Programs for ARM, and for s390x, which is big-endian, decode every golden file to the same bytes under QEMU."""

import json
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import metaq.numpy
from metaq.codebook import UniformCodebook
from metaq.format.checked_file import CheckedFile
from metaq.format.dtypes import BY_NAME
from metaq.format.header import TensorEntry
from metaq.format.reader import Reader
from metaq.format.writer import Source, encode
from metaq.matrix_layout import MatrixLayout

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.mtq"))
OF_OTHERS = ("gzip", "zstd", "lzma")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["aarch64", "s390x"])
def build(request, tmp_path_factory):
    """Compiles sources for the machine, and gives the command that runs it."""
    compiler, emulator = f"{request.param}-linux-gnu-g++", f"qemu-{request.param}"
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"no {compiler} or no {emulator}")

    def compile_source(*sources, flags=("-O1",)):
        program = tmp_path_factory.mktemp(request.param) / sources[0].stem
        command = [compiler, "-std=c++20", "-static", "-Wall", "-Wextra", "-Werror", *flags, f"-I{ROOT / 'src'}"]
        subprocess.run([*command, *sources, "-o", program], check=True)
        return [emulator, program]

    return compile_source


@pytest.mark.parametrize("flags", [["-O1"], ["-O3", "-ffp-contract=fast"]])
def test_golden_files(flags, build, tmp_path):
    command = build(ROOT / "src" / "mtq_decode.cpp", flags=flags)
    for path in GOLDEN:
        if any(coder in path.name for coder in OF_OTHERS):
            continue
        out = tmp_path / path.stem
        subprocess.run([*command, path, out], check=True)
        entries = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["tensors"]
        arrays = metaq.numpy.load_file(path)
        assert [entry["name"] for entry in entries] == list(arrays)
        for entry, array in zip(entries, arrays.values(), strict=True):
            assert (out / entry["file"]).read_bytes() == array.tobytes(), (path.name, entry["name"])


def test_golden_files_as_on_small_devices(build, tmp_path):
    small = ("-O1", "-DMETAQ_SMALL", "-DMETAQ_NO_THREADS", "-DMETAQ_NO_HEAP")
    command = build(ROOT / "src" / "mtq_device.cpp", flags=small)
    for path in GOLDEN:
        if any(coder in path.name for coder in OF_OTHERS):
            continue
        arrays = metaq.numpy.load_file(path).values()
        expected = [f"{i} {array.nbytes} {zlib.crc32(array.tobytes()):08x}" for i, array in enumerate(arrays)]
        image, arena_bytes = CheckedFile(path.read_bytes()).device_image()
        (tmp_path / "image").write_bytes(image)
        for data, size_bytes in ((path, 1 << 22), (tmp_path / "image", arena_bytes)):
            run = subprocess.run([*command, data, str(size_bytes)], capture_output=True, text=True, check=True)
            assert run.stdout.splitlines()[:-1] == expected, path.name


# Not on s390x, which cannot flush.
@pytest.mark.parametrize("build", ["aarch64"], indirect=True)
def test_threads_that_flush_subnormal_floats_and_round_upwards(build, tmp_path):
    command = build(
        ROOT / "src" / "mtq_decode.cpp", flags=("-O2", f"-include{ROOT / 'tests' / 'native' / 'flushing.hpp'}")
    )
    symbols = (np.arange(40 * 48, dtype=np.int32) % 13 - 6).reshape(40, 48)
    scaled = MatrixLayout(1, np.arange(-40, 0, dtype=np.int8), np.arange(-48, 0, dtype=np.int8))
    dtypes = [BY_NAME[name] for name in ("float32", "float16", "bfloat16", "float64")]
    books = [UniformCodebook(2.0**-149), UniformCodebook(1e-40), UniformCodebook(6e-8), UniformCodebook(0.1)]
    sources = []
    for dtype in dtypes:
        for book, matrix in (*((book, None) for book in books), (UniformCodebook(1e-37), scaled)):
            sources.append(Source(TensorEntry(f"w{len(sources)}", dtype, symbols.shape, book, matrix=matrix), symbols))
    for coder in ("rans", "mixing"):
        path, out = tmp_path / f"{coder}.mtq", tmp_path / coder
        path.write_bytes(encode(sources, {}, coder))
        subprocess.run([*command, path, out], check=True)
        arrays = Reader(path.read_bytes()).load()
        assert any(0 < abs(float(array.max())) < 2.0**-126 for array in arrays.values())
        for entry in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["tensors"]:
            assert (out / entry["file"]).read_bytes() == arrays[entry["name"]].tobytes(), entry["name"]


# Not on s390x: values are little-endian, and these tests compare them in the machine's order.
@pytest.mark.parametrize("build", ["aarch64"], indirect=True)
def test_paths_of_rans(build):
    folder = ROOT / "tests" / "native"
    subprocess.run(build(folder / "main.cpp", folder / "rans.cpp"), check=True)
