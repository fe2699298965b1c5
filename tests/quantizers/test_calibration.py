"""Fisher information of layers, against its definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq.errors import InputError
from metaq.quantizers.calibration import calibrate


def exact_fisher(model, images, name):
    """The mean over samples and over all labels, by their probability, of the squared gradient."""
    parameter = dict(model.named_parameters())[name]
    total = torch.zeros_like(parameter)
    for image in images:
        logits = model(image[None])
        for label, share in enumerate(logits.detach().softmax(-1)[0]):
            loss = functional.cross_entropy(logits, torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            total += share * gradient.square()
    return total / len(images)


def test_last_matrix_with_independent_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4))
    images = torch.randn(4000, 6)
    found = calibrate(model, images.split(500)).importance("0.weight")
    torch.testing.assert_close(found, exact_fisher(model, images[:1500], "0.weight"), rtol=0.25, atol=0.01)


def test_filters_are_ranked_as_the_definition_ranks_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5))
    with torch.no_grad():
        model[0].weight[1] *= 0.01
        model[0].bias.zero_()
        model[3].weight[:, 9:18] *= 0.01
    images = torch.randn(300, 2, 6, 6) * torch.tensor([0.3, 1.0])[:, None, None]
    found = calibrate(model, [(part, None) for part in images.split(50)]).importance("0.weight")
    exact = exact_fisher(model, images[:150], "0.weight")
    assert found.shape == (3, 18)
    both = torch.stack([found.flatten().log(), exact.flatten().log()])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert 0.3 < float(found.sum() / exact.sum()) < 3


def test_inputs_are_their_second_moments():
    model, inputs = nn.Linear(5, 3), torch.randn(40, 5)
    found = calibrate(model, [inputs[:10], inputs[10:]])
    torch.testing.assert_close(found.inputs["weight"], inputs.T @ inputs / 40)


def test_inputs_of_filters_are_patches():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten())
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    patches = torch.tensor([[0.0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]])
    torch.testing.assert_close(calibrate(model, [image]).inputs["0.weight"], patches.T @ patches)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = calibrate(model, [torch.ones(4, 5)]).importance("0.weight")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(first, calibrate(model, [torch.ones(4, 5)]).importance("0.weight"))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head, self.unused = nn.Embedding(7, 4), nn.Linear(4, 7), nn.Linear(2, 2)

    def forward(self, tokens):
        return type("Output", (), {"logits": self.head(self.embedding(tokens))})


def test_sequences_and_keyword_arguments():
    found = metaq.calibrate(Tokens(), [{"tokens": torch.arange(6).reshape(2, 3)}], batches=1)
    assert list(found.inputs) == list(found.rows) == ["head.weight"]
    assert float(found.importance("head.weight").min()) > 0


@pytest.mark.parametrize(
    ("model", "loader", "message"),
    [
        (nn.ReLU(), [torch.zeros(1, 2)], "expected a model with Linear"),
        (nn.Linear(2, 2), [], "expected at least one batch"),
        (nn.Linear(2, 2), [torch.full((1, 2), torch.inf)], "expected finite logits"),
        (nn.Linear(2, 2), [torch.zeros(2)], "found shape"),
    ],
)
def test_what_it_refuses(model, loader, message):
    with pytest.raises(InputError, match=message):
        calibrate(model, loader)
