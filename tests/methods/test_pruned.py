"""Methods together with pruning: HEMP and METaQ with LOBSTER."""

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.experiments.recipe import as_tree, load_recipe, recipe_from

METHODS = {
    "hemp": metaq.HEMP(levels=5, zero_level=True),
    "hemp, straight-through": metaq.HEMP(levels=5, zero_level=True, straight_through=True),
    "metaq": metaq.METaQ(strength=1e-3),
}
LOBSTER = metaq.LOBSTER(strength=1e-2, tolerated_worsening=0.2, plateau_epochs=1)
BATCH = (torch.randn(64, 12, generator=torch.Generator().manual_seed(9)), torch.arange(64) % 4)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def loss_of(model):
    return nn.functional.cross_entropy(model(BATCH[0]), BATCH[1])


def train(model, compressor, optimizer, epochs):
    for _ in range(epochs):
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(model).backward()
            compressor.regularize()
            optimizer.step()
        compressor.end_epoch(lambda: float(loss_of(model).detach()))


@pytest.mark.parametrize("name", METHODS)
def test_pruned_weights_are_zero_in_the_file_and_stay_so(name):
    model = small()
    compressor = metaq.Compressor(model, metaq.Pruned(METHODS[name], LOBSTER))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, compressor, optimizer, 15)
    for _ in range(2):  # without training the second time brings no better loss
        compressor.end_epoch(lambda: float(loss_of(model).detach()))
    kept = compressor.bound.pruning.kept
    assert kept is not None
    pruned = sum(int((~mask).sum()) for mask in kept)
    assert pruned > 20
    train(model, compressor, optimizer, 1)
    decoded = compressor.compress().decompress()
    for mask, tensor in zip(kept, decoded.values(), strict=True):
        assert not bool(tensor[~mask].any())


@pytest.mark.parametrize("name", METHODS)
def test_the_pruning_sees_the_gradient_of_the_loss_alone(name):
    factors = []
    for pruned in (True, False):
        model = small()
        method = metaq.Pruned(METHODS[name], LOBSTER) if pruned else METHODS[name]
        compressor = metaq.Compressor(model, method)
        loss_of(model).backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        compressor.regularize()
        if pruned:
            factors = [1 - 1e-2 * torch.relu(1 - gradient.abs()) for gradient in gradients]
            for found, expected in zip(compressor.bound.pruning.factors, factors, strict=True):
                torch.testing.assert_close(found, expected)
        else:  # and adds its own to the same
            assert any(
                not torch.equal(parameter.grad, gradient)
                for parameter, gradient in zip(model.parameters(), gradients, strict=True)
            )


def test_metaqs_latent_weights_shrink_not_the_quantized_ones():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.9)
    compressor = metaq.Compressor(model, metaq.Pruned(metaq.METaQ(strength=0.0, step=0.5), metaq.LOBSTER(strength=0.1)))
    model(torch.zeros(1, 1)).sum().backward()
    compressor.regularize()
    assert float(model.weight.detach()) == pytest.approx(0.9)
    model(torch.zeros(1, 1))
    compressor.bound.restore_weights()
    assert float(model.weight.detach()) == pytest.approx(0.81)


@pytest.mark.parametrize("name", METHODS)
def test_in_the_last_phase_the_zero_pattern_stays(name):
    model = small()
    compressor = metaq.Compressor(model, metaq.Pruned(METHODS[name], LOBSTER))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, compressor, optimizer, 2)
    zeros = [tensor == 0 for tensor in compressor.compress().decompress().values()]
    assert any(map(bool, (mask.any() for mask in zeros)))
    compressor.begin_last_phase()
    train(model, compressor, optimizer, 2)
    for mask, tensor in zip(zeros, compressor.compress().decompress().values(), strict=True):
        assert not bool(tensor[mask].any())


def test_a_method_without_a_level_at_zero_is_refused():
    model = small()
    compressor = metaq.Compressor(model, metaq.Pruned(metaq.HEMP(levels=2), LOBSTER))
    model[0].weight.data[0, 0] = 0.0
    with pytest.raises(InputError, match=r"'0\.weight': expected a level at zero"):
        compressor.compress()


@pytest.mark.parametrize("name", METHODS)
def test_state_round_trip(name):
    results = []
    method = metaq.Pruned(METHODS[name], LOBSTER)
    for interrupted in (False, True):
        model = small()
        compressor = metaq.Compressor(model, method)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        train(model, compressor, optimizer, 6)
        if interrupted:
            saved = compressor.state_dict(), model.state_dict()
            model = small(1)
            model.load_state_dict(saved[1])
            compressor = metaq.Compressor(model, method)
            compressor.load_state_dict(saved[0])
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        train(model, compressor, optimizer, 6)
        results.append(metaq.metrics.digest(compressor.compress().decompress()))
    assert results[0] == results[1]


def test_recipes_have_a_pruning_section():
    overrides = ["pruning.name=lobster", "pruning.strength=1e-3"]
    recipe = load_recipe("lenet5-digits", overrides)
    assert recipe.compression == metaq.Pruned(recipe.method.configuration, metaq.LOBSTER(strength=1e-3))
    assert recipe_from(recipe.name, as_tree(recipe)) == recipe
    assert "pruning" not in as_tree(load_recipe("lenet5-digits"))
