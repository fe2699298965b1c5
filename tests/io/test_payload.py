"""`.mtq` files in safetensors files: what is in them, and what is malformed."""

import json
import os
import shutil
from contextlib import closing

import numpy as np
import pytest
import safetensors.torch
import torch

import metaq
from metaq.errors import FormatError, InputError
from metaq.io import payload
from metaq.io.payload import (
    PAYLOAD,
    Reference,
    WrappedTensors,
    has_payload,
    read_reference,
    wrapping_bytes,
    write_wrapped,
)


@pytest.fixture
def stored(tmp_path):
    """A folder with a `.mtq` file and the safetensors file of it, and the tensors."""
    torch.manual_seed(0)
    shared = torch.randn(30, 20)
    state = {"a.weight": shared, "ü": torch.arange(5), "empty": torch.empty(0, 3), "tied": shared, "b": torch.ones(4)}
    metaq.save(metaq.compress_losslessly(state), tmp_path / "model.mtq")
    names = write_wrapped(tmp_path / "model.mtq", tmp_path / "model.safetensors", 0)
    assert names == [*state, f"{PAYLOAD}0"]
    return tmp_path, state


def test_references():
    for reference in (Reference(0, 0), Reference(7, 2**20 - 1)):
        octets = reference.octets()
        assert octets.nbytes == 16
        assert read_reference(octets) == reference
    assert read_reference(np.zeros(16, np.uint8)) is None
    assert read_reference(np.zeros(15, np.uint8)) is None
    assert read_reference(np.zeros(16, np.int8)) is None


def test_every_tensor_comes_back(stored):
    folder, state = stored
    with closing(WrappedTensors([folder / "model.safetensors"])) as tensors:
        found = {name: tensor for name, _, tensor in tensors.items()}
        assert tensors.payloads()[0].octets().tobytes() == (folder / "model.mtq").read_bytes()
    assert list(found) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    assert found["tied"] is found["a.weight"]


