"""HEMP at work on small networks: what it adds to gradients, where levels go, what is measured."""

import math

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.methods import hemp
from metaq.methods.hemp import Gradient, Quantizer, proxy_entropy
from metaq.metrics import entropy_of_order


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def one_step(model, compressor, images, labels):
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    loss_gradients = [parameter.grad.clone() for parameter in model.parameters()]
    compressor.regularize()
    return loss_gradients


BATCH = (torch.randn(32, 12, generator=torch.Generator().manual_seed(9)), torch.arange(32) % 4)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("insensitivity", [True, False])
def test_the_gradient_of_the_terms_is_added(order, insensitivity):
    """(24)-(27), once by the formulas, in double precision."""
    model = small()
    config = metaq.HEMP(order=order, levels=5, strength=3.0, error_strength=0.7, insensitivity=insensitivity)
    compressor = metaq.Compressor(model, config)
    before = [parameter.detach().double() for parameter in model.parameters()]
    loss_gradients = one_step(model, compressor, *BATCH)
    levels = [table.double() for table in compressor.bound.levels]
    entropies = hemp.entropy(before, levels, order).gradient
    errors = [w - metaq.methods.hemp_terms.nearest_level(w, table) for w, table in zip(before, levels, strict=True)]
    count = sum(w.numel() for w in before)
    error = math.sqrt(sum(float(e.square().sum()) for e in errors) / count)
    columns = zip(model.parameters(), loss_gradients, entropies, errors, strict=True)
    for parameter, loss_gradient, entropy, distance in columns:
        term = 3.0 * order * entropy + 0.7 * distance / (count * error)
        factor = 1 - loss_gradient.abs() / loss_gradient.abs().max() if insensitivity else 1.0
        torch.testing.assert_close(parameter.grad, (loss_gradient + factor * term).float(), rtol=1e-4, atol=1e-7)


def test_the_network_trains_in_float_and_is_measured_quantized():
    model = small()
    compressor = metaq.Compressor(model, metaq.HEMP(levels=3))
    before = model[0].weight.detach().clone()
    logits = model(BATCH[0])
    assert torch.equal(model[0].weight, before)
    decoded = compressor.compress().decompress()
    model.eval()
    assert not torch.equal(model(BATCH[0]), logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, decoded[name])
    model.train()
    model(BATCH[0])
    assert torch.equal(model[0].weight, before)
    assert len(decoded["0.weight"].unique()) <= 3
    compressor.detach()
    assert torch.equal(model[0].weight, decoded["0.weight"])


def test_straight_through_the_float_weights_take_the_gradients_of_the_quantized_ones():
    model, other = small(), small()
    config = metaq.HEMP(levels=3, strength=0.0, error_strength=0.0, straight_through=True)
    compressor = metaq.Compressor(model, config)
    before = model[0].weight.detach().clone()
    model(BATCH[0])
    decoded = compressor.compress().decompress()
    assert not torch.equal(model[0].weight, before)
    assert torch.equal(model[0].weight, decoded["0.weight"])
    gradients = one_step(model, compressor, *BATCH)
    assert torch.equal(model[0].weight, before)
    other.load_state_dict(decoded)
    nn.functional.cross_entropy(other(BATCH[0]), BATCH[1]).backward()
    for gradient, parameter in zip(gradients, other.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_the_entropy_falls_and_the_proxy_follows_it():
    model = small()
    compressor = metaq.Compressor(model, metaq.HEMP(levels=4, strength=2.0, error_strength=40.0, refresh_every=20))
    first = compressor.compress()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(200):
        one_step(model, compressor, *BATCH)
        optimizer.step()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    last = compressor.compress()
    assert entropy_of_order(last, 2) < 0.8 * entropy_of_order(first, 2)
    proxy = proxy_entropy(last, weights, 2)
    assert proxy == pytest.approx(entropy_of_order(last, 2), abs=0.1)
    assert compressor.bound.measures()["proxy_entropy"] == pytest.approx(proxy, abs=0.01)


def test_the_last_phase_has_an_error_strength_of_its_own():
    model = small()
    compressor = metaq.Compressor(model, metaq.HEMP(levels=3, strength=0.0, last_error_strength=50.0))
    one_step(model, compressor, *BATCH)
    errors = [compressor.bound.measures()["reconstruction_error"]]
    compressor.begin_last_phase()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(30):
        one_step(model, compressor, *BATCH)
        optimizer.step()
    assert compressor.bound.measures()["reconstruction_error"] < 0.5 * errors[0]


def test_the_strength_follows_its_schedule():
    model, added = small(), []
    config = metaq.HEMP(levels=3, error_strength=0.0, insensitivity=False, schedule=((0, 1.0), (0.2, 0.5), (0.3, 0.0)))
    compressor = metaq.Compressor(model, config, training_steps=10)
    for _ in range(4):
        before = one_step(model, compressor, *BATCH)
        added.append(model[0].weight.grad - before[0])
    for terms, factor in zip(added, (1.0, 0.75, 0.5, 0.0), strict=True):
        torch.testing.assert_close(terms, factor * added[0], rtol=1e-3, atol=1e-7)


def test_the_reconstruction_error_breaks_the_tie_in_the_middle():
    """Two levels evenly filled: a weight in the middle has no entropy gradient, (21), but E moves it off."""
    for error_strength, moves in ((0.0, False), (0.1, True)):
        model = nn.Linear(5, 1, bias=False)
        model.weight.data = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.5]])
        config = metaq.HEMP(order=1, levels=2, error_strength=error_strength, quantizer=Quantizer.FIXED)
        compressor = metaq.Compressor(model, config)
        compressor.bound.levels = [torch.tensor([0.0, 1.0])]
        compressor.bound.layers = compressor.bound._layers()
        model.weight.grad = torch.zeros(1, 5)
        compressor.regularize()
        gradient = model.weight.grad[0]
        assert float(gradient[:4].abs().max()) < 1e-6
        assert (abs(float(gradient[4])) > 1e-3) == moves


