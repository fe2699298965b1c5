"""Checkpoint files of every format but .onnx, which has models: what comes through, what is refused and never run."""

import io
import json
import os
import random
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from metaq.errors import InputError
from metaq.io import formats, open_source, read_state, write_state
from metaq.io.onnx import Onnx
from metaq.metrics import digest
from metaq.tensors import DTYPES

SUFFIXES = [suffix for format in formats if not isinstance(format, Onnx) for suffix in format.suffixes]
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


NOT_NUMPYS = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def every_dtype(suffix):
    octets = torch.arange(48, dtype=torch.uint8)
    dtypes = [dtype for dtype in DTYPES.values() if suffix != ".npz" or dtype not in NOT_NUMPYS]
    return {str(dtype): octets.view(dtype).clone() if dtype != torch.bool else octets > 20 for dtype in dtypes}


@every_suffix
def test_every_dtype_survives(tmp_path, suffix):
    state = every_dtype(suffix)
    write_state(tmp_path / f"x{suffix}", state, {})
    found, _ = read_state(tmp_path / f"x{suffix}")
    assert digest(dict(sorted(found.items()))) == digest(dict(sorted(state.items())))


@every_suffix
def test_views_and_shared_tensors(tmp_path, suffix):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base, "t": base.T, "s": base[1:, ::2], "e": torch.empty(0, 3), "n": torch.tensor(1)}
    write_state(tmp_path / f"x{suffix}", state, {})
    found, _ = read_state(tmp_path / f"x{suffix}")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in state.items()}


def test_metadata_of_safetensors(tmp_path):
    metadata = {"format": "pt", "ü": "✓\n"}
    write_state(tmp_path / "x.safetensors", {"a": torch.ones(1)}, metadata)
    assert read_state(tmp_path / "x.safetensors")[1] == metadata
    write_state(tmp_path / "x.pt", {"a": torch.ones(1)}, metadata)
    assert read_state(tmp_path / "x.pt")[1] == {}


def raw_safetensors(*names):
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, name in enumerate(names)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(len(names)))


def test_order_of_names(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors("z", "b", "a", "y"))
    state, _ = read_state(tmp_path / "x.safetensors")
    assert {name: int(tensor) for name, tensor in state.items()} == {"z": 0, "b": 1, "a": 2, "y": 3}
    assert list(state) == ["z", "b", "a", "y"]
    write_state(tmp_path / "x.pt", state, {})
    assert list(read_state(tmp_path / "x.pt")[0]) == ["z", "b", "a", "y"]


def test_the_one_name_that_safetensors_cannot_hold(tmp_path):
    with pytest.raises(InputError, match="no tensor called '__metadata__'"):
        write_state(tmp_path / "x.safetensors", {"__metadata__": torch.ones(1)}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda state: {"state_dict": state, "epoch": 3}])
def test_state_dicts_of_torch(tmp_path, wrap, legacy):
    model = nn.Linear(2, 3)
    content = wrap(model.state_dict())
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    assert digest(read_state(tmp_path / "x.pt")[0]) == digest(model.state_dict())


