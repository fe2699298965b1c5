"""Learned steps: their gradient by finite differences, and that they find a better step."""

import torch
from torch import nn

import metaq
from metaq.methods.metaq.config import LevelPlacement
from metaq.methods.metaq.learned_steps import LearnedSteps
from metaq.methods.metaq.method import METaQ
from metaq.methods.metaq.quantized_view import QuantizedView


def test_gradient_of_the_loss_part_and_of_the_regulariser():
    """Straight through, ŵ moves with log s by ŵ - w within the levels and by ŵ outside; φ(w/s) by -Σ β w."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(50, generator=generator))
    view = QuantizedView([parameter], [0.25], 4)
    learned = LearnedSteps(view, 1e-3)
    latent = parameter.detach().clone()
    gradient = torch.randn(50, generator=generator)
    slopes = torch.randn(1, 9, 2, generator=generator)
    view.put_quantized()
    quantized = parameter.detach().clone()
    parameter.grad = gradient.clone()
    learned.on_loss_gradients()
    view.add_slopes(slopes, 0.5)
    beta = (parameter.grad - gradient) / 0.5
    learned.on_all_gradients()
    is_inside = latent.abs() <= 1.0
    assert 0 < int(is_inside.sum()) < 50
    expected = gradient @ (quantized - latent * is_inside) - 0.5 * (beta @ latent)
    torch.testing.assert_close(learned.logarithms.grad.float(), expected[None], rtol=1e-4, atol=1e-5)
    assert view.steps[0] != 0.25


def test_learned_steps_fit_what_fixed_ones_cannot():
    """Targets on multiples of 0.3, levels that begin at multiples of 0.25."""
    targets = 0.3 * torch.randint(-3, 4, (200,), generator=torch.Generator().manual_seed(1)).float()
    errors = []
    for levels in (LevelPlacement.FIXED, LevelPlacement.LEARNED):
        model = nn.Linear(200, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(targets + 0.02)
            model.weight[0, 0] = 1.0
        config = METaQ(strength=0.0, step=0.25, radius=6, levels=levels, step_learning_rate=0.01)
        compressor = metaq.Compressor(model, config)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            compressor.show(True)
            (model.weight[0] - targets).square().sum().backward()
            compressor.regularize()
            optimizer.step()
        compressor.bound.on_forward(False)
        errors.append(float((model.weight.detach()[0] - targets).square().mean()))
    assert errors[1] < 0.1 * errors[0]
