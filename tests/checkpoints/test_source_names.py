"""Tensors of a checkpoint in a model that has other names for them."""

import pytest
import torch

from metaq.checkpoints import CompressionConfig
from metaq.checkpoints.source_names import Place, match
from metaq.errors import InputError
from metaq.io.source import StateSource


def tensor(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OWN = {
    "body.layers.0.weight": tensor(0, 4, 5),
    "body.layers.0.bias": torch.zeros(5),
    "body.layers.1.weight": tensor(1, 4, 5),
    "body.layers.1.bias": torch.zeros(5),
    "body.norm.weight": torch.ones(5),
    "body.steps": torch.tensor(7),
    "head.weight": tensor(2, 3, 4),
    "head[0]": tensor(3, 2),
}
ROWS = {"gate": slice(0, 4), "up": slice(4, 8)}


def source(names, dtype=torch.float32):
    """A source that has the model's tensors under names of its own."""
    return StateSource(
        {name: OWN[own].to(dtype) if OWN[own].ndim else OWN[own] for name, own in names.items()}, name="x"
    )


def names_of(found):
    assert all(place.expert is None for place in found.places.values())
    return {name: place.own for name, place in found.places.items()}


@pytest.mark.parametrize("prefix", ["", "body.", "model.body."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prefix_is_no_matter(prefix, dtype):
    names = {prefix + own.removeprefix("body."): own for own in OWN}
    found = match([source(names, dtype)], OWN)
    assert names_of(found) == names
    assert found.missing == ()


def test_new_names_are_found_by_values():
    names = {"layers.0.LayerNorm.gamma": "body.norm.weight", "predictions.weight": "head.weight"}
    assert names_of(match([source(names)], OWN)) == names


def test_equal_values_are_told_apart_by_names():
    biases = {f"m.layer.{layer}.{part}.bias": torch.zeros(4) for layer in range(3) for part in ("query", "LayerNorm")}
    names = {own.removeprefix("m.").replace("LayerNorm.bias", "LayerNorm.beta"): own for own in biases}
    assert names_of(match([StateSource({name: biases[own] for name, own in names.items()})], biases)) == names


def test_lower_precision_is_matched_with_what_was_loaded_from_it():
    state = {"w": tensor(0, 40, 50).bfloat16()}
    assert names_of(match([StateSource(state)], {"w": state["w"].float()})) == {"w": "w"}
    assert match([StateSource(state)], {"w": tensor(0, 40, 50)}).missing == ("w",)


def test_what_is_not_in_the_model_is_missing():
    others = StateSource({"head.weight": tensor(9, 3, 4), "more": tensor(0, 7), "nan": torch.full((2,), float("nan"))})
    found = match([others], OWN | {"nan": torch.full((2,), float("nan"))})
    assert found.places == {}
    assert found.missing == ("head.weight", "more", "nan")


def test_second_names_count_no_more():
    shared = tensor(0, 4, 5)
    found = match([StateSource({"a": shared, "b": shared})], OWN)
    assert names_of(found) == {"a": "body.layers.0.weight"}


def test_one_name_in_two_sources():
    with pytest.raises(InputError, match="x: expected other tensors than in the other shards, found 'w' too"):
        match([source({"w": "head.weight"}), source({"w": "head.weight"})], OWN)


def test_experts_that_are_one_tensor_in_the_model():
    together = tensor(4, 3, 8, 6)
    state = {f"{expert}.{name}": together[expert, rows] for expert in range(3) for name, rows in ROWS.items()}
    found = match([StateSource(state | {"other": tensor(5, 4, 6)})], OWN | {"experts": together})
    assert found.places == {
        f"{expert}.{name}": Place("experts", expert, rows.start) for expert in range(3) for name, rows in ROWS.items()
    }
    assert found.missing == ("other",)
    assert found.translated(CompressionConfig(keep=("0.*",))).keep == ()
    assert found.translated(CompressionConfig(keep=("[0-9].*",))).keep == ("experts",)
    assert found.translated(CompressionConfig(tensor_bits={"*.up": 3})).tensor_bits == {"experts": 3}


def test_patterns_are_translated():
    found = match([source({own.removeprefix("body."): own for own in OWN})], OWN)
    config = CompressionConfig(keep=("head*",), tensor_bits={"layers.0.*": 2, "layers.*.weight": 3, "head.weight": 5})
    translated = found.translated(config)
    assert translated.keep == ("head.weight", "head[[]0]")
    assert translated.keeps("head[0]")
    assert translated.tensor_bits == {"*layers.0.*": 2, "*layers.*.weight": 3, "head.weight": 5}
    with_prefix = match([source({f"model.{own}": own for own in OWN})], OWN)
    assert with_prefix.translated(CompressionConfig(tensor_bits={"model.body.*": 2})).tensor_bits == {"body.*": 2}
    alone = match([source({"a.1": "body.layers.1.weight", "b": "head.weight"})], OWN)
    assert alone.translated(CompressionConfig(tensor_bits={"a.*": 2})).tensor_bits == {"body.layers.1.weight": 2}


def test_patterns_that_have_no_translation():
    found = match([source({"x1": "body.layers.1.weight", "x2": "head.weight", "y": "body.layers.0.weight"})], OWN)
    message = r"pattern 'x\?': expected one that the model's own names match too, found names such as body"
    with pytest.raises(InputError, match=message):
        found.translated(CompressionConfig(tensor_bits={"x?": 2}))
