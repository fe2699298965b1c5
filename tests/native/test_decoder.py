"""The standalone C++ decoder agrees with Python: it decodes what Python decodes, and refuses what Python refuses."""

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import malformed_files as malformed
import numpy as np
import pytest
import reference_decoder as reference
import torch

from metaq import coding, compressed_model
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.coding import base as coding_base
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.errors import FormatError
from metaq.format.reader import Reader
from metaq.matrix_layout import MatrixLayout
from metaq.tensors import load_tensors, octets_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
COMPILER = shutil.which("g++")
CODERS = [name for name, coder in coding.coders.items() if coder.is_native]
OTHERS = [name for name in coding.coders if name not in CODERS]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")

BUILDS = {
    "O0": ["-O0"],
    "O3": ["-O3"],
    "no_simd": ["-O3", "-DMETAQ_NO_SIMD"],
    "contracted": ["-O3", "-ffp-contract=fast", *(["-mfma"] if platform.machine() == "x86_64" else [])],
    "sanitized": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


MALFORMED = list(malformed.files())
STATUS_TEXT = (ROOT / "src" / "metaq" / "format" / "status.hpp").read_text()
MESSAGES = dict(re.findall(r'STATUS\((\w+), "([^"]*)"\)', STATUS_TEXT))


@pytest.fixture(
    scope="module", params=["O0", *(pytest.param(name, marks=pytest.mark.slow) for name in BUILDS if name != "O0")]
)
def program(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "mtq_decode"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", *BUILDS[request.param], f"-I{ROOT / 'src'}"]
    subprocess.run([COMPILER, *flags, ROOT / "src" / "mtq_decode.cpp", "-o", path], check=True)
    return path


@pytest.fixture
def run(program, tmp_path):
    """Runs the program on bytes; gives its result and the folder it wrote to."""

    def run_on(data):
        (tmp_path / "file.mtq").write_bytes(data)
        command = [program, tmp_path / "file.mtq", tmp_path / "out"]
        return subprocess.run(command, capture_output=True, text=True, timeout=100), tmp_path / "out"

    return run_on


def assert_agrees(data, run):
    result, folder = run(data)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    reader = Reader(data)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["metadata"] == reader.header.metadata
    expected = load_tensors(reader)
    assert [entry["name"] for entry in manifest["tensors"]] == list(expected)
    for entry, tensor in zip(manifest["tensors"], expected.values(), strict=True):
        assert entry["dtype"] == str(tensor.dtype).removeprefix("torch.")
        assert entry["shape"] == list(tensor.shape)
        assert (folder / entry["file"]).read_bytes() == octets_of(tensor).tobytes()


def assert_refused(data, run, message=None):
    result, _ = run(data)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert re.fullmatch(r"mtq_decode: [^\n]+\n", result.stderr), result.stderr
    if message:
        assert result.stderr.endswith(f": {message}\n"), result.stderr


def symbols_of(seed, *shape, spread=3.0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.rint(generator.laplace(0, spread, shape)).astype(np.int32))


def model():
    """Every dtype, codebook and kind, blocks of every form, names and metadata to be escaped."""
    steps = [UniformCodebook(step) for step in (2.0**-149, 2.0**-26, 1 / 3, 65519.99 / 1024, 3.4028235e38)]
    edges = torch.tensor([0, 1, -1, 2, 3, -5, 1023, 1024, 1025, 2**24 + 1, -(2**24) - 3, 1 - 2**30], dtype=torch.int32)
    table = TableCodebook((-3.4e38, -65520.0, -1.0, -1e-8, 0.0, 2.0**-25, 1.00048828125, 65519.0), 4)
    tensors = {}
    for i, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16, torch.float64)):
        for j, step in enumerate(steps):
            tensors[f"edges {dtype} {j}"] = CodedTensor(edges, step, dtype)
        tensors[f"table {dtype}"] = CodedTensor(symbols_of(i, 7, 9).clamp(-4, 3), table, dtype)
        tensors[f"filters {dtype}"] = CodedTensor(symbols_of(i, 8, 8, 3, 3), steps[2], dtype)
        tensors[f"matrix {dtype}"] = CodedTensor(symbols_of(i, 60, 40, spread=0.5 + i), steps[2], dtype)
        scales = np.arange(-20, 40)
        layout = MatrixLayout(1, scales, scales[:40], by_columns=i % 2 == 0)
        tensors[f"scaled {dtype}"] = CodedTensor(symbols_of(i, 60, 40, spread=0.5 + i), steps[2], dtype, layout)
        tensors[f"kept {dtype}"] = torch.randn(5, 7, generator=torch.Generator().manual_seed(i)).to(dtype)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        tensors[f"coded {dtype}"] = CodedTensor(symbols_of(9, 30).clamp(0, 127), IntegerCodebook(), dtype)
        tensors[f"kept {dtype}"] = torch.tensor([torch.iinfo(dtype).min, 0, torch.iinfo(dtype).max], dtype=dtype)
    tensors["coded bool"] = CodedTensor(symbols_of(9, 30).clamp(0, 1), IntegerCodebook(), torch.bool)
    tensors['tied "\\\n\x1f ✓'] = Alias("matrix torch.float16")
    tensors["tied kept"] = Alias("kept torch.float64")
    tensors["empty"] = torch.empty(0, 3)
    return CompressedModel(tensors, {"é\0": '"\t'})


