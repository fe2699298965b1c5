"""Builds the fuzz targets with sanitizers and runs each for a few seconds on changed copies of good input."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
SECONDS = 10

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no g++")]


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def whole_files():
    malformed = module_of(ROOT / "tests" / "malformed_files.py")
    golden = [path.read_bytes() for path in sorted((ROOT / "tests" / "golden").glob("*.mtq"))]
    return [*golden, malformed.GOOD]


def headers():
    reference = module_of(ROOT / "tests" / "reference_decoder.py")
    for data in whole_files():
        sizes = reference.Bytes(data, 4)
        size, coded_size = sizes.varint(), sizes.varint()
        yield reference.decode_text(sizes.take(coded_size), size)


def blocks():
    generator = np.random.default_rng(1)
    for coder in range(5):
        for scale in (1, 2, 4, 8, 30, 130, 150):
            yield bytes([coder, 0]) + generator.bytes(13) + bytes([scale]) + generator.bytes(100)
        yield bytes([coder, 1]) + generator.bytes(60)


CORPORA = {"decoder": whole_files, "header": headers, "round_trips": blocks}


@pytest.mark.parametrize("target", CORPORA)
def test_target(target, tmp_path):
    sources = [HERE / f"{target}.cpp", HERE / "driver.cpp"]
    flags = [*FLAGS, "-fno-sanitize-recover=all", f"-I{ROOT / 'src'}"]
    subprocess.run([COMPILER, *flags, *sources, "-o", tmp_path / "fuzz"], check=True)
    corpus = []
    for number, data in enumerate(CORPORA[target]()):
        corpus.append(tmp_path / str(number))
        corpus[-1].write_bytes(data)
    result = subprocess.run([tmp_path / "fuzz", str(SECONDS), *corpus], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.endswith(" runs\n")
