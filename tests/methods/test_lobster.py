"""LOBSTER: its shrinking by hand, its threshold against trying them all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.methods.lobster import largest_threshold


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True),
    st.lists(st.integers(0, 3), min_size=32, max_size=32),
    st.integers(-2, 40),
)
def test_the_threshold_is_the_largest_that_serves(magnitudes, rises, limit):
    """Against all of them, for a loss that never falls."""
    losses = torch.tensor(rises).cumsum(0).tolist()
    ordered = torch.tensor(sorted(magnitudes), dtype=torch.float32)
    found = largest_threshold(ordered, lambda threshold: losses[int(threshold)], limit)
    assert found == max((m for m in magnitudes if losses[m] <= limit), default=0.0)


def test_weights_shrink_by_their_insensitivity_after_the_step():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0]])
    compressor = metaq.Compressor(model, metaq.LOBSTER(strength=0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.tensor([[0.25, 3.0]])).sum().backward()  # gradients 0.25 and 3
    compressor.regularize()
    optimizer.step()
    stepped = torch.tensor([1.0 - 0.5 * 0.25, -2.0 - 0.5 * 3.0])
    assert torch.equal(model.weight.detach()[0], stepped)
    model(torch.zeros(1, 2))
    expected = stepped * (1 - 0.1 * torch.tensor([1 - 0.25, 0.0]))
    torch.testing.assert_close(model.weight.detach()[0], expected)
    model(torch.zeros(1, 2))  # only once
    torch.testing.assert_close(model.weight.detach()[0], expected)


def test_a_parameter_without_gradient_shrinks_by_the_whole_strength():
    model = nn.Linear(2, 2)
    model.weight.data.fill_(1.0)
    compressor = metaq.Compressor(model, metaq.LOBSTER(strength=0.25))
    compressor.regularize()
    model(torch.zeros(1, 2))
    assert torch.equal(model.weight.detach(), torch.full((2, 2), 0.75))


def test_pruning_waits_for_the_plateau_and_is_for_good():
    model = nn.Linear(4, 1, bias=False)
    compressor = metaq.Compressor(model, metaq.LOBSTER(strength=0.0, tolerated_worsening=0.1, plateau_epochs=2))
    model.weight.data = torch.tensor([[0.001, 1.0, -0.02, 0.9]])
    losses = []

    def loss():
        losses.append(1.0 + float((model.weight.detach() != 0).logical_not().sum()) * 0.04)
        return losses[-1]

    compressor.end_epoch(loss)
    compressor.end_epoch(loss)
    assert len(losses) == 2
    assert int((model.weight == 0).sum()) == 0
    compressor.end_epoch(loss)  # the second without improvement
    assert torch.equal(model.weight.detach(), torch.tensor([[0.0, 1.0, 0.0, 0.9]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        compressor.regularize()
        optimizer.step()
    decoded = compressor.compress().decompress()["weight"]
    assert (decoded == 0).tolist() == [[True, False, True, False]]
    assert (model.weight == 0).tolist() == [[True, False, True, False]]


def test_nothing_shrinks_in_the_last_phase():
    model = nn.Linear(2, 2)
    model.weight.data.fill_(1.0)
    compressor = metaq.Compressor(model, metaq.LOBSTER(strength=0.25))
    compressor.begin_last_phase()
    compressor.regularize()
    model(torch.zeros(1, 2))
    assert torch.equal(model.weight.detach(), torch.ones(2, 2))


def test_nothing_more_is_pruned_in_the_last_phase():
    model = nn.Linear(4, 1)
    compressor = metaq.Compressor(model, metaq.LOBSTER(plateau_epochs=1, tolerated_worsening=100.0))
    compressor.begin_last_phase()
    for _ in range(3):
        compressor.end_epoch(lambda: 1.0)
    assert int((model.weight == 0).sum()) == 0


def test_alone_it_quantizes_finely():
    model = nn.Linear(30, 30)
    compressor = metaq.Compressor(model, metaq.LOBSTER(radius=127))
    before = model.weight.detach().clone()
    decoded = compressor.compress().decompress()["weight"]
    assert float((decoded - before).abs().max()) <= float(before.abs().max()) / 127 / 2 * 1.001
    model.eval()
    model(torch.zeros(1, 30))
    assert torch.equal(model.weight.detach(), decoded)
    model.train()
    model(torch.zeros(1, 30))
    assert torch.equal(model.weight.detach(), before)
    model.bias.data.zero_()
    assert torch.equal(compressor.compress().decompress()["bias"], torch.zeros(30))


@pytest.mark.parametrize(
    "options", [{"strength": -1.0}, {"tolerated_worsening": -0.1}, {"plateau_epochs": 0}, {"radius": 0}]
)
def test_configurations_are_checked(options):
    with pytest.raises(InputError, match=f"LOBSTER {next(iter(options))}"):
        metaq.LOBSTER(**options)
