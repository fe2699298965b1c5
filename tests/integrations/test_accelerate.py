"""A plain loop with accelerate, around a `Compressor`."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import metaq
from metaq.errors import InputError

accelerate = pytest.importorskip("accelerate")

METHOD = metaq.METaQ(strength=1e-3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3))


def samples():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(96, 12, generator=generator)
    return TensorDataset(features, (features @ torch.randn(12, 3, generator=generator)).argmax(1))


def prepared(model, parts):
    accelerate.Accelerator().free_memory()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    return accelerator, *accelerator.prepare(model, optimizer, DataLoader(samples(), batch_size=8))


@pytest.mark.parametrize("parts", [1, 3])
def test_is_the_loop_without_accelerate_bit_for_bit(parts):
    model = network()
    accelerator, wrapped, optimizer, loader = prepared(model, parts)
    compressor = metaq.Compressor(wrapped, METHOD, optimizer, training_steps=12 // parts)
    for features, labels in loader:
        with accelerator.accumulate(wrapped):
            accelerator.backward(cross_entropy(wrapped(features), labels))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), 0.05)
                compressor.regularize()
            optimizer.step()
            optimizer.zero_grad()
    compressor.detach()

    other = network()
    plain = torch.optim.SGD(other.parameters(), lr=1e-2)
    compressor = metaq.Compressor(other, METHOD, plain, training_steps=12 // parts)
    for place, (features, labels) in enumerate(DataLoader(samples(), batch_size=8), start=1):
        (cross_entropy(other(features), labels) / parts).backward()
        if place % parts == 0:
            nn.utils.clip_grad_norm_(other.parameters(), 0.05)
            compressor.regularize()
            plain.step()
            plain.zero_grad()
    compressor.detach()
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name]), name


def test_a_step_without_regularize_is_refused():
    accelerator, wrapped, optimizer, loader = prepared(network(), 1)
    metaq.Compressor(wrapped, METHOD, optimizer, training_steps=12)
    features, labels = next(iter(loader))
    accelerator.backward(cross_entropy(wrapped(features), labels))
    with pytest.raises(InputError, match=r"optimizer.step\(\): expected regularize\(\)"):
        optimizer.step()
