"""Files without torch: what goes in comes out, and nothing but NumPy is imported."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import metaq
import metaq.numpy
from metaq import coding
from metaq.errors import FormatError, InputError

PLAIN = ["float16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64"]
LEAN = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "rich", "typer", "zstandard", "onnx", "scipy", "ml_dtypes"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refusing())
import numpy as np
import metaq, metaq.numpy
metaq.FormatError, metaq.encode, metaq.decode, dir(metaq)
arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5), "c": np.ones((2, 0), np.int8)}
data = metaq.numpy.save(arrays, {"by": "test"})
for name, array in metaq.numpy.load(data).items():
    assert array.dtype == arrays[name].dtype and np.array_equal(array, arrays[name])
path = sys.argv[1]
assert metaq.numpy.load_file(path)["half"].dtype == np.uint16
with metaq.numpy.safe_open(path) as file:
    assert [file.get_tensor(name).shape for name in file.keys()] == [(9, 4)] * 3
    assert file.get_slice("bits")[2:4].shape == (2, 4)
assert not {"torch", "safetensors", "rich", "typer"} & set(sys.modules)
"""


def arrays(dtype):
    generator = np.random.default_rng(0)
    shapes = [(), (0,), (3, 0, 2), (1,), (70,), (7, 5), (2, 3, 4, 5)]
    return {str(shape): np.asarray(generator.normal(0, 40, shape)).astype(dtype) for shape in shapes}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", PLAIN)
@pytest.mark.parametrize("coder", coding.coders)
def test_round_trip(tmp_path, dtype, coder):
    expected = arrays(dtype)
    assert_same(metaq.numpy.load(metaq.numpy.save(expected, coder=coder)), expected)
    metaq.numpy.save_file(expected, tmp_path / "x.mtq", {"by": "test"}, coder)
    assert_same(metaq.numpy.load_file(tmp_path / "x.mtq"), expected)
    with metaq.numpy.safe_open(tmp_path / "x.mtq") as file:
        assert file.metadata() == {"by": "test"}
        assert file.keys() == list(expected)
        assert_same({name: file.get_tensor(name) for name in expected}, expected)
        assert_same({"": file.get_slice("(7, 5)")[2:4, 1:3]}, {"": expected["(7, 5)"][2:4, 1:3]})


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes_of_ml_dtypes(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    expected = arrays(getattr(ml_dtypes, dtype))
    assert_same(metaq.numpy.load(metaq.numpy.save(expected)), expected)


def test_arrays_in_any_order_of_bytes_and_elements():
    array = np.arange(24, dtype=">f8").reshape(4, 6).T[::2]
    found = metaq.numpy.load(metaq.numpy.save({"a": array}))["a"]
    assert found.dtype == np.float64
    assert np.array_equal(found, array)


def test_integers_beyond_symbols_keep_every_bit():
    array = np.array([np.iinfo(np.int64).min, -1, 1 << 30, np.iinfo(np.int64).max])
    assert np.array_equal(metaq.numpy.load(metaq.numpy.save({"a": array}))["a"], array)


def test_torch_reads_the_same(tmp_path):
    expected = arrays("float32")
    metaq.numpy.save_file(expected, tmp_path / "x.mtq")
    for name, tensor in metaq.load_file(tmp_path / "x.mtq").items():
        assert np.array_equal(tensor.numpy(), expected[name])


@pytest.mark.parametrize("array", [np.zeros(2, np.uint16), np.zeros(2, complex), [1.0], np.zeros((1,) * 33)], ids=str)
def test_what_no_file_can_hold(array):
    with pytest.raises(InputError, match="array 'a': expected"):
        metaq.numpy.save({"a": array})


def test_nonsense():
    with pytest.raises(FormatError, match=r"a \.mtq file"):
        metaq.numpy.load(b"nonsense")
    with pytest.raises(InputError, match="did you mean 'rans'"):
        metaq.numpy.save({}, coder="rams")
    with pytest.raises(InputError, match="Unicode text"):
        metaq.numpy.save({"a": np.zeros(1)}, {"key": 5})


def test_nothing_but_numpy_is_imported(tmp_path):
    weight = torch.ones(9, 4)
    model = metaq.compress({"half": weight.bfloat16(), "bits": weight, "tied": weight}, step=0.5)
    metaq.save(model, tmp_path / "x.mtq")
    finished = subprocess.run([sys.executable, "-c", LEAN, tmp_path / "x.mtq"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
