"""`.safetensors` and `.pt` files: what comes through, and what is refused without being run."""

import io
import json
import os
import random
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from metaq.errors import InputError
from metaq.io import read_state, write_state
from metaq.metrics import digest
from metaq.tensors import DTYPES

SUFFIXES = [".safetensors", ".pt", ".pth"]
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def every_dtype():
    octets = torch.arange(48, dtype=torch.uint8)
    return {str(dtype): octets.view(dtype).clone() if dtype != torch.bool else octets > 20 for dtype in DTYPES.values()}


@every_suffix
def test_every_dtype_survives(tmp_path, suffix):
    state = every_dtype()
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


@pytest.mark.parametrize("name", ["x", "x.bin", "x.SAFETENSORS", ".pt", "x.pt.gz"])
def test_suffixes(tmp_path, name):
    for work in (read_state, lambda path: write_state(path, {"a": torch.ones(1)}, {})):
        with pytest.raises(InputError, match=r"a path ending in .safetensors, .pt, .pth, .onnx, found"):
            work(tmp_path / name)


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
