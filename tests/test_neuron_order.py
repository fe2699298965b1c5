"""Hidden neurons in another order: the same network, in no more bytes."""

import copy

import pytest
import torch
from torch import nn

import metaq
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode
from metaq.errors import InputError
from metaq.matrix_layout import MatrixLayout

CHAIN = [("conv", "norm"), "hidden", "last"]


class Network(nn.Module):
    """A convolution with normalisation, of which each output becomes four inputs, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)
        self.hidden, self.last = nn.Linear(32, 60), nn.Linear(60, 3)

    def forward(self, images):
        features = torch.relu(self.norm(self.conv(images))).flatten(1)
        return self.last(torch.relu(self.hidden(features)))


def network(live=0.3):
    """Few neurons have weights; those of normalisation are all different."""
    torch.manual_seed(0)
    made = Network().eval()
    with torch.no_grad():
        for weight in (made.conv.weight, made.hidden.weight):
            weight[torch.rand(len(weight)) > live] = 0
        for tensor in (*made.norm.parameters(), *made.norm.buffers()):
            if tensor.ndim:
                tensor.copy_(torch.rand(8) + 0.5)
    return made


def compressed(made):
    return metaq.compress(made.state_dict(), step=0.05)


def outputs(made, model):
    loaded = copy.deepcopy(made)  # whose tensors the model holds, where they are kept as they are
    loaded.load_state_dict(model.decompress())
    return loaded(torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1)))


def test_the_network_is_the_same_and_the_file_smaller():
    made = network()
    before = compressed(made)
    told = []
    after = metaq.order_neurons(before, made, [CHAIN], 150, advance=lambda done, total: told.append((done, total)))
    assert told == [(done, 150) for done in range(1, 151)]
    torch.testing.assert_close(outputs(made, after), outputs(made, before), rtol=1e-5, atol=1e-5)
    sorted_only = metaq.order_neurons(before, made, [CHAIN], 0)
    assert len(encode(after)) < len(encode(sorted_only)) < len(encode(before))
    assert encode(metaq.order_neurons(before, made, [CHAIN], 150)) == encode(after)
    for name, tensor in before.decompress().items():
        assert torch.equal(tensor.flatten().sort().values, after.decompress()[name].flatten().sort().values)


def test_normalisation_without_weights_moves_along():
    made = network()
    made.norm = nn.BatchNorm2d(8, affine=False).eval()
    made.norm.running_mean.copy_(torch.rand(8))
    before = compressed(made)
    after = metaq.order_neurons(before, made, [CHAIN], 5)
    assert not torch.equal(after.decompress()["norm.running_mean"], before.decompress()["norm.running_mean"])
    torch.testing.assert_close(outputs(made, after), outputs(made, before), rtol=1e-5, atol=1e-5)


def test_inputs_and_outputs_stay_where_they_are():
    made = network()
    before = compressed(made)
    after = metaq.order_neurons(before, made, [["hidden", "last"]], 20).decompress()
    for name in ("conv.weight", "norm.weight", "norm.running_mean", "last.bias"):
        assert torch.equal(after[name], before.decompress()[name])
    assert not torch.equal(after["hidden.bias"], before.decompress()["hidden.bias"])


def test_what_no_order_makes_smaller_stays_itself():
    made = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3))
    model = compressed(made)
    assert metaq.order_neurons(model, made, [["0", "1"]], 5) is model
    assert metaq.order_neurons(model, made, [], 5) is model


def with_entry(name, entry):
    made = network()
    model = compressed(made)
    return made, CompressedModel({**model.tensors, name: entry(model.tensors)})


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (["hidden"], "two layers or more"),
        (["hidden", ()], "two layers or more"),
        (["hiden", "last"], "'hiden'; did you mean 'hidden'"),
        (["norm", "hidden"], "'norm': expected Linear, Conv1d, .* found BatchNorm2d"),
        ([("hidden", "last"), "last"], "'last': expected BatchNorm1d, .* found Linear"),
        (["last", "hidden"], "'hidden': expected as many inputs as 'last' has outputs, 3, or a multiple, found 32"),
        ([("conv", "other"), "hidden"], "'other.weight': expected 8 rows, as 'conv' has, found 5"),
    ],
)
def test_chains_that_are_none(chain, message):
    made = network()
    made.other = nn.BatchNorm1d(5)
    with pytest.raises(InputError, match=message):
        metaq.order_neurons(compressed(made), made, [chain], 1)


def test_wrong_calls():
    made = network()
    model = compressed(made)
    with pytest.raises(InputError, match="chains: expected a sequence of layers for each, found the name 'hidden'"):
        metaq.order_neurons(model, made, ["hidden", "last"])
    with pytest.raises(InputError, match="moves: expected 0 or more, found -1"):
        metaq.order_neurons(model, made, [CHAIN], -1)
    nn.utils.parametrizations.weight_norm(made.hidden)
    with pytest.raises(InputError, match=r"'hidden': expected a weight of its own, found hidden\.bias"):
        metaq.order_neurons(model, made, [["hidden", "last"]])


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Embedding(8, 8)])
def test_layers_whose_rows_are_no_neurons(layer):
    made = nn.Sequential(layer, nn.Conv2d(8, 8, 3))
    with pytest.raises(InputError, match=f"'0': expected Linear, .* without groups, found {type(layer).__name__}"):
        metaq.order_neurons(compressed(made), made, [["0", "1"]], 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda tensors: Alias("last.weight"), "expected one that is not tied"),
        (lambda tensors: torch.zeros(60, 31), r"expected the network's shape \(60, 32\), found \(60, 31\)"),
    ],
)
def test_tensors_that_cannot_be_put_in_order(entry, message):
    made, model = with_entry("hidden.weight", entry)
    with pytest.raises(InputError, match=f"'hidden.weight': {message}"):
        metaq.order_neurons(model, made, [CHAIN], 1)


def test_scaled_and_missing_tensors_are_refused():
    made = network()
    coded = compressed(made).tensors["last.weight"]
    assert isinstance(coded, CodedTensor)
    scaled = CodedTensor(coded.symbols, coded.codebook, coded.dtype, MatrixLayout(by_columns=True))
    with pytest.raises(InputError, match=r"'last\.weight': expected no scales"):
        metaq.order_neurons(with_entry("last.weight", lambda _: scaled)[1], made, [CHAIN], 1)
    without = {name: entry for name, entry in compressed(made).tensors.items() if name != "norm.bias"}
    with pytest.raises(InputError, match=r"'norm\.bias': expected the network's tensors"):
        metaq.order_neurons(CompressedModel(without), made, [CHAIN], 1)
