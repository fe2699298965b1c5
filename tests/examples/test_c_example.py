"""The examples in C, Rust and Go are built against an installed metaq, which pkg-config finds."""

import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import metaq
import metaq.numpy

ROOT = Path(__file__).parents[2]
FILE = ROOT / "results" / "lenet5-mnist.mtq"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("cmake", "cc", "c++", "make", "pkg-config"))), reason="no tools to build C with"
    ),
]


def run(*command, **environment):
    finished = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        check=True,
    )
    return finished.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where the libraries are installed: moved there, since pkg-config's file says nothing of where it was made for."""
    build, made = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("made") / "prefix"
    run("cmake", "-S", ROOT, "-B", build, "-DMETAQ_PYTHON=OFF")
    run("cmake", "--build", build, "--target", "metaq_c_static", "metaq_c_shared")
    run("cmake", "--install", build, "--prefix", made)
    return made.rename(tmp_path_factory.mktemp("moved") / "prefix")


@pytest.fixture(scope="module")
def package_folder(prefix):
    (found,) = prefix.rglob("metaq.pc")
    return found.parent


def assert_prints_what_python_reads(printed):
    tensors = metaq.numpy.load_file(FILE)
    *lines, last = printed.splitlines()
    assert [line.split(" ")[0] for line in lines] == list(tensors)
    assert last == f"crc32 {zlib.crc32(next(iter(tensors.values())).tobytes()):08x}"


def test_with_the_shared_library(package_folder, tmp_path):
    shutil.copytree(ROOT / "examples" / "c", tmp_path, dirs_exist_ok=True)
    run("make", "-C", tmp_path, PKG_CONFIG_PATH=package_folder)
    assert_prints_what_python_reads(run(tmp_path / "first_tensor", FILE, LD_LIBRARY_PATH=package_folder.parent))


def test_under_address_sanitizer(package_folder, tmp_path):
    """By the flags of its Makefile: a file that is whole, and some that end early."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples" / "c", source)
    sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=all"
    run("make", "-C", source, f"CC=cc {sanitizers}", PKG_CONFIG_PATH=package_folder)
    libraries = {"LD_LIBRARY_PATH": package_folder.parent}
    assert_prints_what_python_reads(run(source / "first_tensor", FILE, **libraries))
    data = FILE.read_bytes()
    for size in (3, 100, len(data) - 1):
        (tmp_path / "early.mtq").write_bytes(data[:size])
        with pytest.raises(subprocess.CalledProcessError) as failed:
            run(source / "first_tensor", tmp_path / "early.mtq", **libraries)
        assert failed.value.returncode == 2
        assert failed.value.stderr.endswith("found the end of the file\n"), failed.value.stderr


def test_with_the_static_library(package_folder, tmp_path):
    flags = run("pkg-config", "--cflags", "metaq", PKG_CONFIG_PATH=package_folder).split()
    libraries = [package_folder.parent / "libmetaq.a", "-lstdc++"]
    source = ROOT / "examples" / "c" / "first_tensor.c"
    run("cc", "-std=c99", *flags, source, *libraries, "-o", tmp_path / "first_tensor")
    assert_prints_what_python_reads(run(tmp_path / "first_tensor", FILE))


@pytest.mark.skipif(shutil.which("rustc") is None, reason="no rustc")
def test_from_rust(package_folder, tmp_path):
    source = ROOT / "examples" / "rust" / "first_tensor.rs"
    run("rustc", "--edition", "2021", "-L", f"native={package_folder.parent}", source, "-o", tmp_path / "first_tensor")
    check_first_values(run(tmp_path / "first_tensor", FILE, LD_LIBRARY_PATH=package_folder.parent))


@pytest.mark.skipif(shutil.which("go") is None, reason="no go")
def test_from_go(package_folder, tmp_path):
    shutil.copy(ROOT / "examples" / "go" / "main.go", tmp_path)
    places = {"PKG_CONFIG_PATH": package_folder, "GOCACHE": tmp_path / "cache", "GO111MODULE": "off"}
    run("go", "build", "-o", tmp_path / "first_tensor", tmp_path / "main.go", **places)
    check_first_values(run(tmp_path / "first_tensor", FILE, LD_LIBRARY_PATH=package_folder.parent))


def check_first_values(printed):
    tensors = metaq.numpy.load_file(FILE)
    first = next(iter(tensors.values()))
    start, values = printed.strip().split(": ")
    assert start == f"{len(tensors)} tensors, {first.nbytes} bytes in the first"
    found = [float(value) for value in re.split(r"[,\s]+", values.strip("[]"))]
    np.testing.assert_allclose(found, first.ravel()[:3], rtol=1e-5)


def test_pkg_config_knows_the_version_and_what_a_static_library_needs(package_folder):
    assert run("pkg-config", "--modversion", "metaq", PKG_CONFIG_PATH=package_folder).strip() == metaq.__version__
    assert "-lstdc++" in run("pkg-config", "--static", "--libs", "metaq", PKG_CONFIG_PATH=package_folder)


def test_the_shared_library_shows_the_functions_of_the_header_alone(package_folder):
    listed = run("nm", "-D", "--defined-only", package_folder.parent / "libmetaq.so")
    header = (ROOT / "src" / "metaq" / "metaq.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^METAQ_API .*?(metaq_\w+)\(", header, flags=re.MULTILINE))
    shown = {line.split()[-1] for line in listed.splitlines()}
    assert declared <= shown
    assert {name for name in shown if "metaq" in name} <= declared
