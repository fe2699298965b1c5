"""Folders compressed by their model and data: what the files hold is named, shaped and typed as in the source."""

import json
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import metaq
from metaq.checkpoints import CompressionConfig, calibrated_folder
from metaq.checkpoints.calibrated_folder import compress_calibrated_folder
from metaq.checkpoints.compressed_shards import entries_at
from metaq.checkpoints.source_names import Place
from metaq.codebook import UniformCodebook
from metaq.compressed_model import CodedTensor, CompressedModel
from metaq.errors import InputError
from metaq.io.source import StateSource
from metaq.matrix_layout import MatrixLayout

BATCHES = [torch.randn(8, 24, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
DTYPES = {"0.weight": torch.bfloat16, "2.weight": torch.float16, "4.weight": torch.float64}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 24))
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(DTYPES.get(name, torch.float32)).float()
    return model.eval()


def load():
    return network(), BATCHES


@pytest.fixture
def tensors():
    """What the shards hold: the network's tensors under other names, and others."""
    own = {f"net.{name}": tensor.to(DTYPES.get(name, torch.float32)) for name, tensor in network().state_dict().items()}
    generator = torch.Generator().manual_seed(5)
    more = {"net.ids": torch.arange(9), "extra.weight": torch.randn(20, 30, generator=generator)}
    first = {name: tensor for name, tensor in own.items() if not name.startswith("net.4")}
    return {"1.safetensors": first, "2.safetensors": {**own, **more} | {"copy": own["net.4.weight"].clone()}}


@pytest.fixture
def folder(tmp_path, tensors):
    path = tmp_path / "model"
    path.mkdir()
    for name in tensors["1.safetensors"]:
        del tensors["2.safetensors"][name]
    for shard, state in tensors.items():
        safetensors.torch.save_file(state, path / shard, {"format": "pt"})
    places = {name: shard for shard, state in tensors.items() for name in state}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (path / "config.json").write_text("{}")
    return path


def contents(folder):
    return {name: tensor for path in folder.glob("*.mtq") for name, tensor in metaq.load_file(path).items()}


def test_files_hold_what_the_source_does(tmp_path, folder, tensors):
    report = compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(bits=4))
    files = {path.name: path.stat().st_size for path in (tmp_path / "small").iterdir()}
    assert set(files) == {"1.mtq", "2.mtq", "model.mtq.index.json", "config.json"}
    for shard, state in tensors.items():
        found = metaq.load_file(tmp_path / "small" / shard.replace("safetensors", "mtq"))
        with metaq.safe_open(tmp_path / "small" / shard.replace("safetensors", "mtq")) as file:
            assert file.metadata() == {"format": "pt"}
        assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
            name: (t.dtype, t.shape) for name, t in state.items()
        }
    found = contents(tmp_path / "small")
    assert torch.equal(found["copy"], found["net.4.weight"])
    assert torch.equal(found["net.ids"], torch.arange(9))
    assert report.file_bytes == files["1.mtq"] + files["2.mtq"]
    assert (report.shards, report.tensors) == (2, 9)
    assert 3.5 < report.bits_per_weight <= 4
    quantized = [name for name in found if found[name].ndim == 2 and name != "copy"]
    weights = {name: state[name].double() for state in tensors.values() for name in state if name in quantized}
    error = sum(float((weights[name] - found[name]).square().sum()) for name in quantized)
    assert report.relative_squared_error == pytest.approx(
        error / sum(float(tensor.square().sum()) for tensor in weights.values())
    )


def test_weights_are_those_of_the_calibrated_model(tmp_path, folder, monkeypatch):
    original, results = calibrated_folder.compress_calibrated, []

    def compress(*arguments, **options):
        results.append(original(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(calibrated_folder, "compress_calibrated", compress)
    compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(bits=4))
    found, expected = contents(tmp_path / "small"), results[-1].decompress()
    assert all(torch.equal(found[f"net.{name}"], tensor.to(DTYPES.get(name))) for name, tensor in expected.items())


def test_what_is_not_in_the_model_is_named(tmp_path, folder, caplog):
    with caplog.at_level(logging.WARNING, "metaq"):
        compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(bits=4))
    (message,) = [text for text in caplog.messages if text.startswith("calibrate: expected every weight of the folder")]
    assert message.endswith("in the Sequential, found none for extra.weight; those are compressed without data")


def test_patterns_are_those_of_the_source(tmp_path, folder, tensors):
    config = CompressionConfig(bits=3, keep=("net.[04].weight",), tensor_bits={"extra*": 4})
    compress_calibrated_folder(folder, tmp_path / "small", load, config)
    found = contents(tmp_path / "small")
    state = {name: tensor for shard in tensors.values() for name, tensor in shard.items()}
    assert all(torch.equal(found[name], state[name]) for name in ("net.0.weight", "net.4.weight"))
    assert not torch.equal(found["net.2.weight"], state["net.2.weight"])
    assert len(found["net.2.weight"].unique()) < len(found["extra.weight"].unique())
    with pytest.raises(InputError, match=r"pattern '0\.weight': expected one that matches a tensor's name"):
        compress_calibrated_folder(folder, tmp_path / "x", load, CompressionConfig(keep=("0.weight",)))


def test_a_kept_tensor_and_its_copy_that_is_not_kept(tmp_path, folder, tensors):
    config = CompressionConfig(bits=4, keep=("net.4.weight",))
    compress_calibrated_folder(folder, tmp_path / "small", load, config)
    found = contents(tmp_path / "small")
    assert torch.equal(found["net.4.weight"], tensors["2.safetensors"]["net.4.weight"])
    assert not torch.equal(found["copy"], found["net.4.weight"])