@pytest.mark.parametrize("quantizer", Quantizer)
@pytest.mark.parametrize("zero_level", [True, False])
def test_every_quantizer_gives_increasing_levels_and_zero_where_asked(quantizer, zero_level):
    model = small()
    model[0].bias.data.zero_()
    options = {"levels": 5, "quantizer": quantizer, "zero_level": zero_level, "refresh_every": 1}
    compressor = metaq.Compressor(model, metaq.HEMP(**options))
    first = [table.clone() for table in compressor.bound.levels]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        one_step(model, compressor, *BATCH)
        optimizer.step()
    for table in compressor.bound.levels:
        assert bool((table.diff() > 0).all())
        assert not zero_level or float(table[2]) == 0
        is_equally_spaced = torch.allclose(table.diff(), table.diff()[:1], rtol=1e-4)
        assert is_equally_spaced or quantizer not in (Quantizer.UNIFORM, Quantizer.FIXED)
    changed = not torch.equal(first[0], compressor.bound.levels[0])
    assert changed == (quantizer is not Quantizer.FIXED)
    compressed = compressor.compress()
    decoded = compressed.decompress()
    compressor.bound.on_forward(is_training=False)
    for (name, tensor), table in zip(model.state_dict().items(), compressor.bound.levels, strict=True):
        assert torch.equal(tensor, decoded[name])
        is_fitted = quantizer in (Quantizer.LLOYD_MAX, Quantizer.KMEANS)
        written = hemp.shortened(table) if is_fitted else table
        assert torch.isin(tensor, written).all()
        assert torch.equal(compressed.tensors[name].symbols, torch.searchsorted(written, tensor) - 2)


def test_fixed_levels_can_reach_beyond_the_weights():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[-2.0, 0.0, 0.5, 1.0]])
    config = metaq.HEMP(levels=9, quantizer=Quantizer.FIXED, zero_level=True, reach=2.0, straight_through=True)
    compressor = metaq.Compressor(model, config)
    assert compressor.bound.levels[0].tolist() == [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    model.weight.data[0, 0] = -3.9
    assert compressor.compress().decompress()["weight"].tolist() == [[-4.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("gradient", Gradient)
@pytest.mark.parametrize("straight_through", [False, True])
def test_state_round_trip_in_mid_training(gradient, straight_through):
    config = metaq.HEMP(levels=5, refresh_every=3, gradient=gradient, straight_through=straight_through)
    results = []
    for interrupted in (False, True):
        model = small()
        compressor = metaq.Compressor(model, config)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(10):
            if interrupted and step == 5:
                saved = compressor.state_dict(), model.state_dict()
                model = small(1)
                model.load_state_dict(saved[1])
                compressor = metaq.Compressor(model, config)
                compressor.load_state_dict(saved[0])
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            one_step(model, compressor, *BATCH)
            optimizer.step()
        results.append(metaq.metrics.digest(compressor.compress().decompress()))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "options",
    [
        {"order": 0},
        {"levels": 1},
        {"strength": -1.0},
        {"schedule": ((0.2, 1.0), (0.1, 1.0))},
        {"error_strength": float("inf")},
        {"refresh_every": 0},
        {"reach": 0.0},
    ],
)
def test_configurations_are_checked(options):
    with pytest.raises(InputError, match=f"HEMP {next(iter(options))}"):
        metaq.HEMP(**options)


def test_a_table_in_the_file_ends_at_the_outermost_level_in_use():
    model = nn.Linear(6, 1, bias=False)
    model.weight.data = torch.tensor([[-2.0, 0.0, 1.0, 2.0, 3.0, 4.0]])
    compressor = metaq.Compressor(model, metaq.HEMP(levels=7, zero_level=True))
    compressor.bound.levels = [torch.tensor([-9.0, -3.0, -2.0, 0.0, 1.0, 3.0, 9.0])]
    coded = compressor.compress().tensors["weight"]
    assert coded.codebook == metaq.codebook.TableCodebook((-2.0, 0.0, 1.0, 3.0), 1)
    assert coded.symbols.tolist() == [[-1, 0, 1, 1, 2, 2]]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_proxy_of_any_compressed_model(order):
    weights = {"a": torch.randn(40, 5), "count": torch.arange(9), "b": torch.randn(3, 7, 2) / 10}
    model = metaq.compress(weights, step=0.05)
    decoded = model.decompress()
    assert proxy_entropy(model, decoded, order) == pytest.approx(entropy_of_order(model, order), abs=1e-3)
    assert proxy_entropy(model, weights, order) != pytest.approx(entropy_of_order(model, order), abs=1e-3)
    assert proxy_entropy(metaq.CompressedModel({}), {}, order) == 0.0
