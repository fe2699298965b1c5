"""`.onnx` models: what comes back is a model that ONNX's checker accepts, with the decoded initialisers."""

import sys

import numpy as np
import pytest
import torch

from metaq import api
from metaq.checkpoints import CompressionConfig, compress_path, decompress_path
from metaq.coding import text
from metaq.compressed_model import encode
from metaq.errors import InputError
from metaq.io import read_state, write_state
from metaq.io.onnx import GRAPH
from metaq.quantizers.lossless import compress_losslessly

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

LOSSLESS = CompressionConfig(lossless=True)


def weights():
    generator = np.random.default_rng(0)
    return {
        "z.weight": generator.normal(size=(8, 16)).astype(np.float32),
        "a.weight": generator.normal(size=(16, 8)).astype(np.float16),
        "bias": generator.normal(size=8).astype(np.float32),
        "shape": np.array([-1, 16], np.int64),
        "scalar": np.array(3.5, np.float64),
        "mask": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
        "texts": np.array(["a", "b"], object),
    }


def network(initialisers=None):
    """y = x reshaped, times z.weight's transpose, plus bias; the other initialisers are outputs as they are."""
    initialisers = initialisers or [numpy_helper.from_array(array, name) for name, array in weights().items()]
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], name="/flatten"),
        helper.make_node("Gemm", ["flat", "z.weight", "bias"], ["y"], transB=1, name="/head/Gemm"),
    ]
    names = {"z.weight", "bias", "shape"}
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])]
    for tensor in initialisers:
        if tensor.name not in names:
            nodes.append(helper.make_node("Identity", [tensor.name], [f"{tensor.name}.out"]))
            outputs.append(helper.make_tensor_value_info(f"{tensor.name}.out", tensor.data_type, list(tensor.dims)))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 4])]
    graph = helper.make_graph(nodes, "main", inputs, outputs, initialisers, doc_string="a graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="tests")
    helper.set_model_props(model, {"note": "ü"})
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "x.onnx"
    onnx.save(network(), path)
    return path


def there_and_back(tmp_path, path, config=LOSSLESS):
    compress_path(path, tmp_path / "x.mtq", config)
    decompress_path(tmp_path / "x.mtq", tmp_path / "y.onnx")
    back = onnx.load(tmp_path / "y.onnx")
    onnx.checker.check_model(back, full_check=True)
    return back


def test_byte_for_byte_without_loss(tmp_path, model):
    there_and_back(tmp_path, model)
    assert (tmp_path / "y.onnx").read_bytes() == onnx.load(model).SerializeToString(deterministic=True)


def test_quantized(tmp_path, model):
    back = there_and_back(tmp_path, model, CompressionConfig(max_error=1e-2))
    before = network()
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in back.graph.initializer}
    assert list(found) == list(weights())
    error = energy = 0.0
    for name in ("z.weight", "a.weight"):
        exact = weights()[name].astype(float)
        error, energy = error + np.square(found[name] - exact).sum(), energy + np.square(exact).sum()
    assert 0.98e-2 <= error / energy <= 1e-2
    for name in ("shape", "scalar", "mask", "empty", "texts"):
        assert found[name].dtype == weights()[name].dtype
        assert np.array_equal(found[name], weights()[name])
    for part in (back, before):
        del part.graph.initializer[:]
    assert back == before


def test_the_initialisers_are_the_file_s(tmp_path, model):
    there_and_back(tmp_path, model, CompressionConfig(bits=3))
    loaded = api.load_file(tmp_path / "x.mtq")
    back = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "y.onnx").graph.initializer}
    assert list(loaded) == [*(name for name in back if name != "texts"), GRAPH]
    assert all(np.array_equal(back[name], tensor.numpy()) for name, tensor in loaded.items() if name != GRAPH)


def test_the_graph_takes_little(tmp_path):
    nodes = [
        helper.make_node("Relu", [f"/layer.{i}/out"], [f"/layer.{i + 1}/out"], name=f"/layer.{i}") for i in range(300)
    ]
    graph = helper.make_graph(nodes, "main", [], [], [numpy_helper.from_array(np.zeros(1, np.float32), "w")])
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    compress_path(tmp_path / "x.onnx", tmp_path / "x.mtq", LOSSLESS)
    assert (tmp_path / "x.mtq").stat().st_size < 0.1 * (tmp_path / "x.onnx").stat().st_size


def test_every_field_that_values_may_be_in(tmp_path):
    made = [
        helper.make_tensor("z.weight", TensorProto.FLOAT, (8, 16), np.arange(128.0)),
        helper.make_tensor("bias", TensorProto.FLOAT, (8,), np.arange(8.0)),
        helper.make_tensor("shape", TensorProto.INT64, (2,), [-1, 16]),
        helper.make_tensor("half", TensorProto.FLOAT16, (3,), [1.0, 2.5, -3.0]),
        helper.make_tensor("brain", TensorProto.BFLOAT16, (3,), [1.0, 2.5, -3.0]),
        helper.make_tensor("eight", TensorProto.FLOAT8E4M3FN, (2,), [1.0, -2.0]),
        helper.make_tensor("int8", TensorProto.INT8, (2,), [1, -2]),
        helper.make_tensor("flags", TensorProto.BOOL, (2,), [True, False]),
        helper.make_tensor("complex", TensorProto.COMPLEX64, (2,), [1 + 2j, 3]),
        helper.make_tensor("unsigned", TensorProto.UINT16, (2,), [1, 65535]),
    ]
    path = tmp_path / "x.onnx"
    onnx.save(network(made), path)
    state, _ = read_state(path)
    assert set(state) == {tensor.name for tensor in made} - {"complex", "unsigned"} | {GRAPH}
    assert state["brain"].tolist() == [1.0, 2.5, -3.0]
    assert state["brain"].dtype == torch.bfloat16
    back = there_and_back(tmp_path, path)
    for tensor, found in zip(made, back.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(found))


