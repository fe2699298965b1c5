"""The C++ example is built against an installed metaq, for which neither Python nor nanobind is looked for."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import metaq

ROOT = Path(__file__).parents[2]
FILE = ROOT / "results" / "lenet5-mnist.mtq"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="no cmake or no C++ compiler"),
]


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where the decoder and the program are installed."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    run("cmake", "-S", ROOT, "-B", build, "-DMETAQ_PYTHON=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON")
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def example(prefix, tmp_path_factory):
    build = tmp_path_factory.mktemp("example")
    run("cmake", "-S", ROOT / "examples" / "cpp", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    return build / "first_values"


def test_the_example_prints_what_python_reads(example):
    lines = run(example, FILE).splitlines()
    tensors = metaq.load_file(FILE)
    assert len(lines) == len(tensors) > 0
    for line, (name, tensor) in zip(lines, tensors.items(), strict=True):
        shape = "".join(f"{length}," for length in tensor.shape)
        start, values = line.split(") ")
        assert start == f"{name} float32 ({shape}"
        np.testing.assert_allclose([float(value) for value in values.split()], tensor.flatten()[:3], rtol=1e-5)


def test_the_example_says_what_is_wrong(example):
    finished = subprocess.run([example], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr == "first_values: expected a .mtq file, found one that does not start with MTQ\n"


def test_what_makes_files_is_not_installed(prefix):
    folders = {path.name for path in (prefix / "include" / "metaq").iterdir() if path.is_dir()}
    assert {"base", "format", "mixing", "rans"} <= folders
    assert not folders & {"methods", "quantizers", "solvers"}


def test_the_program_is_installed(prefix, tmp_path):
    run(prefix / "bin" / "mtq_decode", FILE, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_headers_are_installed_without_a_build(tmp_path):
    run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-DMETAQ_PYTHON=OFF")
    run("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "prefix")
    assert (tmp_path / "prefix" / "include" / "metaq" / "decoder.hpp").is_file()
