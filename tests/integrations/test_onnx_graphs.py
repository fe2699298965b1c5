"""What an export does with graphs: older opsets, names, subgraphs, inputs, and what it refuses."""

import logging

import numpy as np
import pytest
import torch

import metaq
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel
from metaq.errors import FormatError, InputError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from metaq.integrations.onnx import export  # noqa: E402


def coded(shape):
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(-7, 8, shape, generator=generator, dtype=torch.int32)
    return CodedTensor(symbols, UniformCodebook(0.03), torch.float32)


def value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def initialisers(arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def opsets(default, *others):
    return [helper.make_opsetid("", default), *(helper.make_opsetid(domain, version) for domain, version in others)]


@pytest.fixture
def place(tmp_path):
    """A function from a graph's nodes to the paths of its model with decoded weights, and of the exported one."""

    def make(nodes, tensors, constants=None, opset=21, ir_version=10, others=(), functions=(), extra_inputs=()):
        metaq.save(CompressedModel(tensors), tmp_path / "x.mtq")
        weights = {name: tensor.numpy() for name, tensor in metaq.load_file(tmp_path / "x.mtq").items()}
        values = initialisers(weights | (constants or {}))
        inputs = [value("x", 5, 64)]
        listed = [tensor.name for tensor in values] if ir_version < 4 else extra_inputs
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in values if t.name in listed]
        graph = helper.make_graph(nodes, "main", inputs, [value("y", "a", "b")], values)
        model = helper.make_model(
            graph, opset_imports=opsets(opset, *others), ir_version=ir_version, functions=list(functions)
        )
        helper.set_model_props(model, {"note": "ü"})
        onnx.save(model, tmp_path / "plain.onnx")
        report = export(tmp_path / "x.mtq", tmp_path / "small.onnx", tmp_path / "plain.onnx")
        small = onnx.load(tmp_path / "small.onnx")
        onnx.checker.check_model(small, full_check=True)
        assert (small.metadata_props[0].key, small.graph.name) == ("note", "main")
        assert "DequantizeLinear" in " ".join(report.kinds)
        return tmp_path / "plain.onnx", tmp_path / "small.onnx"

    return make


def outputs(path, **inputs):
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    return [array.tobytes() for array in session.run(None, {"x": x, **inputs})]


def product(weight="w", output="y"):
    return helper.make_node("MatMul", ["x", weight], [output])


def test_an_opset_that_only_needs_another_number(place, monkeypatch):
    monkeypatch.setattr("onnx.version_converter.convert_version", None)
    plain, small = place(
        [product(output="h"), helper.make_node("Tanh", ["h"], ["y"])], {"w": coded((64, 48))}, opset=17
    )
    assert outputs(plain) == outputs(small)
    assert (onnx.load(small).opset_import[0].version, onnx.load(small).ir_version) == (21, 10)


def test_a_later_opset_stays(place):
    plain, small = place([product()], {"w": coded((64, 48))}, opset=22, ir_version=11)
    assert outputs(plain) == outputs(small)
    assert (onnx.load(small).opset_import[0].version, onnx.load(small).ir_version) == (22, 11)


def old_nodes():
    """Operators that were others: of axes as attributes, of other axes by default, of a shape that an input gives."""
    return [
        product(output="h"),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "variance"], ["n"]),
        helper.make_node("Unsqueeze", ["n"], ["u"], axes=[0]),
        helper.make_node("Squeeze", ["u"], ["s"], axes=[0]),
        helper.make_node("Softmax", ["s"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["y"], axes=[2], keepdims=0),
    ]


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (9, 4), (12, 7)])
def test_old_operators(place, opset, ir_version):
    vectors = {name: torch.rand(48) + 0.5 for name in ("scale", "shift", "mean", "variance")}
    tensors = {"w": coded((64, 48)), **vectors}
    plain, small = place(old_nodes(), tensors, {"shape": np.array([5, 4, 12])}, opset, ir_version)
    before, after = onnx.load(plain), onnx.load(small)
    assert outputs(plain) == outputs(small)
    assert [value.name for value in after.graph.input] == ["x"]
    assert {tensor.name for tensor in before.graph.initializer} - {"w"} <= {t.name for t in after.graph.initializer}