def test_values_in_files_beside_the_model(tmp_path, model):
    (tmp_path / "external").mkdir()
    path = tmp_path / "external" / "x.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, size_threshold=0, location="values.bin")
    assert (tmp_path / "external" / "values.bin").stat().st_size > 500
    back = there_and_back(tmp_path, path)
    assert back.SerializeToString(deterministic=True) == onnx.load(model).SerializeToString(deterministic=True)
    (tmp_path / "external" / "values.bin").unlink()
    with pytest.raises(InputError, match=r"expected the values of tensor .* in its folder, found no file 'values.bin'"):
        read_state(path)


def external(tensor, location):
    """The tensor with its values in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


OUTSIDE = {
    "absolute": "/etc/passwd",
    "above": "../secret.bin",
    "by a link": "link.bin",
    "by a folder": "sub/../../secret.bin",
}


@pytest.mark.parametrize("where", ["initialiser", "constant of a node", "sparse initialiser", "function"])
@pytest.mark.parametrize("location", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_values_in_files_elsewhere_are_not_read(tmp_path, where, location):
    """Neither of a model, nor by a model that is made of a .mtq file."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 8 * 16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    made = network()
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.zeros((8, 16), np.float32), "odd")
    )
    if where == "initialiser":
        external(made.graph.initializer[0], location)
    elif where == "constant of a node":
        external(constant.attribute[0].t, location)
        made.graph.node.append(constant)
    elif where == "function":
        external(constant.attribute[0].t, location)
        made.functions.append(helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 21)]))
    else:
        values, places = np.zeros(2, np.float32), np.array([0, 1])
        made.graph.sparse_initializer.append(
            helper.make_sparse_tensor(numpy_helper.from_array(values, "s"), numpy_helper.from_array(places, "i"), [9])
        )
        external(made.graph.sparse_initializer[0].values, location)
    (folder / "x.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=rf"x.onnx: expected the values of tensor .* found '{location}' outside of it"):
        read_state(folder / "x.onnx")

    onnx.save(network(), tmp_path / "good.onnx")
    state, _ = read_state(tmp_path / "good.onnx")
    graph = made.SerializeToString()
    coded = np.frombuffer(len(graph).to_bytes(8, "little") + text.encode(graph), np.uint8)
    state[GRAPH] = torch.from_numpy(coded.copy())
    (tmp_path / "x.mtq").write_bytes(encode(compress_losslessly(state)))
    with pytest.raises(InputError, match=r"expected all values of the graph in .*, found those of .* in another"):
        decompress_path(tmp_path / "x.mtq", folder / "made.onnx")
    assert not (folder / "made.onnx").exists()


def test_as_another_file(tmp_path, model):
    compress_path(model, tmp_path / "x.mtq", LOSSLESS)
    for suffix in (".safetensors", ".pt"):
        decompress_path(tmp_path / "x.mtq", tmp_path / f"y{suffix}")
        state, _ = read_state(tmp_path / f"y{suffix}")
        assert set(state) == set(weights()) - {"texts"}
    api.save(api.CompressedModel({"a": torch.ones(2)}), tmp_path / "other.mtq")
    with pytest.raises(InputError, match=r"y.onnx: expected tensors of an .onnx model to write one"):
        decompress_path(tmp_path / "other.mtq", tmp_path / "y.onnx")


def refused(tmp_path, edit):
    model = network()
    edit(model.graph)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda graph: graph.initializer.append(graph.initializer[0]), "initialisers of distinct names"),
        (lambda graph: setattr(graph.initializer[0], "name", GRAPH), "initialisers of distinct names"),
        (
            lambda graph: setattr(graph.initializer[0], "raw_data", b"123"),
            "expected an .onnx model, found something else",
        ),
        (lambda graph: graph.Clear(), "found nothing in it"),
    ],
)
def test_odd_models(tmp_path, edit, message):
    with pytest.raises(InputError, match=message):
        read_state(refused(tmp_path, edit))


@pytest.mark.parametrize("data", [b"", b"garbage" * 50, b"\x08"])
def test_nonsense(tmp_path, data):
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"x.onnx: expected an .onnx model, found"):
        read_state(tmp_path / "x.onnx")


def test_a_graph_that_is_none(tmp_path, model):
    state, _ = read_state(model)
    huge = torch.cat([torch.tensor([255] * 5 + [0] * 3, dtype=torch.uint8), state[GRAPH][8:]])
    for graph in (state[GRAPH][:100], state[GRAPH][:4], huge, state[GRAPH].float(), torch.empty(0, dtype=torch.uint8)):
        with pytest.raises(
            InputError, match=r"expected an .onnx graph in tensor 'metaq.onnx.graph', found other bytes"
        ):
            write_state(tmp_path / "y.onnx", {**state, GRAPH: graph}, {})
    for name, values in (("bias", None), ("bias", torch.zeros(9)), ("bias", torch.zeros(8).double())):
        changed = {key: tensor for key, tensor in {**state, name: values}.items() if tensor is not None}
        with pytest.raises(InputError, match="expected the values of initialiser 'bias', found"):
            write_state(tmp_path / "y.onnx", changed, {})
    assert not (tmp_path / "y.onnx").exists()


def test_without_the_package(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"expected the package onnx .* pip install 'metaq-nn\[onnx\]'"):
        read_state(model)
