"""Steps from an error, against the weights themselves."""

import pytest
import torch

from metaq.solvers.start_steps import (
    BINS,
    common_slope_steps,
    largest_magnitudes,
    magnitude_histogram,
    root_mean_squares,
)


def tensors_of_many_scales():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(20_000, generator=generator) * 0.03,
        torch.rand(9_000, generator=generator) * 2 - 1,
        torch.randn(20_000, generator=generator).pow(3) * 1e-4,  # with a weight far out
        torch.randn(700, generator=generator) * 1e-20,
        torch.zeros(50),
    ]
    tensors[2][0] = 0.174
    return tensors


def histograms_of(tensors):
    return torch.stack([magnitude_histogram(tensor) for tensor in tensors])


def relative_error(tensors, steps):
    """Σ ‖w - ŵ‖² / Σ ‖w‖², of the weights themselves."""
    exact = [tensor.to(torch.float64) for tensor in tensors]
    rounded = [(tensor / step).round() * step for tensor, step in zip(exact, steps.tolist(), strict=True)]
    errors = sum((weights - found).square().sum() for weights, found in zip(exact, rounded, strict=True))
    return float(errors / sum(weights.square().sum() for weights in exact))


@pytest.mark.parametrize("error", [1e-4, 1e-3, 0.03, 0.3])
def test_the_largest_steps_within_the_error_by_brute_force(error):
    tensors = tensors_of_many_scales()
    steps = common_slope_steps(histograms_of(tensors), error)
    assert relative_error(tensors, steps) <= 1.02 * error
    factors = [2 ** (k / 16) for k in (1, 2, 4, 8, 16, 32, 64, 128)]
    assert all(relative_error(tensors, factor * steps) > 0.98 * error for factor in factors)


def test_steps_scale_with_their_tensor():
    tensors = tensors_of_many_scales()
    steps = common_slope_steps(histograms_of(tensors), 1e-3)
    scaled = common_slope_steps(histograms_of([4.0 * tensor for tensor in tensors]), 1e-3)
    torch.testing.assert_close(scaled[:4], 4 * steps[:4], rtol=1e-9, atol=0)


def test_shards_give_the_same_steps_exactly():
    tensors = tensors_of_many_scales()
    parts = [torch.tensor_split(tensor, (3, 3, 41)) for tensor in tensors]
    shards = sum(histograms_of(shard) for shard in zip(*parts, strict=True))
    assert torch.equal(shards, histograms_of(tensors))
    assert torch.equal(common_slope_steps(shards, 1e-3), common_slope_steps(histograms_of(tensors), 1e-3))


def test_statistics_of_histograms():
    tensors = tensors_of_many_scales()
    histograms = histograms_of(tensors)
    assert histograms.shape == (5, BINS)
    assert histograms.sum(dim=1).tolist() == [tensor.numel() for tensor in tensors]
    expected = torch.stack([tensor.to(torch.float64).square().mean().sqrt() for tensor in tensors])
    torch.testing.assert_close(root_mean_squares(histograms), expected, rtol=1e-3, atol=0)
    greatest = torch.stack([tensor.abs().max() for tensor in tensors])[:4].to(torch.float64)
    bounds = largest_magnitudes(histograms)[:4]
    assert bool((bounds >= greatest).all())
    assert bool((bounds <= greatest * (1 + 1 / 32)).all())


@pytest.mark.parametrize("tensors", [[torch.zeros(7)], [torch.zeros(0)], [torch.tensor([1e-42])]])
def test_tensors_without_weights_to_speak_of_have_steps_all_the_same(tensors):
    (step,) = common_slope_steps(histograms_of(tensors), 1e-3).tolist()
    assert 0 < step < float("inf")
