"""Exported `.onnx` models compute what the same graph computes with the decoded weights, bit for bit."""

import numpy as np
import pytest
import torch

import metaq
from metaq.codebook import TableCodebook, UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.matrix_layout import MatrixLayout

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from metaq.integrations.onnx import export  # noqa: E402

EXACT = {"session.disable_quant_qdq": "1"}
NUMBERS = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float64: TensorProto.DOUBLE,
}
# By the operator, the weights' shape, the input's, and attributes.
OPERATORS = {
    "MatMul": ((64, 48), (5, 64), {}),
    "Gemm": ((48, 64), (5, 64), {"transB": 1}),
    "Conv": ((32, 4, 3, 3), (1, 4, 9, 9), {}),
    "Gather": ((64, 48), (5,), {}),
}


def symbols(shape, most=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator, dtype=torch.int32)


def layout(shape, leading=1, rows=True, columns=False, by_columns=False):
    generator = np.random.default_rng(0)

    def logs(lengths):
        return generator.integers(-30, 31, int(np.prod(lengths))).astype(np.int8)

    row_logs, column_logs = (logs(shape[:leading]) if rows else None), (logs(shape[leading:]) if columns else None)
    return MatrixLayout(leading, row_logs, column_logs, by_columns)


def coded(shape, most=7, dtype=torch.float32, step=0.0137, **scales):
    return CodedTensor(symbols(shape, most), UniformCodebook(step), dtype, layout(shape, **scales) if scales else None)


def table(shape, levels, dtype=torch.float32):
    values = np.unique(np.random.default_rng(0).normal(size=levels).astype(np.float32))
    assert values.size == levels
    places = torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    return CodedTensor(places - levels // 2, TableCodebook(tuple(values.tolist()), levels // 2), dtype)


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, NUMBERS.get(dtype, TensorProto.INT64), shape)


def initialiser(name, tensor):
    octets = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return TensorProto(name=name, data_type=NUMBERS[tensor.dtype], dims=list(tensor.shape), raw_data=octets)


def save(nodes, inputs, outputs, initialisers, path, opset=21, ir_version=10):
    graph = helper.make_graph(nodes, "main", inputs, outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, {"note": "ü"})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def as_outputs(tensors, path, **versions):
    """A model of which every initialiser is an output, in float64, which holds all values of the other dtypes."""
    nodes = [helper.make_node("Cast", [name], [f"{name}.out"], to=TensorProto.DOUBLE) for name in tensors]
    outputs = [value(f"{name}.out", torch.float64, list(tensor.shape)) for name, tensor in tensors.items()]
    save(nodes, [], outputs, [initialiser(name, tensor) for name, tensor in tensors.items()], path, **versions)


def run(path, inputs=None, options=EXACT, level=None):
    """All outputs, as bytes."""
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.intra_op_num_threads = 1
    if level is not None:
        session_options.graph_optimization_level = level
    for key, option in options.items():
        session_options.add_session_config_entry(key, option)
    session = runtime.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs or {})


def as_bytes(arrays):
    return [array.tobytes() for array in arrays]


def exported(tmp_path, tensors, make=as_outputs, **versions):
    """Paths of the model with decoded weights and of the exported one, and the report."""
    metaq.save(CompressedModel(tensors), tmp_path / "x.mtq")
    decoded = metaq.load_file(tmp_path / "x.mtq")
    make(decoded, tmp_path / "plain.onnx", **versions)
    # The graph's own values must not matter.
    make({name: torch.zeros_like(tensor) for name, tensor in decoded.items()}, tmp_path / "like.onnx", **versions)
    report = export(tmp_path / "x.mtq", tmp_path / "small.onnx", tmp_path / "like.onnx")
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    return tmp_path / "plain.onnx", tmp_path / "small.onnx", report


def layer(name, dtype=torch.float32):
    """A function that makes a model of one operator, whose weights are `w`, and the input."""
    _, shape, attributes = OPERATORS[name]
    is_lookup = name == "Gather"

    def make(tensors, path, **versions):
        node = helper.make_node(name, ["w", "x"] if is_lookup else ["x", "w"], ["y"], **attributes)
        inputs = [value("x", torch.int64 if is_lookup else dtype, shape)]
        outputs = [value("y", dtype, [f"d{i}" for i in range(4 if name == "Conv" else 2)])]
        save([node], inputs, outputs, [initialiser("w", tensors["w"])], path, **versions)

    generator = np.random.default_rng(1)
    if is_lookup:
        return make, {"x": generator.integers(0, 64, shape)}
    return make, {"x": generator.normal(size=shape).astype(np.float16 if dtype == torch.float16 else np.float32)}


