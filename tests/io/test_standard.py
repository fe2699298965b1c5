"""Standard input and output in place of files."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from metaq import api
from metaq.checkpoints import CompressionConfig, compress_path, decompress_path
from metaq.compressed_model import encode
from metaq.errors import FormatError, InputError
from metaq.files import read_bytes, read_json
from metaq.io import open_source, standard
from metaq.io.standard import STANDARD
from metaq.quantizers.lossless import compress_losslessly

STATE = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2])}
LOSSLESS = CompressionConfig(lossless=True)


class Standard:
    """What stands in for a standard stream."""

    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)

    def isatty(self):
        return False


@pytest.fixture
def streams(monkeypatch):
    """From input to output of some work."""

    def run(work, data):
        monkeypatch.setattr(standard.sys, "stdin", Standard(data))
        monkeypatch.setattr(standard.sys, "stdout", Standard())
        work()
        return standard.sys.stdout.buffer.getvalue()

    return run


def as_torch(is_new):
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=is_new)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [safetensors.torch.save(STATE, {"k": "v"}), as_torch(True), as_torch(False)],
    ids=["safetensors", "pt", "old"],
)
def test_there_and_back(streams, data):
    compressed = streams(lambda: compress_path(STANDARD, STANDARD, LOSSLESS), data)
    back = safetensors.torch.load(streams(lambda: decompress_path(STANDARD, STANDARD), compressed))
    assert all(torch.equal(back[name], tensor) for name, tensor in STATE.items())


def test_onnx(streams):
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(STATE["w"].numpy(), "w")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["w"], ["y"])], "main", [], [], [weights])
    model = onnx.helper.make_model(graph)
    compressed = streams(lambda: compress_path(STANDARD, STANDARD, LOSSLESS), model.SerializeToString())
    assert onnx.load_from_string(streams(lambda: decompress_path(STANDARD, STANDARD), compressed)) == model


def test_one_of_them(streams, tmp_path):
    data = safetensors.torch.save(STATE)
    (tmp_path / "x.safetensors").write_bytes(data)
    compressed = streams(lambda: compress_path(tmp_path / "x.safetensors", STANDARD, LOSSLESS), b"")
    assert compressed == encode(compress_losslessly({"b": STATE["b"], "w": STATE["w"]}))
    assert streams(lambda: compress_path(STANDARD, tmp_path / "x.mtq", LOSSLESS), data) == b""
    assert (tmp_path / "x.mtq").read_bytes() == compressed


@pytest.mark.parametrize("data", [b"", b"x", b"garbage" * 9, b"\xff" * 8 + b"{"])
def test_unknown_formats(streams, data):
    with pytest.raises(
        InputError, match=r"standard input: expected a safetensors, NumPy, torch, onnx or .mtq file, found b"
    ):
        streams(lambda: compress_path(STANDARD, STANDARD, LOSSLESS), data)


def test_errors_name_standard_input(streams):
    data = safetensors.torch.save(STATE)
    with pytest.raises(InputError, match=r"^standard input: expected a .safetensors file"):
        streams(lambda: compress_path(STANDARD, STANDARD, LOSSLESS), data[:-1])
    with pytest.raises(FormatError, match=r"^standard input: expected"):
        streams(lambda: decompress_path(STANDARD, STANDARD), encode(compress_losslessly(STATE))[:-1])


def test_a_terminal_is_spared(monkeypatch, tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "x.safetensors")
    monkeypatch.setattr(standard.sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(InputError, match="standard output: expected a file or a pipe, found a terminal"):
        compress_path(tmp_path / "x.safetensors", STANDARD, LOSSLESS)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
def test_processes_of_their_own(tmp_path):
    """A pipe of both commands, and a full disk behind standard output."""
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(STATE, path)
    metaq = f"{sys.executable} -m metaq"
    pipe = (
        f"{metaq} compress - -o - --lossless < {path} | tee {tmp_path}/x.mtq | {metaq} decompress - -o {tmp_path}/y.pt"
    )
    finished = subprocess.run(pipe, shell=True, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert torch.equal(api.load_file(tmp_path / "x.mtq")["w"], STATE["w"])
    assert torch.equal(torch.load(tmp_path / "y.pt")["w"], STATE["w"])
    full = subprocess.run(f"{metaq} compress - -o - < {path} > /dev/full", shell=True, capture_output=True, text=True)
    assert full.returncode == 2
    assert full.stderr.startswith("metaq: disk full: standard output: expected room for ")
    assert full.stderr.count("\n") == 1


def piped(path, data):
    """A thread that writes into a new pipe."""
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    thread.start()
    return thread


def test_pipes_are_read_like_standard_input(tmp_path):
    data = safetensors.torch.save(STATE)
    piped(tmp_path / "pipe", data)
    compress_path(tmp_path / "pipe", tmp_path / "x.mtq", LOSSLESS)
    assert torch.equal(api.load_file(tmp_path / "x.mtq")["w"], STATE["w"])
    piped(tmp_path / "pipe.mtq", (tmp_path / "x.mtq").read_bytes())
    decompress_path(tmp_path / "pipe.mtq", tmp_path / "x.safetensors")
    assert torch.equal(safetensors.torch.load_file(tmp_path / "x.safetensors")["w"], STATE["w"])
    piped(tmp_path / "bad", data[:-1])
    with pytest.raises(InputError, match=r"/bad: expected a .safetensors file"):
        compress_path(tmp_path / "bad", tmp_path / "y.mtq", LOSSLESS)


def test_pipes_and_devices_where_files_are_needed(tmp_path):
    """Nothing waits for what may never come, or reads what has no end."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zeros.safetensors").symlink_to("/dev/zero")
    found = "a pipe; write what comes through it to a file first"
    for read in (open_source, read_bytes):
        with pytest.raises(InputError, match=f"pipe.safetensors: expected a file, found {found}"):
            read(tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match=f"pipe.json: expected a file, found {found}"):
        read_json(tmp_path / "pipe.json")
    for read in (open_source, read_bytes, lambda path: compress_path(path, tmp_path / "x.mtq", LOSSLESS)):
        with pytest.raises(InputError, match=r"zeros.safetensors: expected a file, found a device or a socket"):
            read(tmp_path / "zeros.safetensors")
    with pytest.raises(InputError, match="/dev/zero: expected a file, found a device"):
        decompress_path(Path("/dev/zero"), tmp_path / "x.safetensors")


def test_standard_input_that_is_closed(monkeypatch, tmp_path):
    monkeypatch.setattr(standard.sys, "stdin", None)
    with pytest.raises(InputError, match="standard input: expected bytes to read, found Bad file descriptor"):
        compress_path(STANDARD, tmp_path / "x.mtq", LOSSLESS)
