"""`metaq export`: what it writes and prints, and what it refuses."""

import io
import json
import sys

import numpy as np
import pytest
import torch

import metaq

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def save(path, shape, **initialisers):
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    values = [numpy_helper.from_array(array, name) for name, array in initialisers.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "main", [], outputs, values)), path)


@pytest.fixture
def like(tmp_path):
    """A model of one matrix, and a file of another one of its name."""
    weights = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    metaq.save(metaq.compress({"w": weights}, step=1.0), tmp_path / "x.mtq")
    save(tmp_path / "like.onnx", (64, 48), w=np.zeros((64, 48), np.float32))
    return tmp_path / "like.onnx"


def test_json(succeeds, tmp_path, like):
    result = json.loads(succeeds("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like, "--json"))
    size_bytes = (tmp_path / "y.onnx").stat().st_size
    assert result == {
        "initializers": 1,
        "left": [],
        "kinds": {"int4 DequantizeLinear": 1},
        "bytes_before": like.stat().st_size,
        "bytes": size_bytes,
        "ratio": like.stat().st_size / size_bytes,
    }
    assert size_bytes < 64 * 48 // 2 + 500


def test_table_and_quiet(command, succeeds, tmp_path, like):
    save(like, (64, 48), w=np.zeros((64, 48), np.float32), bias=np.zeros(3, np.float32))
    code, output, errors = command("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like)
    assert code == 0
    lines = dict(line.strip().split(maxsplit=1) for line in output.replace("bytes before", "bytes_before").splitlines())
    assert (lines["initializers"], lines["kinds"], lines["left"]) == ("1", "1 int4 DequantizeLinear", "1")
    assert errors.count("\n") == 1
    assert errors.startswith(f"metaq: {like}: expected a tensor of")
    assert "found none for 'bias'. They stay as they are" in errors
    save(like, (64, 48), w=np.zeros((64, 48), np.float32))
    assert succeeds("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like, "-f", "-q") == ""


def test_what_exists(fails, succeeds, tmp_path, like):
    (tmp_path / "y.onnx").write_bytes(b"old")
    arguments = "export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like
    assert "found one; --force replaces it" in fails(*arguments)
    assert (tmp_path / "y.onnx").read_bytes() == b"old"
    succeeds(*arguments, "--force")
    assert "expected another place than the source" in fails(*arguments[:3], like, *arguments[4:], "--force")


def test_another_network(fails, tmp_path, like):
    save(like, (64, 48), v=np.zeros((64, 48), np.float32))
    message = fails("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like)
    assert f"{tmp_path / 'x.mtq'}: expected a float initialiser of {like} for each float tensor" in message
    assert not (tmp_path / "y.onnx").exists()


def test_without_the_package(fails, tmp_path, like, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("metaq.integrations.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    message = fails("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx", "--like", like)
    assert message == "metaq: metaq export needs onnx: pip install 'metaq-nn[onnx]'\n"


@pytest.fixture
def of_a_model(succeeds, tmp_path):
    """A model, and a file that was made of it."""
    weights = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    save(tmp_path / "whole.onnx", (64, 48), w=weights, steps=np.array([1, 2]))
    succeeds("compress", tmp_path / "whole.onnx", "-o", tmp_path / "whole.mtq", "--step", "0.5", "-q")
    return tmp_path / "whole.onnx", tmp_path / "whole.mtq"


def test_a_file_has_the_graph_of_the_model_that_it_was_made_of(succeeds, of_a_model, tmp_path):
    whole, source = of_a_model
    results = [
        json.loads(succeeds("export", source, "-o", tmp_path / name, "--json", *options))
        for name, options in (("own.onnx", ()), ("given.onnx", ("--like", whole)))
    ]
    assert results[0]["kinds"] == results[1]["kinds"] == {"int4 DequantizeLinear": 1}
    own, given = (onnx.load(tmp_path / name) for name in ("own.onnx", "given.onnx"))
    assert [node.SerializeToString() for node in own.graph.node] == [n.SerializeToString() for n in given.graph.node]
    found, expected = ({t.name: t.SerializeToString() for t in model.graph.initializer} for model in (own, given))
    assert found == expected
    onnx.checker.check_model(own)


def test_without_a_graph(fails, tmp_path, like):
    message = fails("export", tmp_path / "x.mtq", "-o", tmp_path / "y.onnx")
    assert "x.mtq: expected the graph of an .onnx model in it, found none; `--like MODEL.onnx` gives one" in message


def test_standard_input(succeeds, fails, monkeypatch, of_a_model, tmp_path):
    whole, source = of_a_model
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    succeeds("export", "-", "-o", tmp_path / "piped.onnx", "-q")
    succeeds("export", source, "-o", tmp_path / "own.onnx", "-q")
    assert (tmp_path / "piped.onnx").read_bytes() == (tmp_path / "own.onnx").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes()[:-9])))
    assert "metaq: standard input: expected" in fails("export", "-", "-o", tmp_path / "no.onnx")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(whole.read_bytes())))
    assert "metaq: standard input: expected" in fails("export", "-", "-o", tmp_path / "no.onnx")


def test_files_of_a_folder_one_after_the_other(command, fails, tmp_path):
    weights = {name: torch.randn(64, 48) for name in ("v", "w")}
    (tmp_path / "small").mkdir()
    for name, weight in weights.items():
        metaq.save(metaq.compress({name: weight}, step=1.0), tmp_path / "small" / f"{name}.mtq")
    save(tmp_path / "whole.onnx", (64, 48), **{name: weight.numpy() for name, weight in weights.items()})
    folder = fails("export", tmp_path / "small", "-o", tmp_path / "y.onnx", "--like", tmp_path / "whole.onnx")
    assert "small: expected a .mtq file, found a folder; export its files one after the other" in folder
    first, last = tmp_path / "first.onnx", tmp_path / "last.onnx"
    assert command("export", tmp_path / "small" / "v.mtq", "-o", first, "--like", tmp_path / "whole.onnx")[0] == 0
    assert command("export", tmp_path / "small" / "w.mtq", "-o", last, "--like", first)[0] == 0
    assert [node.op_type for node in onnx.load(last).graph.node].count("DequantizeLinear") == 2
