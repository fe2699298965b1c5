"""Checkpoints a piece at a time: one step meets the target over all files, and stopped runs go on to the same files."""

import errno
import json
import os
import threading

import pytest
import safetensors.torch
import torch

from metaq import api
from metaq.checkpoints import (
    CompressionConfig,
    compress_path,
    compress_state_dict,
    decompress_path,
    sample,
    tensor_plan,
    work_folder,
    write_difference,
)
from metaq.checkpoints.chunk_decoder import batches
from metaq.checkpoints.resumable import STATE
from metaq.checkpoints.tensor_plan import pieces
from metaq.coding import base as coding_base
from metaq.compressed_model import encode
from metaq.errors import InputError
from metaq.format.reader import Reader
from metaq.io.safetensors import SafetensorsFile, read_safetensors
from metaq.progress import Progress
from metaq.quantizers.lossless import compress_losslessly

NAMES = ["a.safetensors", "b.safetensors", "c.safetensors"]


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{seed}.weight": (0.02 * 2**seed) * torch.randn(90, 70, generator=generator),
        f"{seed}.half": 0.1 * torch.randn(120, 50, generator=generator).bfloat16(),
        f"{seed}.bias": torch.randn(33, generator=generator),
        f"{seed}.ids": torch.arange(40),
    }


