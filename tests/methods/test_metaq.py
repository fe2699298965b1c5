"""METaQ: its gradient by finite differences, its two exact blocks, and its hooks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.methods.metaq import Levels, METaQ, Objective, Slopes
from metaq.methods.metaq_objectives import slope_table
from metaq.solvers import knapsack


def code_length_objective(xi, levels, weights):
    return float(knapsack.solve(xi, levels, weights).value.sum())


def shannon(found, count):
    """The best code lengths for a relaxed assignment: ``-log2(c_b / n)``, empty levels at a length they never pay."""
    mass = torch.zeros(count, dtype=torch.float64)
    mass.scatter_add_(0, found.left, found.mass).scatter_add_(0, found.right, 1 - found.mass)
    return -(mass.clamp(min=1e-30) / mass.sum()).log2()


@given(seed=st.integers(0, 1000), count=st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_alternating_never_raises_the_objective(seed, count):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.linspace(-1, 1, count, dtype=torch.float64)
    weights = torch.randn(200, generator=generator, dtype=torch.float64).clamp(-3, 3) / 3
    xi = -torch.rand(count, generator=generator, dtype=torch.float64).log_softmax(0) / torch.log(torch.tensor(2.0))
    last = code_length_objective(xi, levels, weights)
    for _ in range(8):
        xi = shannon(knapsack.solve(xi, levels, weights), count)
        now = code_length_objective(xi, levels, weights)
        assert now <= last + 1e-9 * abs(last)
        last = now


def bound_linear(**options):
    torch.manual_seed(0)
    model = nn.Linear(40, 30)
    compressor = metaq.Compressor(model, METaQ(step=0.1, radius=12, **options))
    return model, compressor


def test_gradient_is_the_derivative_of_the_hull_of_the_code_lengths():
    model, compressor = bound_linear(strength=0.5, slopes=Slopes.HULL)
    bound = compressor.bound
    model.weight.grad, model.bias.grad = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    weights = model.weight.detach().clone()
    compressor.regularize()
    step = float(bound.view.steps[0])
    levels = torch.arange(-12, 13, dtype=torch.float64) * step
    symbols = (weights / step).round().clamp(-12, 12).to(torch.int64)
    counts = torch.bincount(symbols.flatten() + 12, minlength=25).double() + 0.1
    xi = -(counts / counts.sum()).log2()
    small = 1e-6
    higher = knapsack.solve(xi, levels, weights.double() + small).value
    lower = knapsack.solve(xi, levels, weights.double() - small).value
    torch.testing.assert_close(model.weight.grad.double(), 0.5 * (higher - lower) / (2 * small), rtol=1e-3, atol=1e-3)


def test_regularize_adds_to_the_loss_gradient_and_gives_the_weights_back():
    model, compressor = bound_linear(strength=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = model(torch.ones(4, 40)).square().sum()
    assert not torch.equal(model.weight, before["weight"])
    loss.backward()
    expected = model.weight.grad.clone()
    compressor.regularize()
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.weight.grad, expected)


def test_forward_passes_see_exactly_what_compress_gives():
    model, compressor = bound_linear(strength=1e-3)
    model(torch.ones(1, 40))
    seen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decompressed = compressor.compress().decompress()
    assert metaq.metrics.digest(seen) == metaq.metrics.digest(decompressed)


def test_the_last_phase_pins_the_commonest_level_and_trains_the_rest():
    model, compressor = bound_linear(strength=1e-4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    compressor.begin_last_phase()
    before = compressor.compress().tensors["weight"].symbols
    commonest = int(before.flatten().mode().values)
    pinned = before == commonest
    assert 0 < int(pinned.sum()) < pinned.numel()
    for _ in range(5):
        optimizer.zero_grad()
        (model(torch.ones(4, 40)) - 3).square().sum().backward()
        compressor.regularize()
        optimizer.step()
    after = compressor.compress().tensors["weight"].symbols
    assert bool((after[pinned] == commonest).all())
    assert not torch.equal(before, after)


@pytest.mark.parametrize("slopes", Slopes)
def test_slopes_of_a_table_by_hand(slopes):
    """Levels -1 ... 2 with code lengths 4, 1, 3, 3.5: the cheapest level is 0."""
    xi, levels = torch.tensor([[4.0, 1.0, 3.0, 3.5]]), torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    expected = {
        Slopes.HULL: [[-3, -3], [-3, 1.25], [1.25, 1.25], [1.25, 1.25]],
        Slopes.ADJACENT: [[-3, -3], [-3, 2], [2, 0.5], [0.5, 0.5]],
    }
    assert slope_table(slopes, xi, levels)[0].tolist() == expected[slopes]


def test_strength_pulls_weights_together():
    """Without a loss, the regulariser alone makes the symbols cheaper."""
    model, compressor = bound_linear(strength=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sizes = []
    for _ in range(60):
        optimizer.zero_grad()
        compressor.regularize()
        optimizer.step()
        sizes.append(metaq.metrics.entropy_bits(compressor.bound.quantize("weight", model.weight.detach())[1]))
    assert sizes[-1] < 0.7 * sizes[0]


def test_warmup_raises_the_strength_linearly():
    model, compressor = bound_linear(strength=1.0, schedule=((0, 0.0), (4, 1.0)), refresh_every=100)
    sizes = []
    for _ in range(6):
        model.zero_grad()
        compressor.regularize()
        sizes.append(float(model.weight.grad.abs().sum()))
    assert sizes[0] == 0
    ratios = [size / sizes[-1] for size in sizes]
    assert ratios == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], rel=1e-4)


def test_steps_are_short_numbers():
    _, compressor = bound_linear()
    for step in compressor.bound.view.steps:
        mantissa, _ = torch.frexp(torch.tensor(step))
        assert float(mantissa * 16) == int(mantissa * 16)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": -1.0},
        {"strength": float("nan")},
        {"step": 0.0},
        {"radius": 0},
        {"refresh_every": 0},
        {"schedule": ((5, 1.0), (5, 0.0))},
        {"schedule": ((0, -1.0),)},
        {"slopes": Slopes.ADJACENT, "objective": Objective.PERSPECTIVE},
        {"levels": Levels.AROUND_MEAN, "objective": Objective.PERSPECTIVE},
        {"target_bytes": 100},
    ],
)
def test_refuses_what_makes_no_sense(options):
    with pytest.raises(InputError, match=next(iter(options)).replace("target_bytes", "target_steps")):
        METaQ(**options)