def test_operators_of_others(place):
    nodes = [product(output="h"), helper.make_node("FastGelu", ["h"], ["g"], domain="com.microsoft")]
    nodes += [helper.make_node("Reshape", ["g", "shape"], ["y"])]
    constants = {"shape": np.array([10, 24])}
    plain, small = place(nodes, {"w": coded((64, 48))}, constants, 13, 7, [("com.microsoft", 1)])
    assert outputs(plain) == outputs(small)


def test_functions_are_inlined(place):
    doubled = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets(17)
    )
    nodes = [product(output="h"), helper.make_node("Twice", ["h"], ["y"], domain="own")]
    plain, small = place(nodes, {"w": coded((64, 48))}, None, 17, 8, [("own", 1)], [doubled])
    assert outputs(plain) == outputs(small)


@pytest.mark.parametrize("opset", [17, 21])
def test_weights_within_subgraphs(place, opset):
    def branch(name, operator):
        nodes = [product(output=f"{name}.h"), helper.make_node(operator, [f"{name}.h"], [f"{name}.y"])]
        return helper.make_graph(nodes, name, [], [value(f"{name}.y", 5, 48)])

    nodes = [helper.make_node("If", ["is"], ["y"], then_branch=branch("yes", "Tanh"), else_branch=branch("no", "Neg"))]
    plain, small = place(nodes, {"w": coded((64, 48))}, {"is": np.array(True)}, opset, 8 if opset == 17 else 10)
    assert outputs(plain) == outputs(small)


def test_an_initialiser_that_callers_may_override_is_plain(place):
    nodes = [product("w", "h"), helper.make_node("Gemm", ["h", "v"], ["y"])]
    tensors = {"w": coded((64, 48)), "v": coded((48, 30))}
    plain, small = place(nodes, tensors, extra_inputs=("v",))
    assert outputs(plain) == outputs(small)
    assert outputs(plain, v=np.ones((48, 30), np.float32)) == outputs(small, v=np.ones((48, 30), np.float32))


def test_names_that_the_graph_has(place):
    nodes = [product("w", "w.symbols"), helper.make_node("Gemm", ["w.symbols", "w.step"], ["y"])]
    plain, small = place(nodes, {"w": coded((64, 48)), "w.step": coded((48, 30))})
    assert outputs(plain) == outputs(small)


def test_values_in_files_beside_the_model(place, tmp_path):
    plain, small = place([product()], {"w": coded((64, 48))})
    (tmp_path / "external").mkdir()
    path = tmp_path / "external" / "x.onnx"
    onnx.save(onnx.load(plain), path, save_as_external_data=True, size_threshold=0, location="values.bin")
    report = export(tmp_path / "x.mtq", small, path, force=True)
    assert outputs(plain) == outputs(small)
    assert report.bytes_before == path.stat().st_size + 4 * 64 * 48
    (tmp_path / "external" / "values.bin").unlink()
    with pytest.raises(InputError, match=r"expected the values of tensor .* in its folder, found no file 'values.bin'"):
        export(tmp_path / "x.mtq", small, path, force=True)


def test_a_model_that_cannot_be_raised(tmp_path):
    metaq.save(CompressedModel({"w": coded((64, 48))}), tmp_path / "x.mtq")
    nodes = [product(output="h"), helper.make_node("Odd", ["h"], ["y"])]
    graph = helper.make_graph(
        nodes, "main", [value("x", 5, 64)], [value("y", 5, 48)], initialisers({"w": np.zeros((64, 48), np.float32)})
    )
    onnx.save(helper.make_model(graph, opset_imports=opsets(17), ir_version=8), tmp_path / "x.onnx")
    with pytest.raises(
        InputError, match=r"x.onnx: expected a model of opset 21, .* opset 17 .*; export it again"
    ) as caught:
        export(tmp_path / "x.mtq", tmp_path / "y.onnx", tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "y.onnx").exists()


