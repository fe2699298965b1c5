"""The npm package in Node: what NumPy reads, and what C++ refuses, in its words; its size and speed."""

import contextlib
import gzip
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import malformed_files as malformed
import numpy as np
import pytest
import torch

import metaq
import metaq.numpy
from metaq import _native
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel
from metaq.matrix_layout import MatrixLayout

from .expected import GOLDEN, by_name, cases
from .package import BUILDS, NODE, ROOT, SOURCES, as_base64, built_package, in_node, needs_node, needs_zig

slow = [pytest.mark.slow, needs_zig, needs_node]
LARGEST_PACKAGE_BYTES = 70_000  # gzipped, all that an engine may load and the types
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
LEAST_SPEED = 0.4  # of native decoding


def test_the_package_has_the_version_and_the_names_of_its_types():
    package = json.loads((SOURCES / "package.json").read_text())
    assert package["version"] == metaq.__version__
    assert all((SOURCES / file).exists() for file in package["files"] if "*" not in file)
    pattern = r"^export (?:async )?(?:function\*?|class) (\w+)"
    exported = re.findall(pattern, (SOURCES / "metaq.js").read_text(), flags=re.MULTILINE)
    declared = re.findall(pattern, (SOURCES / "metaq.d.ts").read_text(), flags=re.MULTILINE)
    assert sorted(exported) == sorted(declared)


