"""Training of differences: from the base and back to it, bit for bit, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from small_training import adam, loss, network, train
from torch import nn
from torch.optim.swa_utils import AveragedModel

import metaq
from metaq.binding import selection
from metaq.compressed_model import CodedTensor
from metaq.errors import InputError
from metaq.methods.metaq.config import LevelPlacement

METHOD = metaq.Difference(metaq.METaQ(strength=1e-5), step=0.05)


def trained(model, method=METHOD, steps=6, **options):
    """A compressor of the model after some steps, and a copy of its base."""
    base = copy.deepcopy(model)
    optimizer = adam(model)
    compressor = metaq.Compressor(model, method, optimizer, **options)
    train(model, compressor, optimizer, steps)
    return compressor, base


def assert_same(model, other):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_file_makes_the_network_of_its_base(dtype, tmp_path):
    model = network().to(dtype)
    compressor, base = trained(model)
    compressed = compressor.compress()
    assert compressed.base == metaq.checksum(base.state_dict())
    metaq.save(compressed, tmp_path / "task.mtq")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(copied, model)
    assert not torch.equal(model[0].weight, base[0].weight)
    metaq.load_into(base, tmp_path / "task.mtq")
    assert_same(model, base)
    with pytest.raises(InputError, match="expected the base"):
        metaq.load_into(base, tmp_path / "task.mtq")


def test_binding_changes_nothing_and_no_change_costs_a_checksum():
    model = network()
    base = copy.deepcopy(model)
    compressor = metaq.Compressor(model, METHOD, adam(model))
    assert_same(model, base)
    assert compressor.compress().tensors == {}
    assert compressor.measure()["size_bytes"] < 60
    compressor.detach()
    assert_same(model, base)


def test_what_stays_at_zero_costs_nothing():
    model = network()
    compressor, base = trained(model, {"0.*": metaq.Difference(metaq.METaQ(strength=1.0)), "*": METHOD})
    compressed = compressor.compress()
    assert not any(name.startswith("0.") for name in compressed.tensors)
    assert_same(model[0], base[0])
    assert any(isinstance(entry, CodedTensor) for entry in compressed.tensors.values())


def test_distances_of_levels():
    flat = {"scale": torch.ones(9), "bias": torch.zeros(9), "scalar": torch.tensor(2.0)}
    base = {"a": torch.tensor([[-1.0, 1.0]]), "b": torch.tensor([[-4.0, 4.0]]), "nearly": torch.tensor([1.0, 1.001])}
    distances = metaq.Difference(metaq.METaQ(), step=0.1).level_distances(base | flat)
    assert distances["a"] == pytest.approx(0.1)
    assert distances["b"] == pytest.approx(0.4)
    for name in (*flat, "nearly"):
        assert distances[name] == pytest.approx(0.2)
    assert set(metaq.Difference(metaq.METaQ(), step=0.1).level_distances(flat).values()) == {0.1}


def test_norms_and_biases_of_large_networks_are_differences_too(monkeypatch):
    monkeypatch.setattr(selection, "LARGE_NETWORK", 10)
    model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    rows = metaq.Compressor(model, METHOD, adam(model)).report().rows
    assert {row.fate for row in rows} == {"compressed by Difference"}


def test_frozen_parameters_stay_and_kept_ones_take_the_place_of_the_base():
    model = network()
    model[0].requires_grad_(False)
    compressor, base = trained(model, {"3.bias": None, "*": METHOD})
    compressed = compressor.compress()
    assert not any(name.startswith("0.") for name in compressed.tensors)
    assert torch.equal(compressed.tensors["3.bias"], model[3].bias)
    made = metaq.apply_difference(compressed, base.state_dict())
    assert all(torch.equal(tensor, made[name]) for name, tensor in model.state_dict().items())


def test_buffers_that_have_changed_are_kept_exactly():
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    compressor, base = trained(model)
    compressed = compressor.compress()
    assert torch.equal(compressed.tensors["1.running_mean"], model[1].running_mean)
    made = metaq.apply_difference(compressed, base.state_dict())
    assert all(torch.equal(tensor, made[name]) for name, tensor in model.state_dict().items())


def test_tied_weights_are_one_difference():
    model = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 4))
    model[2].weight = model[0].weight
    compressor, base = trained(model)
    compressed = compressor.compress()
    assert compressed.tensors["2.weight"] == metaq.Alias("0.weight")
    made = metaq.apply_difference(compressed, base.state_dict())
    assert torch.equal(made["2.weight"], model[0].weight)


def test_zeros_stay_in_the_last_phase():
    model = network()
    compressor, base = trained(model, metaq.Difference(metaq.Pruned(METHOD.method, metaq.LOBSTER())))
    compressor.begin_last_phase()
    zeros = {name: p.detach() == base.state_dict()[name] for name, p in model.named_parameters()}
    train(model, compressor, compressor._hooks.optimizers[0], 6)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter[zeros[name]], base.state_dict()[name][zeros[name]])
    assert any(bool(is_zero.any()) and not bool(is_zero.all()) for is_zero in zeros.values())


def test_a_resumed_run_has_the_first_ones_base():
    whole = network()
    compressor, base = trained(whole)
    optimizer = compressor._hooks.optimizers[0]
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in (whole, optimizer, compressor)], buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)

    resumed = network()
    resumed.load_state_dict(states[0])  # not the base any more
    second = adam(resumed)
    other = metaq.Compressor(resumed, METHOD, second)
    for part, state in zip((resumed, second, other), states, strict=True):
        part.load_state_dict(state)
    train(whole, compressor, optimizer, 3)
    train(resumed, other, second, 3)
    assert_same(whole, resumed)
    assert other.compress().base == metaq.checksum(base.state_dict())
    plain = network()
    with pytest.raises(InputError, match="expected one that trains weights, found one of a Difference"):
        metaq.Compressor(plain, METHOD.method, adam(plain)).load_state_dict(states[2])


def test_averages_are_of_weights():
    model = network()
    compressor, base = trained(model)
    with compressor.latent_weights():
        average = AveragedModel(model)
        latent = model[0].weight.detach().clone()
    assert 0 < float((latent - model[0].weight.detach()).abs().max()) < 0.1
    made = metaq.apply_difference(compressor.compress(average), base.state_dict())
    assert all(torch.equal(tensor, made[name]) for name, tensor in model.state_dict().items())


def test_weights_may_be_adopted():
    model = network()
    compressor, base = trained(model)
    moved = {name: tensor + 0.5 for name, tensor in base.state_dict().items()}
    model.load_state_dict(moved)
    compressor.adopt_weights()
    made = metaq.apply_difference(compressor.compress(), base.state_dict())
    for name, tensor in moved.items():
        torch.testing.assert_close(made[name], tensor, atol=0.05, rtol=0)


def test_weight_decay_draws_towards_the_base():
    model = network()
    base = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
    compressor = metaq.Compressor(model, metaq.Difference(metaq.METaQ(strength=0.0)), optimizer)
    model.load_state_dict({name: tensor + 0.5 for name, tensor in base.state_dict().items()})
    compressor.adopt_weights()
    for _ in range(60):
        optimizer.zero_grad()
        (0 * loss(model)).backward()
        compressor.regularize()
        optimizer.step()
    assert_same(model, base)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (metaq.LC(), "expected one that can begin at zero, as METaQ can, found LC"),
        (metaq.DeepCompression(), "expected one that can begin at zero.*found DeepCompression"),
        (metaq.METaQ(levels=LevelPlacement.AROUND_MEAN), "expected one that can begin at zero.*found AroundMean"),
        (metaq.METaQ(step=0.1), "METaQ step of a difference: expected 0, as Difference.step is set, found 0.1"),
        (metaq.HEMP(), r"HEMP of a difference: expected Quantizer.FIXED and zero_level=True"),
    ],
)
def test_methods_that_cannot_begin_at_zero_are_refused(method, message):
    model = network()
    with pytest.raises(InputError, match=message):
        metaq.Compressor(model, metaq.Difference(method), adam(model), training_steps=100)


def test_what_is_refused():
    model = network()
    with pytest.raises(InputError, match="expected the optimizer, found none"):
        metaq.Compressor(model, METHOD)
    with pytest.raises(InputError, match="expected Difference for all patterns, or for none, found METaQ"):
        metaq.Compressor(model, {"0.*": metaq.METaQ(), "*": METHOD}, adam(model))
    double = network().double()
    with pytest.raises(InputError, match="expected at most float32 for a difference, found float64"):
        metaq.Compressor(double, METHOD, adam(double))
    with pytest.raises(InputError, match="expected another method"):
        metaq.Difference(METHOD)
    with pytest.raises(InputError, match="expected a Compressor, which keeps the base"):
        METHOD.bind({"w": nn.Parameter(torch.zeros(3))})
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"'0\.weight': expected finite weights"):
        metaq.Compressor(model, METHOD, adam(model))