MATRICES = {
    "step": {},
    "rows": {"leading": 1},
    "columns": {"rows": False, "columns": True},
    "both": {"columns": True},
    "by columns": {"columns": True, "by_columns": True},
    "two leading": {"leading": 2},
    "two leading, both": {"leading": 2, "columns": True},
    "two leading, columns": {"leading": 2, "rows": False, "columns": True},
}


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("most", [7, 127, 32767])
def test_weights(tmp_path, dtype, most):
    tensors = {name: coded((20, 10, 21), most, dtype, **scales) for name, scales in MATRICES.items()}
    tensors |= {"odd": coded((41, 33), most, dtype), "vector": coded((999,), most, dtype)}
    plain, small, report = exported(tmp_path, tensors)
    assert as_bytes(run(plain)) == as_bytes(run(small))
    assert as_bytes(run(plain, options={})) == as_bytes(run(small, options={}))
    bits = {7: 4, 127: 8, 32767: 16}[most]
    is_smaller = bits < 8 * torch.empty(0, dtype=dtype).element_size()
    assert report.kinds == {f"int{bits} DequantizeLinear" if is_smaller else "plain": len(tensors)}
    assert report.bytes == small.stat().st_size
    assert report.bytes_before == plain.stat().st_size


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(("levels", "kind"), [(13, "uint4"), (200, "uint8"), (1000, "uint16")])
def test_tables(tmp_path, dtype, levels, kind):
    plain, small, report = exported(tmp_path, {"w": table((60, 99), levels, dtype)})
    assert as_bytes(run(plain)) == as_bytes(run(small)) == as_bytes(run(small, options={}))
    is_smaller = torch.empty(0, dtype=dtype).element_size() > 2 or kind != "uint16"
    assert report.kinds == {f"{kind} Gather" if is_smaller else "plain": 1}


