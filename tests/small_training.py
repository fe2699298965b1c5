"""A small network, a loop that trains it with a method, and what the tests of the compressor compare."""

import pytest
import torch
from torch import nn

import metaq

INPUTS = torch.randn(64, 12, generator=torch.Generator().manual_seed(9))
LABELS = torch.arange(64) % 4
METHODS = {
    "metaq": metaq.METaQ(strength=1e-3, step=0.1, refresh_every=2),
    "hemp": metaq.HEMP(order=1, levels=7, refresh_every=3),
    "lobster": metaq.LOBSTER(strength=1e-2),
}
METAQ = METHODS["metaq"]
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4))


def loss(model, rows=slice(None)):
    """On the model's device and in its dtype."""
    inputs = INPUTS[rows].to(next(model.parameters()))
    return nn.functional.cross_entropy(model(inputs), LABELS[rows].to(inputs.device))


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def train(model, compressor, optimizer, steps=6):
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        compressor.regularize()
        optimizer.step()


def trained(method, steps=6, **options):
    """Model, compressor and optimizer after a few steps."""
    model = network()
    optimizer = adam(model)
    compressor = metaq.Compressor(model, method, optimizer, **options)
    train(model, compressor, optimizer, steps)
    return model, compressor, optimizer


def digest(model):
    return metaq.metrics.digest(model.state_dict())


def digest_of_latents(model, compressor):
    with compressor.latent_weights():
        return digest(model)


def reference(method=METAQ, steps=6):
    """The latent weights' digest after the plainest of loops."""
    return digest_of_latents(*trained(method, steps)[:2])


def assert_shows_the_file(model, compressor):
    """The parameters are those that a decoder of the file gives back."""
    decoded = compressor.compress().decompress()
    for name, tensor in model.state_dict().items():
        assert torch.equal(decoded[name], tensor.cpu()), name
        assert decoded[name].dtype == tensor.dtype
