"""Norms and biases fitted to a reference."""

import copy

import pytest
import torch
from torch import nn

from metaq.errors import InputError
from metaq.quantizers.refitting import References, refit

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def convolutions():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 5))


def coarse(model, levels=3):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim >= 2:
                step = parameter.abs().max() / levels
                parameter.copy_((parameter / step).round() * step)
    return other


def measured(model, reference, batches):
    model.eval(), reference.eval()
    with torch.no_grad():
        pairs = [(model(batch).log_softmax(-1), reference(batch).log_softmax(-1)) for batch in batches]
    return float(torch.cat([(aim.exp() * (aim - found)).sum(-1) for found, aim in pairs]).mean())


def test_predictions_come_near_those_of_the_reference():
    reference = convolutions()
    batches = torch.randn(320, 2, 8, 8, generator=torch.Generator().manual_seed(0)).split(16)
    with torch.no_grad():
        for batch in batches:
            reference(batch)
    model = coarse(reference.eval(), 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = copy.deepcopy(reference.state_dict())
    fresh = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1)).split(16)
    before = measured(model, reference, fresh)
    found = refit(model, reference, batches, epochs=6, learning_rate=1e-2)
    assert found.after < 0.5 * found.before
    assert measured(model, reference, fresh) < 0.6 * before
    assert measured(model, reference, batches[-2:]) == pytest.approx(found.after, rel=1e-3)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert {"0.bias", "1.weight", "1.running_var", "7.bias"} <= changed
    assert not any(name in changed for name, parameter in model.named_parameters() if parameter.ndim >= 2)
    assert all(torch.equal(tensor, first[name]) for name, tensor in reference.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_come_near_those_of_the_reference(dtype):
    torch.manual_seed(0)
    reference = transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=50)).to(dtype)
    model = coarse(reference)
    batches = [{"input_ids": torch.randint(0, 50, (4, 7))} for _ in range(12)]
    found = refit(model, reference, batches, learning_rate=1e-2)
    assert found.after < 0.8 * found.before
    assert model.encoder.layer[0].output.LayerNorm.weight.dtype == dtype


def test_what_does_not_help_is_not_kept():
    reference = convolutions().eval()
    model = coarse(reference)
    state = copy.deepcopy(model.state_dict())
    # Statistics of other images than those held out are worse, and such steps lead nowhere.
    batches = [torch.randn(4, 2, 8, 8) * 100, torch.randn(4, 2, 8, 8)]
    found = refit(model, reference, batches, epochs=2, learning_rate=10.0)
    assert found.after == found.before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_nothing_to_fit():
    reference = nn.Linear(3, 2, bias=False)
    found = refit(nn.Linear(3, 2, bias=False), reference, [torch.ones(2, 3)] * 2)
    assert found.after == found.before > 0


@pytest.mark.parametrize(
    ("other", "batches", "message"),
    [
        (nn.Linear(3, 2), [torch.ones(2, 3)], "two batches at least"),
        (nn.Linear(3, 4), [torch.ones(2, 3)] * 2, r"shape \(2, 4\), found \(2, 2\)"),
        (nn.Linear(3, 2), [torch.ones(2, 4)] * 2, "batch 0: expected one that the model takes"),
    ],
)
def test_what_it_refuses(other, batches, message):
    with pytest.raises(InputError, match=message):
        refit(nn.Linear(3, 2), other, batches)


@pytest.mark.parametrize(("outputs", "runs"), [(5, 1), (200, 2)])
def test_a_reference_runs_once_if_its_outputs_are_no_larger_than_its_inputs(outputs, runs):
    torch.manual_seed(0)
    reference, model = nn.Linear(100, outputs), nn.Linear(100, outputs)
    seen = []
    reference.register_forward_hook(lambda *_: seen.append(1))
    references = References(reference, [torch.randn(4, 100)])
    first, second = (references.mean_distance(model) for _ in range(2))
    assert len(seen) == runs
    assert first == second > 0
    assert references.mean_distance(reference) == 0