@pytest.mark.parametrize("bits", [2, 5])
def test_bits_are_met(tmp_path, folder, bits):
    report = compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(bits=bits))
    assert 0.9 * bits < report.bits_per_weight <= bits


@pytest.mark.parametrize("config", [CompressionConfig(max_error=1e-3), CompressionConfig(quality="medium")])
def test_an_error_is_met(tmp_path, folder, config):
    report = compress_calibrated_folder(folder, tmp_path / "small", load, config)
    assert report.relative_squared_error <= (config.max_error or 3e-3)


@pytest.mark.parametrize("size", [4500, 6000])
def test_a_size_is_met(tmp_path, folder, size):
    report = compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(size_bytes=size))
    assert 0.93 * size < report.file_bytes <= size
    assert sum(path.stat().st_size for path in (tmp_path / "small").glob("*.mtq")) == report.file_bytes


def test_a_size_that_no_trial_meets(tmp_path, folder, monkeypatch):
    once = calibrated_folder.compress_calibrated(*load(), CompressionConfig(bits=8, coder="mixing"))
    wanted = []

    def compress(model, batches, config, **options):
        wanted.append(config.size_bytes)
        return once

    monkeypatch.setattr(calibrated_folder, "compress_calibrated", compress)
    with pytest.raises(InputError, match=r"size_bytes: expected at most 4000, found .* after 4 trials"):
        compress_calibrated_folder(folder, tmp_path / "small", load, CompressionConfig(size_bytes=4000))
    assert wanted == sorted(wanted, reverse=True)
    assert len(set(wanted)) == len(wanted) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_options_reach_the_quantizer(tmp_path, folder, monkeypatch):
    original, seen = calibrated_folder.compress_calibrated, {}

    def compress(model, batches, config, **options):
        seen.update(options, count=len(batches), coder=config.coder)
        return original(model, batches, config)

    monkeypatch.setattr(calibrated_folder, "compress_calibrated", compress)
    config = CompressionConfig(max_error=1e-2, coder="rans")
    report = compress_calibrated_folder(folder, tmp_path / "small", load, config, refit_epochs=3)
    assert (seen["refit_epochs"], seen["count"], seen["coder"], report.coder) == (3, 4, "rans", "rans")


def test_weights_that_a_dtype_would_not_hold_stay(tmp_path, monkeypatch):
    model = nn.Linear(24, 24, bias=False)
    model.weight.data = torch.full((24, 24), 65504.0)
    (tmp_path / "model").mkdir()
    state = {"weight": model.weight.data.half()}
    safetensors.torch.save_file(state, tmp_path / "model" / "model.safetensors")
    coded = metaq.compress({"weight": model.weight.data}, step=40000.0)
    monkeypatch.setattr(calibrated_folder, "compress_calibrated", lambda *arguments, **options: coded)
    compress_calibrated_folder(tmp_path / "model", tmp_path / "small", lambda: (model, BATCHES), CompressionConfig())
    assert torch.equal(contents(tmp_path / "small")["weight"], state["weight"])


@pytest.mark.parametrize("config", [CompressionConfig(lossless=True), CompressionConfig(step=0.1)])
def test_targets_without_data_are_refused(tmp_path, folder, config):
    with pytest.raises(InputError, match="calibrate: expected bits, a size or an error to compress to, found"):
        compress_calibrated_folder(folder, tmp_path / "small", load, config)


def test_nothing_is_left_after_a_failure(tmp_path, folder):
    def fail():
        raise InputError("no data")

    with pytest.raises(InputError, match="no data"):
        compress_calibrated_folder(folder, tmp_path / "small", fail, CompressionConfig())
    with pytest.raises(InputError, match="expected a model of the folder's tensors, found a Linear of others"):
        compress_calibrated_folder(folder, tmp_path / "small", lambda: (nn.Linear(2, 3), BATCHES), CompressionConfig())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_outputs_are_checked_before_anything_is_loaded(tmp_path, folder):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").write_text("")
    with pytest.raises(InputError, match="expected no such folder or an empty one"):
        compress_calibrated_folder(folder, tmp_path / "small", None, CompressionConfig(), force=True)


LAYOUTS = {
    "none": None,
    "rows": MatrixLayout(2, row_logs=np.arange(-8, 16)),
    "experts": MatrixLayout(1, row_logs=np.array([-8, 0, 3]), by_columns=True),
    "columns": MatrixLayout(2, column_logs=np.arange(6)),
    "both": MatrixLayout(2, np.arange(24), np.arange(6), by_columns=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_are_taken_apart(layout):
    symbols = torch.randint(-5, 6, (3, 8, 6), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    whole = CodedTensor(symbols, UniformCodebook(0.25), torch.float32, LAYOUTS[layout])
    places = {f"{expert}.{first}": Place("w", expert, first) for expert in range(3) for first in (0, 4)}
    source = StateSource(dict.fromkeys(places, torch.zeros(4, 6)))
    found = entries_at(CompressedModel({"w": whole}), places, [source])
    for name, (_, expert, first) in places.items():
        assert torch.equal(found[name].decompress(), whole.decompress()[expert, first : first + 4])


def test_experts_that_cannot_be_taken_apart():
    matrix = MatrixLayout(1, column_logs=np.zeros(48, np.int8))
    whole = CodedTensor(torch.zeros(3, 8, 6, dtype=torch.int32), UniformCodebook(0.25), torch.float32, matrix)
    with pytest.raises(InputError, match="tensor 'w': expected scales of rows, or of each expert's columns, found"):
        entries_at(CompressedModel({"w": whole}), {"a": Place("w", 0, 0)}, [StateSource({"a": torch.zeros(4, 6)})])