@pytest.fixture
def folder(write_folder):
    return write_folder({name: tensors(seed) for seed, name in enumerate(NAMES)})


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Many chunks, pieces and a sample smaller than the whole, as large checkpoints have them."""
    monkeypatch.setattr(coding_base, "CHUNK_SYMBOLS", 5000)
    monkeypatch.setattr(tensor_plan, "PIECE_ELEMENTS", 1111)
    monkeypatch.setattr(sample, "SAMPLE_WEIGHTS", 8000)


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loaded(folder):
    out = {}
    for path in sorted(folder.glob("*.mtq")):
        out |= api.load_file(path)
    return out


WEIGHTS = {name: tensor for seed in range(3) for name, tensor in tensors(seed).items() if tensor.ndim > 1}


def relative_error(found, names=None):
    names = names or WEIGHTS
    error = sum(float((found[name].double() - WEIGHTS[name].double()).square().sum()) for name in names)
    return error / sum(float(WEIGHTS[name].double().square().sum()) for name in names)


def bits_per_weight(folder):
    """Of the chunks that hold quantized weights; each of the files has a few integers there too."""
    sizes = [chunk for path in folder.glob("*.mtq") for chunk in Reader(path.read_bytes()).header.chunks]
    return 8 * sum(chunk.payload_bytes for chunk in sizes if chunk.coder == 3 and chunk.symbols > 2000) / 36900


@pytest.mark.parametrize("limit", [1e-4, 2e-3, 0.1])
def test_error_is_met(tmp_path, folder, limit):
    compress_path(folder, tmp_path / "out", CompressionConfig(max_error=limit))
    assert 0.99 * limit <= relative_error(loaded(tmp_path / "out")) <= limit


def test_one_step_for_all(tmp_path, folder):
    compress_path(folder, tmp_path / "out", CompressionConfig(quality="medium"))
    entries = [entry for path in (tmp_path / "out").glob("*.mtq") for entry in Reader(path.read_bytes()).header.tensors]
    assert len({entry.codebook for entry in entries if entry.name in WEIGHTS}) == 1
    assert 0.99 * 3e-3 <= relative_error(loaded(tmp_path / "out")) <= 3e-3


@pytest.mark.parametrize("bits", [2.0, 5.0])
def test_bits_are_met(tmp_path, folder, bits):
    compress_path(folder, tmp_path / "out", CompressionConfig(bits=bits))
    assert 0.97 * bits <= bits_per_weight(tmp_path / "out") <= 1.02 * bits


@pytest.mark.parametrize(("size", "coder"), [(12000, None), (20000, "rans"), (16000, "huffman")])
def test_size_is_met(tmp_path, folder, size, coder):
    config = CompressionConfig(size_bytes=size, coder=coder)
    result = compress_path(folder, tmp_path / "out", config)
    found = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.mtq"))
    assert result.file_bytes == found
    assert 0.99 * size <= found <= size


def test_patterns(tmp_path, folder):
    config = CompressionConfig(bits=4.0, keep=("1.*",), tensor_bits={"*.half": 6.0})
    compress_path(folder, tmp_path / "out", config)
    found = loaded(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(1).items())
    assert torch.equal(found["0.bias"], tensors(0)["0.bias"].half().float())
    assert relative_error(found, ["0.half", "2.half"]) < 1e-3 < relative_error(found, ["0.weight"])
    with pytest.raises(InputError, match=r"pattern 'none\*': expected one that matches"):
        compress_path(folder, tmp_path / "out2", CompressionConfig(keep=("none*",)))


def test_step(tmp_path, folder):
    compress_path(folder, tmp_path / "out", CompressionConfig(step=0.01))
    found = loaded(tmp_path / "out")
    for name, tensor in WEIGHTS.items():
        step = torch.tensor(0.01)
        assert torch.equal(found[name], ((tensor.double() / float(step)).round().float() * step).to(tensor.dtype))
    assert torch.equal(found["0.bias"], tensors(0)["0.bias"])


@pytest.mark.parametrize("dial", [{"size_bytes": 10}, {"max_error": 1e-18}])
def test_targets_that_no_step_leads_to(tmp_path, folder, dial):
    with pytest.raises(InputError, match=rf"{next(iter(dial))}: expected at least .* which no step brings it below"):
        compress_path(folder, tmp_path / "out", CompressionConfig(**dial))


def test_nothing_to_quantize(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(9, 9), "b": torch.ones(3)}, path)
    for dial in ({"bits": 3}, {"max_error": 1e-3}, {"size_bytes": 1000}):
        compress_path(path, tmp_path / "x.mtq", CompressionConfig(**dial), force=True)
        assert torch.equal(api.load_file(tmp_path / "x.mtq")["w"], torch.zeros(9, 9))


@pytest.mark.parametrize("config", [CompressionConfig(max_error=1e-4), CompressionConfig(step=0.01)])
def test_double_precision(tmp_path, config):
    path = tmp_path / "x.safetensors"
    weights = torch.randn(30, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    safetensors.torch.save_file({"w": weights}, path)
    compress_path(path, tmp_path / "x.mtq", config)
    found = api.load_file(tmp_path / "x.mtq")["w"]
    assert found.dtype == torch.float64
    assert float((found - weights).square().sum() / weights.square().sum()) <= 1e-4


def as_mtq(tmp_path, state, config):
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", {"k": "v"})
    compress_path(tmp_path / "x.safetensors", tmp_path / "x.mtq", config)
    return (tmp_path / "x.mtq").read_bytes()


def test_the_same_bytes_as_in_memory(tmp_path):
    state = {**tensors(0), "few": torch.randint(0, 9, (80, 80)).half(), "none": torch.empty(0, 3)}
    found = as_mtq(tmp_path, state, CompressionConfig(lossless=True, coder="rans"))
    model = compress_losslessly(read_safetensors(tmp_path / "x.safetensors")[0])
    model.metadata["k"] = "v"
    assert found == encode(model, "rans")


def test_no_larger_than_in_memory_at_equal_error(tmp_path):
    config = CompressionConfig(max_error=1e-3)
    found = as_mtq(tmp_path, tensors(0), config)
    assert len(found) <= 1.005 * len(encode(compress_state_dict(tensors(0), config)))


def test_pieces_and_batches_cover_everything_once(tmp_path, folder):
    file = SafetensorsFile(folder / NAMES[0])
    for name, tensor in tensors(0).items():
        assert torch.equal(torch.cat(list(pieces(file, name))), tensor.flatten())
    file.close()
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True))
    reader = Reader((tmp_path / "out" / "a.mtq").read_bytes())
    covered = sorted(
        (index, place) for wanted in batches(reader) for index, places in wanted.items() for place in places
    )
    sizes = [entry.size for entry in reader.header.tensors]
    assert covered == [(index, place) for index, size in enumerate(sizes) for place in range(size)]


class Stopper(Progress):
    """Ctrl-C, or another failure, after so many advances."""

    def __init__(self, after, failure):
        self.left, self.failure, self.begun = after, failure, []

    def begin(self, what, total_bytes=None):
        self.begun.append(what)

    def advance(self, read_bytes, written_bytes):
        if self.begun[-1] != "reading":
            self.left -= 1
            if self.left < 0:
                raise self.failure


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("config", [CompressionConfig(lossless=True), CompressionConfig(size_bytes=14000)])
def test_a_stopped_run_goes_on_to_the_same_files(tmp_path, folder, monkeypatch, threads, config):
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    compress_path(folder, tmp_path / "whole", config)
    for after in (4, 9, 13):
        with pytest.raises(KeyboardInterrupt):
            compress_path(folder, tmp_path / "out", config, resume=True, progress=Stopper(after, KeyboardInterrupt()))
        assert not (tmp_path / "out").exists()
        assert all(path.suffix in (".mtq", ".json") for path in work_folder(tmp_path / "out").glob("files/*"))
    compress_path(folder, tmp_path / "out", config, resume=True)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "whole", "out"}


@pytest.fixture
def left(tmp_path, folder, monkeypatch):
    """What a lossless run leaves that is stopped in the second shard."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        compress_path(
            folder, tmp_path / "out", CompressionConfig(lossless=True), progress=Stopper(11, KeyboardInterrupt())
        )
    return work_folder(tmp_path / "out")