class TestPackage:
    pytestmark = slow

    @pytest.mark.parametrize("build", BUILDS)
    @pytest.mark.parametrize("piece_bytes", [0, 7])
    def test_reads_what_numpy_reads_and_refuses_what_cpp_refuses(self, build, piece_bytes):
        expected = cases()
        found = in_node([["describe", as_base64(data), piece_bytes] for data, _ in expected], build)
        assert [by_name(described) for described in found] == [by_name(described) for _, described in expected]
        assert len({described.get("status") for described in found}) > 35

    @pytest.mark.parametrize("build", BUILDS)
    @pytest.mark.parametrize(
        ("coder", "spread"), [("rans", 1.5), ("rans", 900.0), ("adaptive", 1.5), ("adaptive", 900.0), ("mixing", 1.5)]
    )
    def test_tensors_that_are_large_enough_for_vectors(self, build, coder, spread, tmp_path):
        metaq.save(large_tensors(spread), tmp_path / "large.mtq", coder=coder)
        (found,) = in_node([["checksums", str(tmp_path / "large.mtq")]], build)
        assert found == checksums_of(tmp_path / "large.mtq")

    def test_a_stream_that_ends_early_is_truncated(self):
        data = next(path for path in GOLDEN if path.stem == "network-mixing").read_bytes()
        sizes = range(3, len(data), 5)
        for found in in_node([["describe", as_base64(data[:size]), 50] for size in sizes]):
            assert found == {"status": "truncated", "words": "expected more bytes, found the end of the file"}
        (found,) = in_node([["describe", as_base64(data + b"\0"), 50]])
        assert found["status"] == "bytes_left_over"

    def test_half_precision_is_widened(self):
        data = next(path for path in GOLDEN if path.stem == "every-dtype").read_bytes()
        (found,) = in_node([["widened", as_base64(data)]])
        for tensor, array in zip(found, metaq.numpy.load(data).values(), strict=True):
            is_half = str(array.dtype) in ("float16", "bfloat16")
            expected = array.astype(np.float32) if is_half else array
            assert tensor["dtype"] == str(expected.dtype)
            values = np.frombuffer(bytes.fromhex(tensor["hex"]), expected.dtype).reshape(expected.shape)
            if is_half:
                np.testing.assert_array_equal(values, expected)
            else:
                assert values.tobytes() == expected.tobytes()

    def test_metadata(self):
        data = next(path for path in GOLDEN if path.stem == "network-rans").read_bytes()
        (found,) = in_node([["metadata", as_base64(data)]])
        assert found == {"metadata": {"recipe": "golden", "naïve": "✓\n"}, "names": list(metaq.numpy.load(data))}

    def test_a_stream_takes_the_memory_of_its_largest_tensors_alone(self, tmp_path):
        layer = torch.randint(-3, 4, (512, 512), dtype=torch.int32)
        model = {f"layer {i}": CodedTensor(layer, UniformCodebook(0.1), torch.float32) for i in range(128)}
        metaq.save(CompressedModel(model), tmp_path / "deep.mtq", coder="rans")
        (found,) = in_node([["streamed", str(tmp_path / "deep.mtq")]])
        assert found["elements"] == 128 * layer.numel()
        print(f"\n{found['memoryBytes']:,} bytes of memory for {4 * found['elements']:,} bytes of tensors")
        assert found["memoryBytes"] < 4 * found["elements"] / 3

    def test_rows_behind_an_address_take_ranges(self, tmp_path):
        weights = np.random.default_rng(0).normal(size=(600, 400)).astype(np.float32)
        metaq.numpy.save_file({"first": weights, "second": weights[:3]}, tmp_path / "model.mtq")
        with served_by_ranges(tmp_path) as (url, ranges):
            addresses = (f"{url}/model.mtq", f"{url}/model.mtq?hides=size")
            found = in_node([["rows", address, "second", [1, 3]] for address in addresses])
        assert [(tensor["shape"], tensor["hex"]) for tensor in found] == 2 * [([2, 400], weights[1:3].tobytes().hex())]
        assert ranges[0] == "bytes=0-65535"
        assert None not in ranges[:-1]
        assert ranges[-1] is None

    def test_more_memory_than_there_can_be_is_an_error(self):
        chunks = ((1, 2**26, bytes(200)),) * 32
        data = malformed.file((malformed.tensor(rest=malformed.shape(2**31) + malformed.STEP),), chunks)
        (found,) = in_node([["describe", as_base64(data)]])
        assert found == {"status": "no_memory", "words": "expected more memory, found none"}

    def test_the_example_reads_a_file(self, tmp_path):
        shutil.copy(ROOT / "examples" / "browser" / "read.mjs", tmp_path)
        (tmp_path / "node_modules").mkdir()
        (tmp_path / "node_modules" / "metaq").symlink_to(built_package())
        command = [NODE, "--preserve-symlinks", tmp_path / "read.mjs", ROOT / "results" / "lenet5-mnist.mtq"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        names = list(metaq.numpy.load_file(ROOT / "results" / "lenet5-mnist.mtq"))
        assert [line.split()[0] for line in lines] == [*names, "{", *names, "truncated"]
        assert lines[0] == "conv1.weight float32 [ 6, 1, 5, 5 ] 150"
        assert lines[len(names)] == "{ recipe: 'lenet5-mnist' } 25"

    @pytest.mark.skipif(shutil.which("tsc") is None, reason="no tsc")
    def test_types(self):
        flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "es2022", "--lib", "es2022,dom,dom.iterable"]
        command = ["tsc", *flags, "--moduleResolution", "node", str(Path(__file__).parent / "usage.ts")]
        finished = subprocess.run(command, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stdout

    def test_speed(self, tmp_path):
        """Against native decoding, both on one thread: the fastest of many, since others use the machine too."""
        paths = speed_files(tmp_path)
        checksums = in_node([["checksums", str(path)] for path in paths.values()])
        assert checksums == [checksums_of(path) for path in paths.values()]
        native, browser = dict.fromkeys(paths, np.inf), dict.fromkeys(paths, np.inf)
        for _ in range(5):
            calls = [["fastest", str(path), 1.5] for path in paths.values()]
            fastest = in_node(calls, "simd", "--no-liftoff")  # which optimises at once, not when it has a core to spare
            for (coder, path), milliseconds in zip(paths.items(), fastest, strict=True):
                browser[coder] = min(browser[coder], milliseconds / 1e3)
                native[coder] = min(native[coder], native_seconds(path))
            ratios = {coder: native[coder] / browser[coder] for coder in paths}
            if min(ratios.values()) >= LEAST_SPEED:
                break
        print("\nspeed against native: " + ", ".join(f"{coder} {ratio:.2f}" for coder, ratio in ratios.items()))
        assert min(ratios.values()) >= LEAST_SPEED

    def test_size(self):
        package = built_package()
        sizes = {path.name: len(gzip.compress(path.read_bytes())) for path in sorted(package.rglob("*.*"))}
        print("\ngzipped bytes: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
        print(f"in all {sum(sizes.values()):,}")
        assert sum(sizes.values()) <= LARGEST_PACKAGE_BYTES


def test_onnx_models_take_their_tensors_from_files_of_their_names(tmp_path):
    """As the example for onnxruntime-web says."""
    import onnx
    import onnxruntime

    weight = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        linear (float[1, 3] x) => (float[1, 2] y) { y = MatMul(x, weight) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    files = {"save_as_external_data": True, "all_tensors_to_one_file": False, "size_threshold": 0}
    onnx.save(model, tmp_path / "model.onnx", **files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "weight"]
    metaq.numpy.save_file({"weight": 2 * weight}, tmp_path / "weights.mtq")
    (tmp_path / "weight").write_bytes(metaq.numpy.load_file(tmp_path / "weights.mtq")["weight"].tobytes())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"x": np.ones((1, 3), np.float32)})
    np.testing.assert_allclose(found, np.ones((1, 3)) @ (2 * weight), rtol=1e-6)


def checksums_of(path):
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in metaq.numpy.load_file(path).values()]


