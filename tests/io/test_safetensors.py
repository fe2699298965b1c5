"""`.safetensors` files a piece at a time, against the package's own reader and writer."""

import json
import math
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from metaq.errors import InputError
from metaq.format.dtypes import BY_NAME
from metaq.format.network import Layout
from metaq.io.safetensors import SafetensorsFile, write_pieces, write_safetensors
from metaq.io.source import size_bytes
from metaq.tensors import DTYPES, octets_of


@st.composite
def states(draw):
    state = {}
    for name in draw(
        st.lists(st.text(max_size=5).filter(lambda text: text != "__metadata__"), unique=True, max_size=5)
    ):
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        octets = torch.arange(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        state[name] = (octets.bool() if dtype == torch.bool else octets.view(dtype)).reshape(shape)
    return state


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and (octets_of(one) == octets_of(other)).all()


@settings(max_examples=60, deadline=None)
@given(states())
def test_what_is_written_is_what_the_package_reads(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("x") / "x.safetensors"
    write_safetensors(path, state, {"ü": "\n"})
    found = safetensors.torch.load_file(path)
    assert found.keys() == state.keys()
    assert all(same(found[name], tensor) for name, tensor in state.items())
    file = SafetensorsFile(path)
    assert file.metadata == {"ü": "\n"}
    assert size_bytes(file) == sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values())
    by_width = sorted(state, key=lambda name: -state[name].dtype.itemsize)  # of empty ones the place is lost
    assert [name for name in file.layouts if state[name].numel()] == [name for name in by_width if state[name].numel()]
    for name, tensor in state.items():
        for elements in (range(tensor.numel()), range(tensor.numel() // 3, tensor.numel() // 2)):
            assert same(file.read(name, elements), tensor.reshape(-1)[elements.start : elements.stop])
    file.close()


def test_the_same_bytes_as_the_package(tmp_path):
    state = {str(dtype): torch.ones(3, 5).to(dtype) for dtype in DTYPES.values()}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    write_safetensors(tmp_path / "y.safetensors", {name: state[name] for name in file.layouts}, file.metadata)
    file.close()
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_pieces_in_any_order(tmp_path):
    kinds = {"b": ("int16", (2, 3)), "a": ("float32", (4,)), "e": ("float64", (0,))}
    layouts = {name: Layout(BY_NAME[dtype], shape) for name, (dtype, shape) in kinds.items()}

    def fill(put):
        put("a", 2, np.array([3.0, 4.0], np.float32).view(np.uint8))
        put("b", 0, np.arange(5, dtype=np.int16).view(np.uint8))
        put("a", 0, np.array([1.0, 2.0], np.float32).view(np.uint8))
        put("b", 5, np.array([9], np.int16).view(np.uint8))

    write_pieces(tmp_path / "x.safetensors", layouts, {}, fill)
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert found["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found["b"].tolist() == [[0, 1, 2], [3, 4, 9]]
    assert found["e"].shape == (0,)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() is None


@pytest.mark.parametrize("header", ['{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "{", '{"a":1}', ""])
def test_malformed_headers(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    with pytest.raises(InputError, match=r"x.safetensors: expected a .safetensors file, found something else"):
        SafetensorsFile(tmp_path / "x.safetensors")


def test_a_dtype_that_no_mtq_file_has(tmp_path):
    header = json.dumps({"a": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]}})
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with pytest.raises(InputError, match=r"tensor 'a': expected one of F32, F16, .* found U64"):
        SafetensorsFile(tmp_path / "x.safetensors")
