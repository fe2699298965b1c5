"""The native kernels against the tensor operations, and both against the definition."""

import pytest
import torch
from torch import nn

from metaq.methods.metaq.quantized_view import QuantizedView


def parameters_and_view(radius=4, is_native=True, is_open=False):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(7, 5, generator=generator), torch.randn(11, generator=generator) * 3, torch.zeros(0, 3)]
    weights[1][:5] = torch.tensor([0.25, -0.25, 0.75, 1e30, -0.0])  # ties, an outlier, a negative zero
    weights[0][3, 1:4] = torch.tensor([radius * 0.25, -radius * 0.25, radius * 0.25 + 1e-6])  # limits
    parameters = [nn.Parameter(weight) for weight in weights]
    view = QuantizedView(parameters, [0.25, 0.5, 1.0], radius, is_open=is_open)
    view._is_native = lambda: is_native
    return parameters, view


@pytest.mark.parametrize("is_native", [True, False])
def test_shows_nearest_levels_and_counts_them(is_native):
    parameters, view = parameters_and_view(is_native=is_native)
    latents = [parameter.detach().clone() for parameter in parameters]
    counts = view.put_quantized(count=True)
    for parameter, latent, step, row in zip(parameters, latents, view.steps, counts, strict=True):
        symbols = (latent / step).clamp(-4, 4).round()
        assert torch.equal(parameter, symbols * step)
        assert not bool(torch.signbit(parameter)[parameter == 0].any())
        assert torch.equal(row, torch.bincount(symbols.flatten().long() + 4, minlength=9))
    view.put_latent()
    assert all(map(torch.equal, parameters, latents))


@pytest.mark.parametrize("is_native", [True, False])
def test_open_levels_reach_as_far_as_the_weights(is_native):
    parameter = nn.Parameter(torch.tensor([0.1, -0.9, 4.2, -87.0]))
    view = QuantizedView([parameter], [0.5], 2, is_open=True)
    view._is_native = lambda: is_native
    counts = view.put_quantized(count=True)
    assert parameter.tolist() == [0.0, -1.0, 4.0, -87.0]
    assert counts.tolist() == [[2, 0, 1, 0, 1]]
    view.add_slopes(torch.ones(1, 5, 2), 1.0)
    assert parameter.grad.tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("is_open", [True, False])
def test_both_paths_are_equal_to_the_last_bit(is_open):
    results = []
    for is_native in (True, False):
        parameters, view = parameters_and_view(is_native=is_native, is_open=is_open)
        slopes = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(1))
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.125)
        view.put_quantized()
        view.add_slopes(slopes, 0.5)
        results.append([*parameters, *(parameter.grad for parameter in parameters)])
    assert all(map(torch.equal, *results))


def test_slopes_are_those_of_the_weights_side_and_none_outside():
    parameter = nn.Parameter(torch.tensor([0.1, -0.1, 0.5, 0.9, 1.1, 5.0]))
    view = QuantizedView([parameter], [1.0], 1)
    slopes = torch.tensor([[[-9.0, -1.0], [-2.0, 2.0], [3.0, 4.0]]])
    view.add_slopes(slopes, 1.0)
    assert parameter.grad.tolist() == [2.0, -2.0, 2.0, 3.0, 0.0, 0.0]


def test_views_of_other_layouts_take_the_general_path():
    parameter = nn.Parameter(torch.randn(6, 4).clamp(-3, 3).t())
    view = QuantizedView([parameter], [0.1], 30)
    latent = parameter.detach().clone()
    view.put_quantized()
    torch.testing.assert_close(parameter.detach(), latent, atol=0.051, rtol=0)
    view.put_latent()
    assert torch.equal(parameter, latent)


def test_a_nan_never_becomes_an_index():
    weights = torch.linspace(-0.5, 0.5, 11)  # eight of them are worked on at a time
    weights[[2, 4, 6, 8, 9]] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.25, float("nan")])
    parameter = nn.Parameter(weights.clone())
    view = QuantizedView([parameter], [0.1], 3)
    assert int(view.put_quantized(count=True).sum()) == 11
    view.add_slopes(torch.ones(1, 7, 2), 1.0)
    assert torch.equal(parameter.isnan(), weights.isnan())
    assert parameter.grad.tolist() == [0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0]
