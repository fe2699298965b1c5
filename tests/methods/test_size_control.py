"""Training to a size: the pieces by brute force and arithmetic, and that the size is met in short trainings."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import metaq
from metaq.compressed_model import encode
from metaq.errors import InputError
from metaq.experiments.data import by_name
from metaq.experiments.loop import evaluate
from metaq.experiments.models import LeNet5
from metaq.methods.size_control import (
    SizeControl,
    SizeTarget,
    balanced_strength,
    cheapest,
    entropy_bytes,
    relative_prices,
)
from metaq.methods.training import Training


@given(seed=st.integers(0, 1000), rate_weight=st.sampled_from([0.0, 0.01, 0.3, 5.0, -0.02]))
@settings(max_examples=40, deadline=None)
def test_cheapest_levels_by_brute_force(seed, rate_weight):
    generator = torch.Generator().manual_seed(seed)
    weights = 4 * torch.randn(30, generator=generator, dtype=torch.float64)
    lengths = 12 * torch.rand(7, generator=generator, dtype=torch.float64)
    levels = torch.randn(7, generator=generator, dtype=torch.float64).sort().values
    costs = (weights[:, None] - levels).square() + rate_weight * lengths
    chosen = costs.gather(1, cheapest(weights, levels, lengths, rate_weight)[:, None].long())[:, 0]
    torch.testing.assert_close(chosen, costs.min(dim=1).values)


def test_the_entropy_of_histograms():
    assert entropy_bytes(torch.tensor([[4, 4], [8, 0]])) == 1.0  # a bit for each of eight weights, and none
    assert entropy_bytes(torch.tensor([[1, 1, 2]])) == pytest.approx(6 / 8)


def bound(method=None, length=100):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10))
    method = method or metaq.METaQ(target_bytes=600)
    found = method.bind(dict(model.named_parameters()), Training(length))
    found.on_forward(True)
    return model, found


def test_a_balanced_strength_makes_both_gradients_equally_large():
    model, found = bound()
    model(torch.randn(8, 60)).square().sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    strength = balanced_strength(found)
    after = [parameter.grad for parameter in model.parameters()]
    assert all(torch.equal(gradient, other) for gradient, other in zip(after, before, strict=True))
    found.add_regularizer(strength)
    added = [gradient - other for gradient, other in zip(after, before, strict=True)]
    norms = [math.sqrt(sum(float(t.square().sum()) for t in tensors)) for tensors in (before, added)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_bit_is_cheap_in_tensors_of_small_gradients():
    model, found = bound()
    for parameter, gradient in zip(model.parameters(), (0.1, 0.3, 0.3, 1.0), strict=True):
        parameter.grad = torch.full_like(parameter, gradient)
    distances = found.level_distances()
    prices = relative_prices(found)
    costs = [
        price * (gradient * distance) ** 2
        for price, gradient, distance in zip(prices, (0.1, 0.3, 0.3, 1.0), distances, strict=True)
    ]
    assert costs == pytest.approx([costs[0]] * 4)
    assert math.prod(prices) == pytest.approx(1.0)


def test_weights_without_a_gradient_do_not_make_a_bit_dearer_or_cheaper():
    model, found = bound()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    before = relative_prices(found)
    next(model.parameters()).grad[1:] = 0
    assert relative_prices(found) == pytest.approx(before)


class Plant:
    """A method whose size halves in 100 steps at a strength of 1, and grows a little at none."""

    def __init__(self, length):
        self.size, self.training_step, self.rate_weight = 10_000.0, 0, 0.0
        self.control = SizeControl(1000, length)
        self.control.lasting_strength, self.control.largest_strength = 0.01, 100.0

    def coded_bytes(self):
        return self.size / 2

    def step(self):
        self.control.on_size(self, lambda: round(self.size))
        self.size *= 2 ** (-(self.control.strength**0.5) / 100 + 0.0005)
        self.training_step += 1


def test_the_strength_leads_the_size_along_the_path():
    plant = Plant(1000)
    plant.begin_moves, plant.move_weights = int, int  # as if nothing were to be moved
    for step in range(790):
        plant.step()
        if 460 < step < 700:
            assert plant.size == pytest.approx(plant.control._path(step / 1000), rel=0.1)
    assert plant.size == pytest.approx(1030, rel=0.25)


@pytest.mark.parametrize("target", [300, 2_000])
def test_levels_are_as_fine_as_the_target_needs(target):
    model, found = bound(metaq.METaQ(target_bytes=target))
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert entropy_bytes(found.counts) >= target + weights / 8


@pytest.mark.parametrize("zero_level", [False, True])
@pytest.mark.parametrize(("target", "levels"), [(100, 3), (500, 6), (3_000, 16)])
def test_hemp_has_as_many_levels_as_the_target_needs(target, levels, zero_level):
    config = metaq.HEMP(zero_level=zero_level, refresh_every=30)
    model, found = bound(metaq.Sized(config, target), length=80)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert [len(tensor) for tensor in found.levels] == [levels] * 4
    assert found.config.refresh_every == 2
    if levels < config.levels:
        assert found.coded_bytes() >= target + weights / 8
    other = config.bind(dict(bound()[0].named_parameters()), Training(80))
    other.control = SizeControl(target, 80)
    other.load_state_dict(found.state_dict())
    assert other.config.levels == levels
    assert other.zero == found.zero
    assert entropy_bytes(other._counts(0.0)) == found.coded_bytes()


def test_levels_of_hemp_stay_where_the_size_is_held():
    model, found = bound(metaq.Sized(metaq.HEMP(), 600), length=40)
    for is_last_phase in (False, True):
        if is_last_phase:
            found.on_last_phase()
        before = found.levels
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
            parameter.data.mul_(1.1)
        found.training_step = 30
        found.adjust_gradients()
        are_same = [torch.equal(levels, others) for levels, others in zip(found.levels, before, strict=True)]
        assert are_same == [is_last_phase] * 4


@pytest.mark.parametrize("options", [{}, {"target_bytes": 5, "target_ratio": 2.0}, {"target_ratio": -1.0}])
def test_targets_that_make_no_sense_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        metaq.Sized(metaq.HEMP(), **options)


def test_a_ratio_is_of_float32_bytes():
    assert SizeTarget(ratio=8.0).bytes_for(1000) == 500
    assert SizeTarget(700).bytes_for(1000) == 700


@pytest.mark.parametrize(
    "method", [metaq.METaQ(target_ratio=9.0), metaq.Sized(metaq.HEMP(), 100), metaq.Sized(metaq.LC(), 100), metaq.LC()]
)
def test_an_unknown_length_is_refused(method):
    with pytest.raises(InputError, match=r"training's length, found none; give Compressor\(..., training_steps="):
        metaq.Compressor(nn.Linear(20, 10), method)


def test_methods_without_a_size_are_refused():
    with pytest.raises(InputError, match="expected METaQ, HEMP or LC, found BoundLOBSTER"):
        metaq.Compressor(nn.Linear(20, 10), metaq.Sized(metaq.LOBSTER(), 100), training_steps=10)


def trained(method, epochs, seed=0):
    """The README's loop on the digits; the file's bytes, and its accuracy on the test set."""
    data = by_name("digits")(200)
    torch.manual_seed(seed)
    model = LeNet5()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = epochs * math.ceil(len(data.train) / 32)
    compressor = metaq.Compressor(model, method, optimizer, training_steps=steps)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(data.train)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train.inputs[batch]), data.train.labels[batch]).backward()
            compressor.regularize()
            optimizer.step()
    return len(encode(compressor.compress())), evaluate(model, data.test).accuracy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "size_bytes", "accuracy"),
    [
        (metaq.METaQ(target_bytes=1000), 1000, 0.85),
        (metaq.METaQ(target_bytes=3000), 3000, 0.92),
        (metaq.METaQ(target_ratio=17.7704), 10_000, 0.92),
        (metaq.Sized(metaq.LC(), target_bytes=1000), 1000, 0.85),
        (metaq.Sized(metaq.LC(), target_bytes=3000), 3000, 0.9),
        (metaq.Sized(metaq.HEMP(), target_bytes=1000), 1000, 0.85),
        (metaq.Sized(metaq.HEMP(), target_bytes=3000), 3000, 0.93),
        (metaq.Sized(metaq.HEMP(), target_bytes=10_000), 10_000, 0.94),
    ],
)
def test_a_size_is_all_that_a_training_loop_needs_to_give(method, size_bytes, accuracy):
    found = [trained(method, 10, seed) for seed in range(3)]
    sizes = [found_bytes / size_bytes for found_bytes, _ in found]
    assert max(sizes) <= 1.02
    assert statistics.mean(sizes) >= 0.98  # one of them may end smaller, which is told
    assert statistics.mean(found_accuracy for _, found_accuracy in found) > accuracy


@pytest.mark.slow
@pytest.mark.parametrize("method", [metaq.METaQ(), metaq.HEMP(), metaq.LC(), metaq.DeepCompression()], ids=str)
def test_a_bare_method_gives_a_good_network(method):
    size_bytes, accuracy = trained(method, 10)
    assert accuracy > 0.92
    assert size_bytes < 20_000