def test_finished_shards_are_not_done_again(tmp_path, folder, left):
    before = {path.name: path.stat().st_mtime_ns for path in left.glob("files/*.mtq")}
    assert len(before) == 1
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=True)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}.items()


def test_resuming_with_other_options_or_sources_is_refused(tmp_path, folder, left):
    before = everything(left / "files")
    with pytest.raises(InputError, match="the options that the run began with, found 'lossless'"):
        compress_path(folder, tmp_path / "out", CompressionConfig(), resume=True)
    os.utime(folder / NAMES[0], (1, 1))
    with pytest.raises(InputError, match=r"expected the source and the options .* found 'source'"):
        compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=True)
    assert everything(left / "files") == before
    (left / STATE).write_text("{")
    with pytest.raises(InputError, match="expected what a stopped run left, found something else"):
        compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=True)
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True))  # from the start
    assert (tmp_path / "out" / "a.mtq").exists()


def test_a_folder_that_no_run_left_is_not_touched(tmp_path, folder):
    left = work_folder(tmp_path / "out")
    left.mkdir()
    (left / "mine").write_bytes(b"x")
    for resumes in (False, True):
        with pytest.raises(InputError, match="expected no such folder, or one that a stopped run left, found another"):
            compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=resumes)
    assert everything(left) == {"mine": b"x"}


def test_what_a_killed_run_left_is_cleared(tmp_path, folder, left):
    (left / "files" / ".metaq-x.tmp").write_bytes(b"half")
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=True)
    assert not list((tmp_path / "out").glob(".metaq*"))


@pytest.mark.parametrize("threads", [1, 3])
def test_decompression_goes_on_too(tmp_path, folder, monkeypatch, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    compress_path(folder, tmp_path / "small", CompressionConfig(lossless=True))
    with pytest.raises(KeyboardInterrupt):
        decompress_path(tmp_path / "small", tmp_path / "back", progress=Stopper(8, KeyboardInterrupt()))
    assert not (tmp_path / "back").exists()
    decompress_path(tmp_path / "small", tmp_path / "back", resume=True)
    for name in NAMES:
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    assert not work_folder(tmp_path / "back").exists()


def test_a_large_file_that_is_stopped_leaves_the_old_output(tmp_path, folder):
    (tmp_path / "x.mtq").write_bytes(b"old")
    stopper = Stopper(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig(), force=True, progress=stopper)
    assert (tmp_path / "x.mtq").read_bytes() == b"old"
    assert not work_folder(tmp_path / "x.mtq").exists()
    compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig(), force=True)
    assert relative_error(api.load_file(tmp_path / "x.mtq"), ["0.weight"]) < 0.1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("after", [0, 9])  # each of three shards syncs twice before its note
def test_a_full_disk(tmp_path, folder, monkeypatch, threads, after):
    """Nothing is half-written; what is finished is kept for --resume."""
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    sync, counting, synced = os.fsync, threading.Lock(), []

    def full(descriptor):
        with counting:
            synced.append(descriptor)
            if len(synced) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"^disk full: /.*: expected room for .* bytes, found No space left on device$"
    ):
        compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True))
    assert not (tmp_path / "out").exists()
    left = work_folder(tmp_path / "out")
    assert left.exists() == (after > 0)
    assert all(path.suffix in (".mtq", ".json") for path in left.glob("files/*"))
    monkeypatch.setattr(os, "fsync", sync)
    compress_path(folder, tmp_path / "out", CompressionConfig(lossless=True), resume=True)
    assert all(torch.equal(loaded(tmp_path / "out")[name], tensor) for name, tensor in WEIGHTS.items())


