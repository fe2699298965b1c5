"""What of a model is compressed."""

import pytest
import torch
from torch import nn

import metaq
from metaq.binding.selection import LARGE_NETWORK, Fate, select
from metaq.errors import InputError

METAQ, HEMP = metaq.METaQ(), metaq.HEMP()


class Tied(nn.Module):
    """Tied embeddings, a norm, a frozen matrix; small, or with a matrix that makes it large."""

    def __init__(self, wide=8):
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 10)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.wide = nn.Linear(8, wide)


LARGE = Tied(LARGE_NETWORK // 8)


def fates(model, methods):
    return {choice.name: choice.fate for choice in select(model, methods)}


def test_small_networks_are_compressed_whole_and_tied_weights_once():
    found = fates(Tied(), METAQ)
    assert "head.weight" not in found
    assert select(Tied(), METAQ)[0].names == ("embedding.weight", "head.weight")
    assert found.pop("frozen.weight") is found.pop("frozen.bias") is Fate.FROZEN
    assert set(found.values()) == {Fate.COMPRESSED}


def test_large_networks_keep_norms_and_biases_as_exact_as_float16():
    found = fates(LARGE, METAQ)
    assert {name for name, fate in found.items() if fate is Fate.COMPRESSED} == {"embedding.weight", "wide.weight"}
    assert found["norm.weight"] is found["wide.bias"] is Fate.ROUNDED
    assert found["frozen.bias"] is Fate.KEPT
    assert found["frozen.weight"] is Fate.FROZEN


def test_the_first_pattern_that_fits_decides():
    methods = {"norm.*": None, "head.weight": HEMP, "frozen.*": None, "*": METAQ}
    choices = {choice.name: choice for choice in select(LARGE, methods)}
    assert choices["norm.weight"].fate is Fate.KEPT
    assert choices["embedding.weight"].method is HEMP  # by its second name
    assert choices["wide.weight"].method is METAQ
    assert choices["wide.bias"].fate is Fate.ROUNDED  # "*" is what there would be without patterns
    assert fates(LARGE, {"wide.*": METAQ})["wide.bias"] is Fate.COMPRESSED
    assert fates(LARGE, {"wide.*": METAQ})["embedding.weight"] is Fate.KEPT


@pytest.mark.parametrize("pattern", ["", "norm", "decoder.*"])
def test_a_pattern_that_fits_nothing_is_named(pattern):
    with pytest.raises(InputError, match=rf"pattern '{pattern}'.*found none; the model has embedding.weight"):
        select(Tied(), {pattern: None, "*": METAQ})
    with pytest.raises(InputError, match="no earlier pattern fits"):
        select(Tied(), {"*": METAQ, "norm.*": None})


def bad(change):
    model = Tied()
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "methods", "message"),
    [
        (nn.ReLU(), METAQ, "model: expected trainable parameters, found none"),
        (Tied().requires_grad_(False), METAQ, "expected trainable parameters to compress, found none"),
        (Tied(), {"*": None}, "expected trainable parameters to compress, found none"),
        (Tied(), {}, "expected trainable parameters to compress, found none"),
        (Tied(), {"*": "metaq"}, r"pattern '\*': expected a method or None, found 'metaq'"),
        (nn.Sequential(nn.Linear(2, 2, device="meta")), METAQ, "parameter '0.weight'.*meta device; load them before"),
        (nn.Sequential(nn.LazyLinear(2)), METAQ, "parameter '0.weight'.*run the model once before"),
        (
            bad(lambda model: model.register_parameter("codes", nn.Parameter(torch.ones(3, dtype=torch.int8), False))),
            METAQ,
            r"parameter 'codes': expected one of float32, .*, found torch.int8; \{\"codes\": None, \"\*\": method\}",
        ),
        (
            bad(lambda model: setattr(model.wide, "weight", nn.Parameter(torch.ones(8, 8, dtype=torch.complex64)))),
            METAQ,
            "parameter 'wide.weight'.*found torch.complex64",
        ),
    ],
)
def test_what_cannot_be_compressed_is_one_line(model, methods, message):
    with pytest.raises(InputError, match=message) as found:
        metaq.Compressor(model, methods)
    assert "\n" not in str(found.value)


def test_two_devices_are_refused(monkeypatch):
    model = Tied()
    devices = iter([torch.device("cpu"), torch.device("cuda")] * 20)
    monkeypatch.setattr(torch.Tensor, "device", property(lambda _: next(devices)))
    with pytest.raises(InputError, match=r"expected one device, found '\S+' on cpu and '\S+' on cuda"):
        select(model, METAQ)


def test_an_optimizer_of_other_parameters_is_refused():
    model, other = Tied(), Tied()
    with pytest.raises(InputError, match=r"optimizer: expected one that trains 'embedding.weight', found none"):
        metaq.Compressor(model, METAQ, torch.optim.SGD(other.parameters()))
    with pytest.raises(InputError, match=r"optimizer: expected a torch.optim.Optimizer, found a str"):
        metaq.Compressor(model, METAQ, "adam")
    without = [parameter for name, parameter in model.named_parameters() if name != "norm.bias"]
    with pytest.raises(InputError, match=r"expected one that trains 'norm.bias'"):
        metaq.Compressor(model, METAQ, torch.optim.SGD(without))


@pytest.mark.parametrize("steps", [0, -1, 2.5, "many"])
def test_a_length_that_is_none_is_refused(steps):
    with pytest.raises(InputError, match="training_steps: expected"):
        metaq.Compressor(Tied(), METAQ, training_steps=steps)


def test_lengths_are_taken_from_schedulers_that_count_steps():
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=77)
    compressor = metaq.Compressor(model, METAQ, optimizer, training_steps=one_cycle)
    assert (compressor.training_steps, compressor.last_phase_step) == (77, 62)
    compressor.detach()
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)  # epochs or steps: nobody knows
    with pytest.raises(InputError, match="found CosineAnnealingLR; give the number"):
        metaq.Compressor(model, METAQ, training_steps=cosine)