class Harmful:
    """What a hostile file would hold."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "was-run"),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda harm: harm, lambda harm: {"a": harm}, lambda harm: {"a": [harm]}])
def test_a_pickle_is_not_run(tmp_path, wrap, legacy):
    path = tmp_path / "x.pt"
    torch.save(wrap(Harmful(tmp_path)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"expected a state dict .*, found other content") as caught:
        read_state(path)
    assert "weights_only" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "expected a state dict, found Tensor"),
        ([torch.ones(2)], "expected a state dict, found list"),
        ({"a": 3}, "expected named tensors, found int under 'a'"),
        ({1: torch.ones(2)}, "expected named tensors, found Tensor under 1"),
        ({"a": {"b": torch.ones(2)}}, "found dict under 'a'"),
        ({"state_dict": {"a": "b"}}, "found str under 'a'"),
        (nn.Linear(2, 2), "found other content"),
    ],
)
def test_other_content_of_torch_files(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        read_state(tmp_path / "x.pt")


def blobs():
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5), "c": torch.ones(2).bfloat16()}
    files = {".safetensors": safetensors.torch.save(state, {"k": "v"})}
    del state["c"]
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in state.items()})
    files[".npz"] = buffer.getvalue()
    for suffix, is_new in ((".pt", True), (".pth", False)):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=is_new)
        files[suffix] = buffer.getvalue()
    return files


@pytest.mark.parametrize(("suffix", "data"), blobs().items())
def test_damaged_files(tmp_path, suffix, data):
    """Damage is refused as an InputError of one line, if it is noticed at all: these formats have no checksums."""
    path = tmp_path / f"x{suffix}"
    generator = random.Random(0)
    for trial in range(300):
        damaged = bytearray(data)
        if trial % 3 == 0:
            del damaged[generator.randrange(len(data)) :]
        for _ in range(trial % 3 * 2):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state(path)
        except InputError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@every_suffix
@pytest.mark.parametrize("data", [b"", b"x", b"garbage" * 100, b"PK\3\4", b"\x80\2."])
def test_nonsense(tmp_path, suffix, data):
    (tmp_path / f"x{suffix}").write_bytes(data)
    with pytest.raises(InputError, match="expected a"):
        read_state(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["x", "x.txt", "x.SAFETENSORS", ".pt", "x.pt.gz"])
def test_suffixes(tmp_path, name):
    known = r"a path ending in .safetensors, .npz, .pt, .pth, .bin, .ckpt, .onnx, found"
    for work in (read_state, lambda path: write_state(path, {"a": torch.ones(1)}, {})):
        with pytest.raises(InputError, match=known):
            work(tmp_path / name)


def weights(value=1.0):
    return {"a": torch.full((2, 3), value), "b": torch.arange(3)}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_where_training_scripts_put_a_state_dict(tmp_path, key, suffix):
    path = tmp_path / f"x{suffix}"
    torch.save({"epoch": 3, key: weights(), "optimizer": {"lr": 0.1}, "ema": weights(2.0)}, path)
    assert digest(read_state(path)[0]) == digest(weights())
    assert digest(read_state(path, "ema")[0]) == digest(weights(2.0))


def test_keys(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"model": weights(), "state_dict": weights(2.0), "epoch": 3}, path)
    several = "expected one state dict, found several, under state_dict, model; say which with --key NAME"
    with pytest.raises(InputError, match=several):
        read_state(path)
    assert digest(read_state(path, "model")[0]) == digest(weights())
    with pytest.raises(InputError, match="expected the key 'modle', found 'model', 'state_dict', 'epoch'"):
        read_state(path, "modle")
    with pytest.raises(InputError, match="expected a state dict, found int"):
        read_state(path, "epoch")
    torch.save({"ema": weights(), "epoch": 3}, path)
    with pytest.raises(InputError, match="found dict under 'ema'; there are tensors under ema: say which with --key"):
        read_state(path)
    torch.save({"model": torch.ones(2), "bias": torch.ones(1)}, path)  # a state dict with a tensor of such a name
    assert list(read_state(path)[0]) == ["model", "bias"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_without_keys(tmp_path, suffix):
    write_state(tmp_path / f"x{suffix}", weights(), {})
    with pytest.raises(InputError, match=r"expected no key for a .* file"):
        read_state(tmp_path / f"x{suffix}", "model")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_not_run(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match=r"found a TorchScript archive; save its state dict instead: torch.save"):
        read_state(tmp_path / "x.pt")


UNSUPPORTED = {
    "x.mtq": (b"MTQ\1", "compressed already; metaq decompress"),
    "x.pt": (b"MTQ\1", "compressed already; metaq decompress"),
    "x.gguf": (b"", "quantized already"),
    "model.bin": (b"GGUF\3", "a GGUF file, which is quantized already; compress the .safetensors or .pt"),
    "x.h5": (b"", "numpy.savez"),
    "x.bin": (b"\x89HDF\r\n\x1a\n", "an HDF5 file; write its weights with numpy.savez"),
    "x.pb": (b"", "a TensorFlow graph; write its weights with numpy.savez"),
    "x.keras": (b"PK", "a Keras model; write its weights with numpy.savez"),
    "x.pkl": (b"\x80\4", "a pickle, which is not run; save tensors with torch.save"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_kinds_that_are_known_and_not_read(tmp_path, name):
    data, message = UNSUPPORTED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: expected a checkpoint, found .*{message}") as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_arrays_that_are_no_tensors(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(InputError, match=r"x.npz: expected an .npz file of arrays of numbers, found something else"):
        read_state(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.ones(2, np.complex64))
    with pytest.raises(InputError, match=r"x.npz, array 'a': expected one of float32, .*, found complex64"):
        read_state(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.arange(4, dtype=">i4"), scalar=np.float32(3))
    found, _ = read_state(tmp_path / "x.npz")
    assert found["a"].tolist() == [0, 1, 2, 3]
    assert found["scalar"].shape == ()
    with pytest.raises(InputError, match=r"expected names without NUL for an .npz file"):
        write_state(tmp_path / "y.npz", {"a\0b": torch.ones(1)}, {})


def test_numpy_reads_what_is_written(tmp_path):
    state = every_dtype(".npz")
    write_state(tmp_path / "x.npz", {**state, "file": torch.ones(2)}, {})
    found = np.load(tmp_path / "x.npz")
    assert list(found) == [*state, "file"]
    assert all(np.array_equal(found[name], tensor.numpy(), equal_nan=True) for name, tensor in state.items())


def test_writing_arrays_and_pieces_needs_no_torch(tmp_path):
    """The paths by which files are decompressed where torch is not installed."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from pathlib import Path; from metaq.io.npz import Npz\n"
        "from metaq.format.dtypes import BY_NAME; from metaq.io.source import StoredTensor\n"
        "from metaq.io.safetensors import Safetensors\n"
        "tensor = StoredTensor(BY_NAME['float32'], (2,), np.ones(2, np.float32).view(np.uint8))\n"
        "for format in (Npz(), Safetensors()):\n"
        "    format.write(Path(sys.argv[1] + format.suffixes[0]), {'a': tensor}, {})\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert finished.stderr == ""
    for suffix in (".npz", ".safetensors"):
        assert read_state(tmp_path / f"x{suffix}")[0]["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("format", formats, ids=lambda format: format.name)
def test_formats_tell_themselves_apart_and_say_what_they_need(tmp_path, format):
    assert format.suffixes
    assert all(not other.recognises(b"nonsense" * 64, 10**6) for other in formats)
    assert f"pip install 'metaq-nn[{format.extra}]'" in str(format.missing(tmp_path / "x"))


@every_suffix
def test_places(tmp_path, suffix):
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(InputError, match="found a directory"):
        read_state(folder)
    with pytest.raises(InputError, match="found no such file"):
        read_state(tmp_path / f"none{suffix}")
    for path in (folder, tmp_path / f"none/x{suffix}", Path("/dev/full") / f"x{suffix}"):
        with pytest.raises(InputError, match="found"):
            write_state(path, {"a": torch.ones(1)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]