@pytest.mark.parametrize(
    "path",
    sorted([*(TESTS / "golden").glob("*.mtq"), *(TESTS / "compatibility").glob("*/*.mtq")]),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_golden_files_and_those_of_releases(path, run):
    if any(name in path.name for name in OTHERS):
        assert_refused(path.read_bytes(), run, MESSAGES["unsupported_coder"])
    else:
        assert_agrees(path.read_bytes(), run)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("chunk_symbols", [200, 1 << 22])
def test_made_files(coder, chunk_symbols, run, monkeypatch):
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", chunk_symbols)
    assert_agrees(compressed_model.encode(model(), coder), run)


def test_long_lanes(run):
    """Enough symbols for every lane to pass through whole steps of vectors, also where contexts and classes change."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(300, 200, generator=generator) * torch.linspace(0.01, 1, 300)[:, None]
    floats = {str(dtype): weights.to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn)}
    bursts = (weights * torch.linspace(1, 9, 200)).round().to(torch.int32)
    coded = CodedTensor(bursts, UniformCodebook(1 / 3), torch.float16)
    assert_agrees(compressed_model.encode(CompressedModel({**floats, "coded": coded}), "rans"), run)


def test_blocks_that_cost_nothing(run):
    zeros = CodedTensor(torch.zeros(3, 2**19, dtype=torch.int32), UniformCodebook(1.0), torch.float16)
    for coder in CODERS:
        assert_agrees(compressed_model.encode(CompressedModel({"zeros": zeros}), coder), run)


@pytest.mark.parametrize("status", dict(MALFORMED))
def test_malformed_files_are_refused(status, run):
    for data in (data for name, data in MALFORMED if name == status):
        assert_refused(data, run, MESSAGES[status])


def test_python_refuses_malformed_files_as_well():
    for status, data in MALFORMED:
        with pytest.raises(FormatError):
            pytest.fail(f"{status}: {load_tensors(Reader(data))}")
        with pytest.raises(reference.MalformedError):
            pytest.fail(f"{status}: {reference.decode(data)}")


def test_the_good_file_of_the_malformed_ones(run):
    assert_agrees(malformed.GOOD, run)
    assert_agrees(malformed.GOOD_SCALED, run)
    for data in (malformed.GOOD_DIFFERENCE, malformed.GOOD_CHANGE):
        assert_refused(data, run, MESSAGES["difference"])
    for data in malformed.UNSUPPORTED:
        assert_refused(data, run, MESSAGES["unsupported_coder"])


def test_every_status_is_tried_and_documented():
    of_the_call = {"ok", "bad_index", "bad_elements", "wrong_output_size", "wrong_base", "no_memory", "read_failed"}
    of_the_call |= {"beyond_limits"}
    tried = {name for name, _ in MALFORMED} | {"difference", "unsupported_coder", "stream_truncated"}
    names = set(MESSAGES)
    assert names == tried | of_the_call
    table = (ROOT / "docs" / "robustness.md").read_text().partition("\n## ")[0]
    assert names - {"ok"} == set(re.findall(r"^\| `([a-z0-9_]+)`", table, flags=re.MULTILINE))


@pytest.mark.parametrize("coder", CODERS)
def test_cut_and_flipped_files_are_refused(coder, run):
    data = compressed_model.encode(model(), coder)
    generator = np.random.default_rng(7)
    for size in (*range(8), *generator.integers(8, len(data), 10)):
        assert_refused(data[:size], run)
    for position in generator.integers(0, len(data), 20):
        flipped = bytearray(data)
        flipped[position] ^= 1 << generator.integers(0, 8)
        assert_refused(bytes(flipped), run)


@pytest.mark.parametrize("coder", CODERS)
def test_altered_payloads_with_matching_checksums(coder, run, monkeypatch):
    """Python and C++ refuse them both, or decode them to the same."""
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 2000)
    data = compressed_model.encode(model(), coder)
    reader = Reader(data)
    entries = [(chunk.coder, chunk.symbols) for chunk in reader.header.chunks]
    places = zip(reader.payload_offsets, reader.header.chunks, strict=True)
    payloads = [data[offset : offset + chunk.payload_bytes] for offset, chunk in places]
    generator = np.random.default_rng(8)
    header = header_without_chunks(data)
    for _ in range(15):
        altered = [bytearray(payload) for payload in payloads]
        victim = altered[generator.integers(0, len(altered))]
        if generator.integers(0, 3) == 0:
            del victim[generator.integers(1, len(victim) + 1) :]
        else:
            victim[generator.integers(0, len(victim))] ^= 1 << generator.integers(0, 8)
        listed = [malformed.chunk(*entry, payload) for entry, payload in zip(entries, altered, strict=True)]
        file = malformed.sealed(header + malformed.listed(*listed), [bytes(payload) for payload in altered])
        try:
            load_tensors(Reader(file))
        except FormatError:
            assert_refused(file, run)
        else:
            assert_agrees(file, run)


def header_without_chunks(data):
    """The header's bytes before its chunk list."""
    sizes = reference.Bytes(data, 4)
    size, coded_size = sizes.varint(), sizes.varint()
    header = malformed._native.text_decode(sizes.take(coded_size), size)
    chunks = Reader(data).header.chunks
    entries = [bytes([c.coder]) + malformed.varint(c.symbols) + malformed.varint(c.payload_bytes) for c in chunks]
    last = bytes([chunks[-1].coder, 0]) + malformed.varint(chunks[-1].payload_bytes)
    listed = malformed.listed(*entries[:-1], last)
    assert header.endswith(listed)
    return header[: -len(listed)]


def test_the_decoder_needs_no_exceptions_and_no_run_time_types():
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-fno-exceptions", "-fno-rtti"]
    source = ROOT / "tests" / "native" / "decoder.cpp"  # which calls all of it
    define = f'-DMETAQ_SOURCE_DIR="{ROOT}"'
    subprocess.run([COMPILER, *flags, define, f"-I{ROOT / 'src'}", "-fsyntax-only", source], check=True)
    assert not re.search(r"\b(try|catch|throw|dynamic_cast|typeid)\b", (ROOT / "src/metaq/decoder.hpp").read_text())


def test_arithmetic_that_would_decode_to_other_values_does_not_compile():
    command = [COMPILER, "-std=c++20", "-ffast-math", f"-I{ROOT / 'src'}", "-fsyntax-only", "-xc++", "-"]
    run = subprocess.run(command, input='#include "metaq/decoder.hpp"\n', capture_output=True, text=True)
    assert run.returncode != 0
    assert "metaq: expected IEEE 754 arithmetic, found -ffast-math" in run.stderr


def test_usage_and_files_that_cannot_be_read_or_written(program, tmp_path):
    (tmp_path / "good.mtq").write_bytes(malformed.GOOD)
    (tmp_path / "file").write_bytes(b"")
    for arguments in ([], ["good.mtq"], ["missing.mtq", "out"], [".", "out"], ["good.mtq", "file/out"]):
        result = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