@pytest.mark.parametrize("options", [EXACT, {}], ids=["exact", "default"])
@pytest.mark.parametrize(("narrow", "wide"), [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")])
def test_a_graph_of_a_wider_dtype(tmp_path, narrow, wide, options):
    dtype = getattr(torch, narrow)
    tensors = {
        "w": coded((64, 48), 7, dtype, columns=True),
        "t": table((64, 48), 13, dtype),
        "v": torch.ones(3).to(dtype),
    }
    tensors |= {"long": coded((64, 48), 32767, dtype), "tied": Alias("w")}
    metaq.save(CompressedModel(tensors), tmp_path / "x.mtq")
    decoded = metaq.load_file(tmp_path / "x.mtq")
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    as_outputs({name: tensor.to(getattr(torch, wide)) for name, tensor in decoded.items()}, plain)
    kinds = export(tmp_path / "x.mtq", small, plain).kinds
    assert kinds == {
        "int4 DequantizeLinear": 1,
        "int16 DequantizeLinear": 1,
        "uint4 Gather": 1,
        "alias": 1,
        "plain": 1,
    }
    assert as_bytes(run(plain)) == as_bytes(run(small, options=options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_operators_of_a_wider_dtype(tmp_path, dtype):
    make, inputs = layer("MatMul")
    metaq.save(CompressedModel({"w": coded((64, 48), 127, dtype)}), tmp_path / "x.mtq")
    make({"w": metaq.load_file(tmp_path / "x.mtq")["w"].float()}, tmp_path / "plain.onnx")
    export(tmp_path / "x.mtq", tmp_path / "small.onnx", tmp_path / "plain.onnx")
    assert as_bytes(run(tmp_path / "plain.onnx", inputs)) == as_bytes(run(tmp_path / "small.onnx", inputs))


def test_the_ends_of_ranges(tmp_path):
    tensors = {
        "denormal": coded((40, 30), step=1e-44),
        "huge": coded((40, 30), 127, step=3e38),
        "huge halves": coded((40, 30), dtype=torch.float16, step=3e4),
        "denormal halves": coded((40, 30), dtype=torch.float16, step=4e-8),
        "infinite columns": coded((40, 30), step=1e38, rows=False, columns=True),
        "far": CodedTensor(torch.tensor([[0, 1 << 20], [-8, 7]]), UniformCodebook(0.1), torch.float32),
    }
    plain, small, report = exported(tmp_path, tensors)
    assert as_bytes(run(plain)) == as_bytes(run(small)) == as_bytes(run(small, options={}))
    assert report.kinds == {"int4 DequantizeLinear": 4, "int8 DequantizeLinear": 1, "plain": 1}


@pytest.mark.parametrize(("least", "kind"), [(-8, "int4"), (-9, "int8"), (-128, "int8"), (-129, "int16")])
def test_the_smallest_integers_that_hold_all(tmp_path, least, kind):
    found = symbols((30, 30))
    found[3, 4] = least
    plain, small, report = exported(tmp_path, {"w": CodedTensor(found, UniformCodebook(0.3), torch.float32)})
    assert report.kinds == {f"{kind} DequantizeLinear": 1}
    assert as_bytes(run(plain)) == as_bytes(run(small))


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("scales", [{}, {"leading": 1}, {"columns": True}], ids=["step", "rows", "both"])
@pytest.mark.parametrize("most", [7, 127, 32767])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(tmp_path, name, most, scales, opset):
    make, inputs = layer(name)
    weights = {"w": coded(OPERATORS[name][0], most, **scales)}
    plain, small, _ = exported(tmp_path, weights, make, opset=opset, ir_version=7 if opset == 13 else 10)
    assert as_bytes(run(plain, inputs)) == as_bytes(run(small, inputs))
    expected = run(plain, inputs, options={})[0]
    # By default the runtime multiplies integers in kernels of their own, which round otherwise.
    assert np.allclose(run(small, inputs, options={})[0], expected, rtol=0.05, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["MatMul", "Gemm", "Gather"])
def test_operators_in_half_precision(tmp_path, name):
    make, inputs = layer(name, torch.float16)
    plain, small, _ = exported(tmp_path, {"w": coded(OPERATORS[name][0], dtype=torch.float16)}, make)
    assert as_bytes(run(plain, inputs)) == as_bytes(run(small, inputs))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_tables(tmp_path, name):
    make, inputs = layer(name)
    plain, small, _ = exported(tmp_path, {"w": table(OPERATORS[name][0], 16)}, make)
    assert as_bytes(run(plain, inputs)) == as_bytes(run(small, inputs)) == as_bytes(run(small, inputs, options={}))


def test_by_default_the_runtime_has_other_kernels_for_integers(tmp_path):
    make, inputs = layer("MatMul")
    plain, small, _ = exported(tmp_path, {"w": coded((64, 48))}, make)
    assert as_bytes(run(plain, inputs)) != as_bytes(run(small, inputs, options={}))
    off = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert as_bytes(run(plain, inputs, {}, off)) == as_bytes(run(small, inputs, {}, off))


def test_kept_tensors_and_second_names(tmp_path):
    tensors = {
        "kept": torch.randn(5),
        "kept again": Alias("kept"),
        "w": coded((40, 30)),
        "tied": Alias("w"),
        "scalar": torch.tensor(2.5),
        "tiny": coded((2, 3)),
        "one": coded(()),
        "empty": CodedTensor(torch.zeros((0, 3), dtype=torch.int32), UniformCodebook(0.5), torch.float32),
    }
    plain, small, report = exported(tmp_path, tensors)
    assert as_bytes(run(plain)) == as_bytes(run(small))
    assert report.kinds == {"plain": 6, "int4 DequantizeLinear": 1, "alias": 1}
    assert report.initializers == 8
    assert report.left == ()


def test_a_second_name_alone(tmp_path):
    metaq.save(CompressedModel({"w": coded((40, 30)), "tied": Alias("w")}), tmp_path / "x.mtq")
    decoded = metaq.load_file(tmp_path / "x.mtq")
    as_outputs({"tied": decoded["tied"]}, tmp_path / "like.onnx")
    report = export(tmp_path / "x.mtq", tmp_path / "small.onnx", tmp_path / "like.onnx")
    assert report.kinds == {"int4 DequantizeLinear": 1}
    assert as_bytes(run(tmp_path / "like.onnx")) == as_bytes(run(tmp_path / "small.onnx"))


def test_nothing_that_is_quantized_leaves_the_opset(tmp_path):
    _, small, report = exported(tmp_path, {"w": torch.randn(4, 5)}, opset=13, ir_version=7)
    model = onnx.load(small)
    assert (model.opset_import[0].version, model.ir_version, report.kinds) == (13, 7, {"plain": 1})
