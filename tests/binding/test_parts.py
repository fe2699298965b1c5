"""Parameters with methods of their own, kept ones, rounded ones and frozen ones, in one model."""

import torch
from small_training import adam, assert_shows_the_file, loss, network, train
from torch import nn

import metaq
from metaq.binding import selection
from metaq.quantizers.rounding import round_as_float16

METAQ = metaq.METaQ(strength=1e-3, step=0.1)
HEMP = metaq.HEMP(order=1, levels=5)


def test_methods_side_by_side():
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, {"0.weight": METAQ, "3.*": HEMP, "1.weight": None}, optimizer)
    train(model, compressor, optimizer)
    model.eval()
    loss(model)
    assert_shows_the_file(model, compressor)
    tensors = compressor.compress().tensors
    assert {type(tensors[name]).__name__ for name in ("0.weight", "3.weight", "3.bias")} == {"CodedTensor"}
    assert torch.equal(tensors["1.weight"], model[1].weight)
    assert len(torch.unique(tensors["3.weight"].symbols)) <= 5


def test_rounded_parameters_show_eleven_bits_and_train_all(monkeypatch):
    monkeypatch.setattr(selection, "LARGE_NETWORK", 100)
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    train(model, compressor, optimizer)
    assert_shows_the_file(model, compressor)
    shown = model[1].weight.detach().clone()
    assert torch.equal(shown, round_as_float16(shown))
    with compressor.latent_weights():
        assert not torch.equal(shown, model[1].weight)
        assert torch.equal(shown, round_as_float16(model[1].weight))


def test_frozen_parameters_are_quantized_once():
    model = network()
    model[0].requires_grad_(False)
    exact = model[0].weight.detach().clone()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    compressor = metaq.Compressor(model, METAQ, optimizer)
    once = model[0].weight.detach().clone()
    assert not torch.equal(once, exact)
    train(model, compressor, optimizer)
    assert torch.equal(model[0].weight, once)
    assert_shows_the_file(model, compressor)
    assert type(compressor.compress().tensors["0.weight"]).__name__ == "CodedTensor"


def test_methods_that_would_harm_frozen_parameters_keep_them():
    model = network()
    model[0].requires_grad_(False)
    exact = model[0].weight.detach().clone()
    compressor = metaq.Compressor(model, metaq.HEMP(levels=3))
    assert torch.equal(compressor.compress().tensors["0.weight"], exact)
    assert "kept exactly" in str(compressor.report())


def test_the_report_says_what_becomes_of_each_parameter():
    model = network()
    model.add_module("tied", nn.Linear(16, 4))
    model.tied.weight = model[3].weight
    text = str(metaq.Compressor(model, {"1.*": None, "*": METAQ}).report())
    lines = text.splitlines()
    assert lines[0].split() == ["parameter", "shape", "bits/weight", "what", "becomes", "of", "it", "levels"]
    assert len(lines) == 1 + len(list(model.parameters()))
    row = next(line for line in lines if line.startswith("3.weight"))
    assert row.startswith("3.weight = tied.weight  4x16")
    assert "compressed by METaQ" in row
    assert "32.00" in next(line for line in lines if line.startswith("1.weight"))


def test_measures_are_those_of_the_file(tmp_path):
    model = network()
    compressor = metaq.Compressor(model, METAQ)
    measured = compressor.measure()
    assert measured["size_bytes"] == metaq.save(compressor.compress(), tmp_path / "model.mtq")
    assert measured["bits_per_weight"] == 8 * measured["size_bytes"] / sum(p.numel() for p in model.parameters())
    assert 2 < measured["entropy"] < 5
