"""Deep Compression: its masks, its shared values and their gradients, and that it resumes."""

import copy

import pytest
import torch
from torch import nn

import metaq
from metaq.errors import InputError
from metaq.methods.deep_compression import DeepCompression, Initialization, initial_levels


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))


def train(model, compressor, optimizer, first, last):
    for step in range(first, last):
        inputs = torch.randn(16, 30, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), torch.arange(16) % 5).backward()
        compressor.regularize()
        optimizer.step()


def non_zeros(model):
    return [int((weights != 0).sum()) for weights in (model[0].weight, model[2].weight)]


METHOD = DeepCompression(
    {"0.weight": 0.25, "*.weight": 0.49}, {"0.*": 4, "*": 3}, rounds=2, start=0.0, round_share=0.05
)


def test_rounds_prune_to_the_share_and_what_is_pruned_stays_zero():
    model = network()
    largest = model[0].weight.detach().abs().flatten().topk(300).indices
    compressor = metaq.Compressor(model, METHOD, training_steps=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    assert non_zeros(model) == [300, 70]  # half and 0.7 of them
    assert bool((model[0].weight.detach().flatten()[largest] != 0).all())
    train(model, compressor, optimizer, 0, 5)
    model(torch.zeros(1, 30))
    assert non_zeros(model) == [150, 49]
    zero = model[0].weight.detach() == 0
    train(model, compressor, optimizer, 5, 12)
    model(torch.zeros(1, 30))
    assert torch.equal(model[0].weight.detach() == 0, zero)
    assert len(torch.unique(model[0].weight.detach())) == 151


def test_a_level_s_gradient_is_the_sum_of_its_members_by_finite_differences():
    model = network().double().float()
    compressor = metaq.Compressor(model, METHOD, training_steps=100)
    compressor.begin_last_phase()
    inputs, labels = torch.randn(16, 30), torch.arange(16) % 5
    nn.functional.cross_entropy(model(inputs), labels).backward()
    compressor.regularize()
    weights, gradient = model[0].weight.detach().clone(), model[0].weight.grad
    assert bool((gradient[weights == 0] == 0).all())
    reference = copy.deepcopy(model).double()
    for level in torch.unique(weights[weights != 0]).tolist():
        members = weights == level
        losses = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                reference[0].weight.copy_(weights.double() + change * members)
                losses.append(float(nn.functional.cross_entropy(reference(inputs.double()), labels)))
        expected = (losses[0] - losses[1]) / 2e-5
        torch.testing.assert_close(gradient[members].double(), torch.full((int(members.sum()),), expected).double())


def test_shared_values_stay_shared_under_momentum_and_the_file_holds_them(tmp_path):
    model = network()
    compressor = metaq.Compressor(model, METHOD, training_steps=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, compressor, optimizer, 0, 12)
    compressor.begin_last_phase()
    model(torch.zeros(1, 30))
    before = model[0].weight.detach().clone()
    train(model, compressor, optimizer, 12, 20)
    size = metaq.save(compressor.compress(), tmp_path / "model.mtq")
    assert size < 1500
    other = network()
    metaq.load_into(other, tmp_path / "model.mtq")
    for weights, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(weights, expected)
    levels, places = torch.unique(other[0].weight.detach(), return_inverse=True)
    assert len(levels) == 5
    assert torch.equal(torch.unique(before, return_inverse=True)[1], places)
    assert not torch.equal(levels, torch.unique(before))


def test_evaluation_before_the_last_phase_already_shares_values():
    model = network()
    compressor = metaq.Compressor(model, METHOD, training_steps=100)
    held = model[0].weight.detach().clone()
    model.eval()(torch.zeros(1, 30))
    assert len(torch.unique(model[0].weight.detach())) == 5
    decoded = compressor.compress().decompress()
    assert torch.equal(decoded["0.weight"], model[0].weight)
    model.train()(torch.zeros(1, 30))
    assert torch.equal(model[0].weight, held)


@pytest.mark.parametrize("phase", [False, True])
def test_resuming_changes_nothing(phase):
    runs = []
    for _ in range(2):
        model = network()
        compressor = metaq.Compressor(model, METHOD, training_steps=100)
        runs.append((model, compressor, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)))
    train(*runs[0], 0, 7)
    if phase:
        runs[0][1].begin_last_phase()
    runs[0][0].eval()(torch.zeros(1, 30))
    runs[0][0].train()
    for part, other in zip(*runs, strict=True):
        other.load_state_dict(copy.deepcopy(part.state_dict()))
    files = []
    for run in runs:
        train(*run, 7, 14)
        files.append(metaq.compressed_model.encode(run[1].compress()))
    assert files[0] == files[1]


def test_initial_levels():
    values = torch.cat([torch.linspace(-1, 1, 99), torch.tensor([9.0])]).double()
    generator = torch.Generator().manual_seed(0)
    assert initial_levels(values, 3, Initialization.LINEAR, generator).tolist() == [-1.0, 4.0, 9.0]
    density = initial_levels(values, 3, Initialization.DENSITY, generator)
    assert density.tolist() == [-1.0, values.sort().values[50].item(), 9.0]
    drawn = initial_levels(values, 50, Initialization.RANDOM, generator).tolist()
    assert len(set(drawn)) == 50
    assert set(drawn) <= set(values.tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"keep": {"*": 0.0}},
        {"levels": {"*": 0}},
        {"rounds": 0},
        {"start": 1.0},
        {"round_share": 0.0},
        {"keep": {"conv*": 0.5}},
        {"levels": {"conv*": 2}},
    ],
)
def test_what_cannot_be_done_is_refused(options):
    with pytest.raises(InputError, match="DeepCompression"):
        metaq.Compressor(network(), DeepCompression(**options), training_steps=100)
