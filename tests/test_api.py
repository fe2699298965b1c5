"""The functions of `metaq` itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import metaq
from metaq import coding
from metaq.errors import FormatError, InputError
from metaq.format.reader import Reader

DTYPES = [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64]
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


def assert_same(decoded, expected):
    assert list(decoded) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(decoded[name], array, strict=True)


@settings(deadline=None, max_examples=100)
@given(state=st.dictionaries(names, arrays, max_size=4), coder=st.sampled_from(list(coding.coders)))
def test_any_arrays_survive(state, coder):
    data = metaq.encode(state, coder)
    assert_same(metaq.decode(data), state)
    assert metaq.encode(state, coder) == data
    assert_same(metaq.decode(memoryview(data)), state)


EDGES = {
    "nothing": {},
    "scalar": {"a": np.array(7)},
    "extremes": {"a": np.array([-(2**63), 2**63 - 1, 0])},
    "limits": {"a": np.array([2**30 - 1, 1 - 2**30]), "b": np.array([2**30, -(2**30)])},
    "no elements": {"a": np.zeros((0,), np.int8), "b": np.zeros((3, 0, 2), bool), "c": np.zeros((0, 2**39), np.uint8)},
    "32 dimensions": {"a": np.ones((1,) * 31 + (3,), np.int16)},
    "names": {"": np.array([1]), "ü/✓\n\0": np.array([2]), "a" * 5000: np.array([3])},
    "views": {"a": np.arange(24).reshape(4, 6).T[::-2, ::3], "b": np.broadcast_to(np.int8(3), (4, 5))},
    "big-endian": {"a": np.arange(5, dtype=">i4")},
    "read-only": {"a": np.frombuffer(b"abc", np.uint8)},
    "the same twice": dict.fromkeys(["a", "b"], np.arange(3)),
}


@pytest.mark.parametrize("coder", coding.coders)
@pytest.mark.parametrize("state", EDGES.values(), ids=EDGES.keys())
def test_edges(state, coder):
    expected = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in state.items()}
    assert_same(metaq.decode(metaq.encode(state, coder)), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1, 2], "NumPy array of integers, found list"),
        (np.int64(3), "NumPy array of integers, found int64"),
        (np.zeros(2), "NumPy array of integers, found float64"),
        (np.zeros(2, complex), "found complex128"),
        (np.array(["a"]), "found <U1"),
        (np.array([None]), "found object"),
        (np.zeros(2, np.uint16), "found uint16"),
        (np.zeros(2, np.uint64), "found uint64"),
        (np.zeros((1,) * 33, np.int8), "at most 32 dimensions"),
        (torch.zeros(2, dtype=torch.int8), "NumPy array of integers, found torch.int8"),
    ],
)
def test_what_is_no_array_of_integers(array, message):
    with pytest.raises(InputError, match=rf"'name': .*{message}"):
        metaq.encode({"name": array})


@pytest.mark.parametrize("name", [3, None, "\udfff"])
def test_what_is_no_name(name):
    with pytest.raises(InputError, match="expected Unicode text"):
        metaq.encode({name: np.zeros(1, np.int8)})


def test_unknown_coders():
    with pytest.raises(InputError, match="did you mean 'mixing'"):
        metaq.encode({}, "mixin")


def test_decode_refuses_floats_and_nonsense(tmp_path):
    metaq.save(metaq.CompressedModel({"a": torch.ones(2)}), tmp_path / "x.mtq")
    with pytest.raises(InputError, match=r"expected integers, found float32; use load_file"):
        metaq.decode((tmp_path / "x.mtq").read_bytes())
    with pytest.raises(FormatError, match=r"expected a \.mtq file"):
        metaq.decode(b"nonsense")


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def saved(state, path, **options):
    assert metaq.save(metaq.compress(state, step=2.0**-9), path, **options) == path.stat().st_size
    return path


@pytest.mark.parametrize("coder", coding.coders)
def test_save_and_load(tmp_path, coder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(8, 2))
    path = saved(model.state_dict(), tmp_path / "x.mtq", coder=coder)
    loaded = metaq.load_file(str(path))
    assert list(loaded) == list(model.state_dict())
    assert max(float((loaded[name] - tensor).abs().max()) for name, tensor in state_of(model).items()) <= 2.0**-10
    metaq.load_into(model, path)
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_chunks_of_a_size_of_ones_own(tmp_path):
    model = metaq.compress_losslessly({"w": torch.randn(50, 40), "v": torch.randn(900).bfloat16()})
    chunks = {}
    for symbols in (None, 1, 100, 2000, 1 << 26):
        metaq.save(model, tmp_path / "model.mtq", "rans", symbols)
        reader = Reader((tmp_path / "model.mtq").read_bytes())
        chunks[symbols] = max(chunk.symbols for chunk in reader.header.chunks)
        for name, tensor in metaq.load_file(tmp_path / "model.mtq").items():
            assert torch.equal(tensor, model.decompress()[name])
    assert chunks == {None: 2900, 1: 40, 100: 100, 2000: 2000, 1 << 26: 2900}  # a row is never cut
    for symbols in (0, -1, (1 << 26) + 1):
        with pytest.raises(InputError, match=rf"^chunk_symbols: expected 1 to 2\^26, found {symbols}$"):
            metaq.save(model, tmp_path / "other.mtq", "rans", symbols)
    assert not (tmp_path / "other.mtq").exists()


def test_loads_to_other_devices(tmp_path):
    shared = torch.ones(300, 400)
    state = {"a": shared, "b": torch.ones(2000, 1000, dtype=torch.bfloat16), "c": torch.arange(3), "d": shared}
    metaq.save(metaq.compress_losslessly(state), tmp_path / "x.mtq")
    found = metaq.load_file(tmp_path / "x.mtq", device="meta")
    assert list(found) == list(state)
    assert all(tensor.is_meta for tensor in found.values())
    assert all((found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype) for name, tensor in state.items())
    assert found["a"] is found["d"]


@pytest.mark.parametrize("device", ["cuuda", "cuda:99"])
def test_devices_that_are_not_here(tmp_path, device):
    metaq.save(metaq.CompressedModel({"a": torch.ones(2)}), tmp_path / "x.mtq")
    with pytest.raises(InputError, match=f"device: expected one that torch can use here, found '{device}'"):
        metaq.load_file(tmp_path / "x.mtq", device=device)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, r"'bias' of Linear: expected shape \(2,\), found .*3"),
        ({"weight": torch.ones(2, 2)}, "'bias' of Linear: .* found no such tensor"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2), "more": torch.ones(1)}, "only .* Linear, found 'more'"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2, 1)}, "'bias'"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(1)}, "'bias'"),
    ],
)
def test_a_wrong_model_stays_as_it_was(tmp_path, state, message):
    model = nn.Linear(2, 2)
    before = state_of(model)
    path = saved(state, tmp_path / "x.mtq")
    with pytest.raises(InputError, match=message) as caught:
        metaq.load_into(model, path)
    assert str(path) in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_files_that_cannot_be(tmp_path):
    model = metaq.CompressedModel({"a": torch.ones(2)})
    for path in (tmp_path, tmp_path / "none" / "x.mtq"):
        with pytest.raises(InputError, match=str(path)):
            metaq.save(model, path)
    for path in (tmp_path, tmp_path / "none.mtq"):
        with pytest.raises(InputError, match=str(path)):
            metaq.load_file(path)
        with pytest.raises(InputError, match=str(path)):
            metaq.load_into(nn.Linear(1, 1), path)
    (tmp_path / "bad.mtq").write_bytes(b"MTQ\1")
    with pytest.raises(FormatError, match=r"bad\.mtq"):
        metaq.load_file(tmp_path / "bad.mtq")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mtq"]