@pytest.fixture
def files(place, tmp_path):
    """Paths of a .mtq file, a model of its names, and an output that is not there."""
    plain, small = place([product()], {"w": coded((64, 48))})
    small.unlink()
    return tmp_path / "x.mtq", plain, small


def test_names_that_only_one_has(place, files, caplog):
    source, like, small = files
    tensors = {"w": coded((64, 48)), "body.bias": torch.ones(48), "steps": torch.tensor(7), "other": torch.ones(2)}
    metaq.save(CompressedModel(tensors), source)
    model = onnx.load(like)
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Add", ["h", "body.bais"], ["y"]))
    model.graph.initializer.extend(initialisers({"body.bais": np.ones(48, np.float32)}))
    onnx.save(model, like)
    with caplog.at_level(logging.WARNING):
        report = export(source, small, like)
    assert report.left == ("body.bais",)
    assert [record.message for record in caplog.records] == [
        f"{like}: expected a tensor of {source} for each float initialiser, found none for 'body.bais'; "
        "did you mean 'body.bias'? They stay as they are",
        f"{source}: expected a float initialiser of {like} for each float tensor, found none for 'body.bias', 'other'; "
        "did you mean 'body.bais'? They are left out",
    ]
    assert outputs(like) == outputs(small)


def test_many_names_that_only_one_has(files, caplog):
    source, like, small = files
    metaq.save(CompressedModel({"w": coded((64, 48)), **{f"n{i}": torch.ones(1) for i in range(20)}}), source)
    export(source, small, like)
    assert "'n0', 'n1', 'n2', 'n3', 'n4' and 15 more" in caplog.records[0].message


def refusal(source, like, small, **options):
    with pytest.raises((InputError, FormatError)) as caught:
        export(source, small, like, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"W": coded((64, 48)), "b": torch.ones(2)}, "found none for 'W', 'b'"),
        ({"weights": torch.ones(64, 48), "w": torch.ones(48, 64)}, "expected float32 of shape (64, 48) as in"),
        ({"w": torch.ones(64, 48, dtype=torch.float64)}, "found float64 of shape (64, 48)"),
        ({"w": torch.ones((64, 48), dtype=torch.int32)}, "expected float tensors, found none"),
    ],
)
def test_tensors_of_another_network(files, tensors, message):
    source, like, small = files
    metaq.save(CompressedModel(tensors), source)
    assert message in refusal(source, like, small)
    assert not small.exists()


def test_places(files, tmp_path):
    source, like, small = files
    assert "expected a path ending in .onnx, found .mtq" in refusal(source, like, tmp_path / "y.mtq")
    assert "expected another place than the source" in refusal(source, like, like, force=True)
    small.write_bytes(b"old")
    assert "expected no such file yet, found one; --force replaces it" in refusal(source, like, small)
    assert small.read_bytes() == b"old"
    export(source, small, like, force=True)
    assert outputs(like) == outputs(small)
    assert "expected a writable place" in refusal(source, like, tmp_path / "none" / "y.onnx")
    assert "expected a readable file" in refusal(source, tmp_path / "none.onnx", tmp_path / "y.onnx")
    assert "expected a readable file" in refusal(tmp_path / "none.mtq", like, tmp_path / "y.onnx")


def test_damaged_files(files, tmp_path):
    source, like, small = files
    data = bytearray(source.read_bytes())
    data[-20] ^= 1
    (tmp_path / "bad.mtq").write_bytes(data)
    assert "checksum" in refusal(tmp_path / "bad.mtq", like, small)
    for content in (b"", b"garbage" * 50):
        (tmp_path / "bad.onnx").write_bytes(content)
        assert "bad.onnx: expected an .onnx model, found" in refusal(source, tmp_path / "bad.onnx", small)
    assert not small.exists()
    assert not list(tmp_path.glob(".metaq-*"))


def test_a_model_of_over_two_gibibytes(files, monkeypatch):
    monkeypatch.setattr("metaq.integrations.onnx.MOST_BYTES", 500)
    assert "small.onnx: expected a model of at most 2 GiB, found" in refusal(*files)