def large_tensors(spread):
    """Of every kind that has inner loops of its own: dtypes, rows of many scales, neighbours that tell, columns,
    kernels, dependent quantizers.
    """
    generator = torch.Generator().manual_seed(1)

    def symbols(rows, columns, spread=spread):
        scales = torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
        return (spread * scales * torch.randn(rows, columns, generator=generator)).round().to(torch.int32)

    waves = (symbols(256, 300, 0.7) + 5 * torch.sin(torch.arange(300) / 9.0)).round().to(torch.int32)
    step, layout = UniformCodebook(0.02), MatrixLayout(1, torch.zeros(192, dtype=torch.int8), None, True)
    return CompressedModel(
        {
            **{str(dtype): CodedTensor(symbols(200, 301), step, dtype) for dtype in FLOATS},
            "waves": CodedTensor(waves, step, torch.float32),
            "columns": CodedTensor(symbols(192, 257), step, torch.float32, matrix=layout),
            "kernels": CodedTensor(symbols(64, 270).reshape(64, 30, 3, 3), step, torch.float32),
            "path": CodedTensor(along_machine(symbols(100, 301)), step, torch.float32),
            "kept": torch.randn(20_000, generator=generator),
        }
    )


def along_machine(indices):
    """Symbols of dependent quantizers, by the machine of four states in docs/format.md."""
    moves = [[0, 1], [2, 3], [1, 0], [3, 2]]
    symbols = torch.empty_like(indices)
    for row, found in zip(indices.tolist(), symbols, strict=True):
        state = 0
        for place, index in enumerate(row):
            found[place] = 2 * index - (index > 0) * (state & 1) + (index < 0) * (state & 1)
            state = moves[state][index & 1]
    return symbols


def speed_files(folder):
    generator = torch.Generator().manual_seed(0)
    paths = {}
    for coder, rows in (("rans", 1024), ("adaptive", 512), ("mixing", 96)):
        uniform = torch.rand(rows, 2048, generator=generator).clamp(1e-6, 1 - 1e-6)
        weights = torch.distributions.Laplace(0.0, 1.0).icdf(uniform)
        weights *= torch.exp(0.4 * torch.randn(rows, 1, generator=generator))
        symbols = (2 * weights).round().to(torch.int32)
        paths[coder] = folder / f"{coder}.mtq"
        model = CompressedModel({"weight": CodedTensor(symbols, UniformCodebook(0.01), torch.float32)})
        metaq.save(model, paths[coder], coder=coder)
    return paths


def native_seconds(path, times=9):
    data = np.fromfile(path, np.uint8)
    least = np.inf
    for _ in range(times):
        start = time.perf_counter()
        file = _native.File(data)
        out = np.empty(4 * int(np.prod(file.tensors()[0][3])), np.uint8)
        assert file.decode([(0, 0, 2**64 - 1, out)], False, False, 1, print) is None
        least = min(least, time.perf_counter() - start)
    return least


@contextlib.contextmanager
def served_by_ranges(folder):
    """The address of a folder whose server has ranges, and a list of those that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.lstrip("/").partition("?")
            part = data = (folder / path).read_bytes()
            asked.append(self.headers["Range"])
            if asked[-1] is not None:
                first, last = map(int, asked[-1].removeprefix("bytes=").split("-"))
                part = data[first : last + 1]
            self.send_response(200 if asked[-1] is None else 206)
            if asked[-1] is not None and not query:
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