def test_a_full_disk_when_decompressing(tmp_path, folder, monkeypatch):
    compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig(lossless=True))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        InputError, match=r"^disk full: /.*y.safetensors: expected room for 37\d+ bytes, found No space left on device$"
    ):
        decompress_path(tmp_path / "x.mtq", tmp_path / "y.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "x.mtq"}


def test_a_source_that_shrinks(folder):
    file = SafetensorsFile(folder / NAMES[0])
    (folder / NAMES[0]).write_bytes((folder / NAMES[0]).read_bytes()[:5000])
    with pytest.raises(InputError, match=r"a.safetensors: expected the file as it was at the start, found it changed"):
        file.read("0.weight", range(90 * 70))


@pytest.mark.parametrize("sampled", [False, True], ids=["few weights", "many weights"])
@pytest.mark.parametrize("config", [CompressionConfig(step=0.01), CompressionConfig(bits=4)], ids=["step", "bits"])
def test_weights_that_are_not_finite_are_kept_and_named(tmp_path, monkeypatch, caplog, config, sampled):
    """Alike, however many weights there are, and whatever is asked for."""
    monkeypatch.setattr(sample, "SAMPLE_WEIGHTS", 100 if sampled else 1 << 20)
    state = {"w": torch.randn(30, 30), "odd": torch.tensor([[float("nan"), 0.123], [-float("inf"), 1e-42]])}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    compress_path(tmp_path / "x.safetensors", tmp_path / "x.mtq", config)
    found = api.load_file(tmp_path / "x.mtq")
    assert torch.equal(found["odd"].view(torch.int32), state["odd"].view(torch.int32))
    assert not torch.equal(found["w"], state["w"])
    assert [record.getMessage() for record in caplog.records] == [
        "tensor 'odd': expected weights that float32 holds, found NaN, infinity or larger ones; it is kept exactly"
    ]


def test_the_report_is_what_the_files_say(tmp_path, folder):
    report = compress_path(folder, tmp_path / "out", CompressionConfig(bits=3, coder="mixing"))
    assert (report.file, report.shards, report.tensors, report.coder) == (str(tmp_path / "out"), 3, 12, "mixing")
    assert report.source_bytes == sum(
        tensor.numel() * tensor.dtype.itemsize for seed in range(3) for tensor in tensors(seed).values()
    )
    assert report.file_bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.mtq"))
    assert report.relative_squared_error == pytest.approx(relative_error(loaded(tmp_path / "out")), rel=1e-6)
    assert report.bits_per_weight == pytest.approx(bits_per_weight(tmp_path / "out"), rel=0.02)
    assert 0 < report.seconds < 100
    figures = report.as_dict()
    assert figures["ratio"] == figures["bytes_before"] / figures["bytes"]
    assert {"folder", "shards", "tensors", "relative_squared_error", "bits_per_weight", "coder"} <= figures.keys()


def test_the_report_without_loss(tmp_path, folder):
    report = compress_path(folder / NAMES[0], tmp_path / "x.mtq", CompressionConfig(lossless=True))
    assert (report.relative_squared_error, report.bits_per_weight, report.shards) == (0.0, None, None)
    assert report.as_dict()["file"] == str(tmp_path / "x.mtq")


DIALS = [{"bits": 3}, {"size_bytes": 9000}, {"max_error": 1e-3}, {"quality": "high"}, {"step": 0.1}, {"lossless": True}]


@pytest.mark.parametrize("dial", DIALS, ids=lambda dial: next(iter(dial)))
@pytest.mark.parametrize("largest", [1e39, 1e160, 1.7e308])
def test_weights_whose_squares_overflow_are_kept(tmp_path, dial, largest):
    generator = torch.Generator().manual_seed(0)
    state = {
        "huge": torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8) * largest,
        "tiny": torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8) * 1e-200,
        "w": torch.randn(30, 30, generator=generator, dtype=torch.float64),
    }
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    compress_path(tmp_path / "x.safetensors", tmp_path / "x.mtq", CompressionConfig(**dial))
    found = api.load_file(tmp_path / "x.mtq")
    assert torch.equal(found["huge"], state["huge"])
    assert torch.equal(found["w"], state["w"]) == ("lossless" in dial)
    assert relative(found["w"], state["w"]) < 0.1


def relative(found, weights):
    return float((found - weights).square().sum() / weights.square().sum())


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**64 - 1], [2**41, 0], [1] * 33, [0] * 70])
def test_shapes_beyond_the_format_are_refused(tmp_path, shape):
    """Whatever is done with a checkpoint, and though there may be no element."""
    count = 0 if 0 in shape else 1
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]}
    header = json.dumps({"w": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * count))
    for work in (SafetensorsFile, read_safetensors, lambda path: write_difference(path, path, tmp_path / "x.mtq")):
        with pytest.raises(InputError, match=r"tensor 'w': expected at most 32 dimensions and 2\^40 elements, found"):
            work(path)


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nested_tensors_are_refused(tmp_path):
    for layout in (torch.strided, torch.jagged):
        state = {"w": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)}
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(InputError, match="tensor 'w': expected a dense tensor, found a nested one"):
            compress_path(tmp_path / "x.pt", tmp_path / "x.mtq", CompressionConfig())