def test_wrapping_in_pieces(stored, monkeypatch):
    folder, _ = stored
    monkeypatch.setattr(payload, "_PIECE_BYTES", 100)
    write_wrapped(folder / "model.mtq", folder / "pieces.safetensors", 0)
    assert (folder / "pieces.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_wrapping_takes(stored):
    folder, state = stored
    around = (folder / "model.safetensors").stat().st_size - (folder / "model.mtq").stat().st_size
    assert around <= wrapping_bytes(state, 0) <= around + 64


def test_plain_tensors_beside_others(stored):
    folder, state = stored
    plain = torch.zeros(16, dtype=torch.uint8)  # of a reference's shape and dtype
    safetensors.torch.save_file({"plain": plain, "floats": torch.ones(3)}, folder / "others.safetensors")
    with closing(WrappedTensors([folder / "model.safetensors", folder / "others.safetensors"])) as tensors:
        found = {name: tensor for name, _, tensor in tensors.items()}
    assert found.keys() == state.keys() | {"plain", "floats"}
    assert torch.equal(found["plain"], plain)


def test_which_files_have_one(stored, tmp_path):
    folder, _ = stored
    assert has_payload(folder / "model.safetensors")
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "floats.safetensors")
    (tmp_path / "text.safetensors").write_text("no such file, but of some length")
    (tmp_path / "short.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    for name in ("floats", "text", "short", "none"):
        assert not has_payload(tmp_path / f"{name}.safetensors")


def rewritten(folder, change):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def reference(*numbers):
    return torch.from_numpy(Reference(*numbers).octets().copy())


BAD = {
    "no payload": (lambda tensors: tensors.pop(f"{PAYLOAD}0"), InputError, "found none; `metaq compress FOLDER"),
    "no number": (
        lambda tensors: tensors.update({f"{PAYLOAD}x": tensors.pop(f"{PAYLOAD}0")}),
        InputError,
        "expected a number behind 'metaq.payload.', found 'metaq.payload.x'",
    ),
    "another payload": (
        lambda tensors: tensors.update(b=reference(1, 0)),
        FormatError,
        "tensor 'b': expected a reference to one of the folder's payloads, found one to payload 1",
    ),
    "another tensor": (
        lambda tensors: tensors.update(b=reference(0, 5)),
        FormatError,
        "tensor 'b': expected a reference to one of 5, found one to tensor 5",
    ),
    "truncated": (
        lambda tensors: tensors.update({f"{PAYLOAD}0": tensors[f"{PAYLOAD}0"][:-1].clone()}),
        FormatError,
        r"model.safetensors, metaq.payload.0: expected .* bytes",
    ),
    "not a .mtq file": (
        lambda tensors: tensors[f"{PAYLOAD}0"].zero_(),
        FormatError,
        "expected a .mtq file, which starts with",
    ),
    "damaged": (
        lambda tensors: tensors[f"{PAYLOAD}0"][-30:].bitwise_xor_(1),
        FormatError,
        "metaq.payload.0.*chunk",
    ),
}


@pytest.mark.parametrize(("harm", "error", "message"), BAD.values(), ids=BAD.keys())
def test_malformed_files(stored, harm, error, message):
    folder, _ = stored
    rewritten(folder, harm)
    with (
        pytest.raises(error, match=message) as failure,
        closing(WrappedTensors([folder / "model.safetensors"])) as found,
    ):
        list(found.items())
    assert "\n" not in str(failure.value)


def test_a_payload_in_two_files(stored):
    folder, _ = stored
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(InputError, match="expected each payload in one file"):
        WrappedTensors([folder / "model.safetensors", folder / "other.safetensors"])


def test_a_name_that_is_taken(tmp_path):
    metaq.save(metaq.compress_losslessly({f"{PAYLOAD}0": torch.ones(3)}), tmp_path / "model.mtq")
    with pytest.raises(InputError, match=r"expected a name that does not begin with 'metaq\.payload\.'"):
        write_wrapped(tmp_path / "model.mtq", tmp_path / "model.safetensors", 0)


def test_the_header_is_that_of_the_library(stored):
    folder, state = stored
    data = (folder / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}
    assert header.keys() == {*state, f"{PAYLOAD}0", "__metadata__"}


def test_a_file_that_becomes_shorter_while_it_is_read(stored):
    """An error in one line: a memory map would end the process."""
    folder, _ = stored
    path = folder / "model.safetensors"
    size, mtq_bytes = path.stat().st_size, (folder / "model.mtq").stat().st_size
    with closing(WrappedTensors([path])) as tensors, closing(tensors.payloads()[0].reader()) as reader:
        for left in (mtq_bytes - 1, 300, 0):
            os.truncate(path, size - mtq_bytes + left)
            with pytest.raises(FormatError, match=f"expected {mtq_bytes} bytes, as when it was opened, found {left};"):
                reader.load()


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_file_that_has_become_shorter_before_it_is_read(stored, left):
    folder, _ = stored
    safetensors.torch.save_file({"plain": torch.ones(300)}, folder / "others.safetensors")
    files = [folder / "model.safetensors", folder / "others.safetensors"]
    for path in files:
        data = path.read_bytes()
        with closing(WrappedTensors(files)) as tensors:
            os.truncate(path, left % len(data))
            with pytest.raises(InputError, match=f"{path.name}: expected the file as it was at the start, found it"):
                list(tensors.items())
        path.write_bytes(data)


def test_nothing_stays_open(stored):
    """A folder may have more shards than a process may open files."""
    folder, _ = stored
    before = len(os.listdir("/proc/self/fd"))
    with closing(WrappedTensors([folder / "model.safetensors"])) as tensors:
        assert len(os.listdir("/proc/self/fd")) == before
        list(tensors.items())
    assert len(os.listdir("/proc/self/fd")) == before
