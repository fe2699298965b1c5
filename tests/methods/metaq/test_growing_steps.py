"""Steps that METaQ takes from an error: far weights, tensors without a scale, growth, and what a checkpoint keeps."""

import pytest
import torch
from torch import nn

import metaq
from metaq.experiments import data
from metaq.methods.metaq.config import Slopes
from metaq.methods.metaq.growing_steps import GrowingSteps
from metaq.methods.metaq.objectives import code_lengths, open_slope_table, slope_table
from metaq.methods.training import Ranks


def counts_of(weights, step, radius=511):
    symbols = (weights / step).round().clamp(-radius, radius).long().flatten()
    return torch.bincount(symbols + radius, minlength=2 * radius + 1)[None]


def test_one_weight_far_out_changes_nothing_for_the_others():
    torch.manual_seed(0)
    layer = nn.Linear(300, 200, bias=False)
    nn.init.normal_(layer.weight, std=0.04)
    with torch.no_grad():
        layer.weight[0, 0] = 174 * 0.04
    exact = layer.weight.detach().clone()
    metaq.Compressor(layer, metaq.METaQ(start_error=1e-2)).show(is_training=False)
    changed = (layer.weight.detach() - exact).square().sum() / exact.square().sum()
    assert 0.5e-2 < float(changed) < 1.02e-2
    assert float(layer.weight.detach()[0, 0]) == pytest.approx(174 * 0.04, rel=0.01)
    assert float((layer.weight == 0).float().mean()) < 0.5


def test_steps_double_with_their_tensor_and_never_shrink():
    torch.manual_seed(0)
    weights = [torch.randn(100, 50), torch.randn(64)]
    growing = GrowingSteps(weights, 1e-2, 0, Ranks())
    before = growing.steps

    def grown(scale):
        counts = [counts_of(scale * tensor, step) for tensor, step in zip(weights, before, strict=True)]
        return growing.grown(before, torch.cat(counts))

    assert grown(1.0) == grown(0.01) == grown(1.9) == before
    assert grown(2.1) == [2 * step for step in before]
    assert grown(4.3) == [4 * step for step in before]


def test_zeros_begin_with_tiny_steps_by_their_fan_in_and_are_left_alone_at_first():
    growing = GrowingSteps([torch.zeros(10, 400), torch.zeros(3), torch.randn(5, 400)], 1e-3, 1000, Ranks())
    assert growing.steps[0] == pytest.approx(2**-20 / 20, rel=0.1)
    assert growing.steps[1] == pytest.approx(2**-20, rel=0.1)
    assert growing.free(99) == [0, 1]
    assert growing.free(100) == []


@pytest.mark.parametrize("slopes", Slopes)
def test_open_slopes_are_those_of_the_levels_that_nearly_all_weights_take(slopes):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(50_000, generator=generator) * 2
    far = torch.cat([weights, torch.tensor([300.0, -200.0])])
    levels = torch.arange(-511.0, 512.0, dtype=torch.float64)[None]
    found = open_slope_table(slopes, counts_of(far, 1.0), levels)[0]
    radius = int(found.abs().sum(dim=1).nonzero().sub(511).abs().max())
    assert 6 <= radius <= 10
    core = slice(511 - radius, 511 + radius + 1)
    expected = slope_table(slopes, code_lengths(counts_of(far, 1.0)[:, core]), levels[:, core])[0]
    torch.testing.assert_close(found[core][1:-1], expected[1:-1], rtol=1e-5, atol=1e-5)
    assert found[core][0, 0] == found[core][-1, 1] == 0


def train(start, method, epochs=12, stop_at=None):
    """(Accuracy on held-out digits of a net of two layers, whose tensors begin as ``start`` says, its compressor)."""
    digits = data.by_name("digits")(200)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(digits.train.inputs[0].numel(), 100), nn.ReLU(), nn.Linear(100, 10))
    for layer, deviation in start.items():
        nn.init.normal_(model[layer].weight, std=deviation)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = -(-len(digits.train) // 64)
    compressor = method and metaq.Compressor(model, method, optimizer=optimizer, training_steps=epochs * batches)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train), generator=generator).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits.train.inputs[batch]), digits.train.labels[batch])
            loss.backward()
            if compressor:
                compressor.regularize()
            optimizer.step()
    with torch.no_grad():
        right = model(digits.test.inputs).argmax(dim=1) == digits.test.labels
    return float(right.float().mean()), compressor


@pytest.mark.slow
@pytest.mark.parametrize("start", [{1: 1e-5}, {3: 0.0}, {3: 1e-5}, {1: 0.0}])
def test_a_layer_that_begins_at_nothing_learns_as_in_float(start):
    in_float, _ = train(start, None)
    quantized, compressor = train(start, metaq.METaQ(strength=1e-6))
    assert in_float > 0.94
    assert quantized > in_float - 0.015
    assert compressor.measure()["bits_per_weight"] < 6


def test_growth_goes_on_from_a_checkpoint():
    def bound(scale):
        torch.manual_seed(0)
        layer = nn.Linear(30, 20)
        nn.init.normal_(layer.weight, std=scale)
        return layer, metaq.METaQ().bind(dict(layer.named_parameters()))

    layer, method = bound(1e-5)
    with torch.no_grad():
        layer.weight.mul_(1000)
    method.on_forward(True)
    other_layer, other = bound(3.0)  # what it is bound to does not count
    other_layer.load_state_dict(layer.state_dict())
    other.load_state_dict(method.state_dict())
    assert other.view.steps == method.view.steps
    assert torch.equal(other.growing.mean_squares, method.growing.mean_squares)
    assert other.growing.free(0) == method.growing.free(0) == [0]
    for each in (method, other):
        each.restore_weights()
    assert torch.equal(layer.weight, other_layer.weight)
