"""Any value at any entry of a recipe: a recipe, or one line that says what is wrong, before anything is trained."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metaq.errors import InputError, RecipeError
from metaq.experiments.data import Split
from metaq.experiments.loop import Stage
from metaq.experiments.recipe import as_tree, known_recipes, load_recipe, recipe_from

HUGE = 10**400
ODD = [
    *(0, -1, 1, 5, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**8, 10**11, HUGE, -HUGE, 10**5000),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *("", "nonsense", "zstdd", "a\0b", "\x1b[31m", "x" * 100, True, False, None),
    *([], [[]], [[0]], [[0, 1]], [[0, HUGE]], [[float("nan"), 1.0]], [["a", "b"]], {}, {"x": 1}, {"name": 5}),
]
RECIPES = ("lenet5-mnist-taught", "lenet300-lc-mnist", "lenet5-caffe-hemp-lobster", "lenet300-deep-compression")
TREES = {name: as_tree(load_recipe(name)) for name in RECIPES}


def entries(tree, path=()):
    """The paths of all values and sections."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from entries(value, (*path, key))


PLACES = [(name, path) for name, tree in TREES.items() for path in entries(tree)]


def checked(name, tree):
    """Both stages of a recipe, made as a run makes them before its first step; or None where the recipe is refused."""
    try:
        recipe = recipe_from(name, tree)
        split = Split(torch.randn(40, 1, 4, 4), torch.zeros(40, dtype=torch.int64))
        for section, method in ((recipe.float_training, None), (recipe.training, recipe.compression)):
            Stage(nn.Sequential(nn.Flatten(), nn.Linear(16, 8)), section, split, recipe.seed + 1, method)
    except (RecipeError, InputError) as error:
        message = str(error)
        assert "expected" in message
        assert len(message) < 2000
        return None
    return recipe


def changed(name, path, value):
    tree = copy.deepcopy(TREES[name])
    section = tree
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return tree


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES[:2]), *RECIPES[2:]])
def test_odd_values_at_every_entry(name):
    for recipe, path in PLACES:
        if recipe == name:
            for value in ODD:
                checked(name, changed(name, path, value))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_at_any_entry(place, value):
    name, path = place
    recipe = checked(name, changed(name, path, value))
    if recipe is not None:
        assert recipe_from(name, json.loads(json.dumps(as_tree(recipe)))) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.name=5", "recipe key 'method.name': expected str, found 5"),
        ("method.strength=1" + "0" * 400, r"'method.strength': expected float, found 10+\.\.\.$"),
        ("seed=1" + "0" * 5000, r"'seed': expected int, found '10+\.\.\.$"),
        ("method.strength=1e400", "'method.strength': expected a finite number, found inf"),
        ("seed=18446744073709551616", "'seed': expected an integer of 64 bits"),
        ("seed=4294967296", "seed: expected 0 to 4294967295, found 4294967296"),
        ("threads=100000000000", "threads: expected 1 to 1024, found 100000000000"),
        ("training.batch_size=4611686018427387904", "batch_size: expected 1 to 1000000000, found 4611686018427387904"),
        ("training.shift_pixels=100000000", "shift_pixels: expected 0 to 64, found 100000000"),
        ("file.coder=zip", "coder: expected one of .*, found 'zip'"),
        ('network.weights="a\\u0000b"', "'network.weights': expected a text without zero bytes"),
        ("network.name=[]", r"'network.name': expected str, found \[\]"),
        ("file.coder=" + "[" * 5000, "coder: expected one of"),
        ("file.neuron_moves=-1", "file.neuron_moves: expected 0 to 10000000, found -1"),
        ("file.neuron_moves=100000000", "file.neuron_moves: expected 0 to 10000000, found 100000000"),
    ],
)
def test_what_the_line_says(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("lenet5-mnist", [override])


def test_networks_whose_neurons_have_no_known_order():
    with pytest.raises(RecipeError, match="neuron_moves: expected a network with chains of layers, found resnet32, of"):
        load_recipe("resnet32-cifar10-jpeg-hemp", ["file.neuron_moves=10"])


def test_files_that_are_no_recipes(tmp_path):
    path = tmp_path / "x.toml"
    for text in ("seed = 1" + "0" * 5000, "seed = " + "[" * 5000, "\x00", "[a]\n[a]"):
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"x.toml: expected TOML, found"):
            load_recipe(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"x.toml: expected a readable recipe"):
        load_recipe(str(path))


def test_a_coder_whose_package_is_not_there(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(RecipeError, match="zstd: expected the package zstandard, found none"):
        load_recipe("lenet5-mnist", ["file.coder=zstd"])


def test_all_recipes_that_come_along_are_known():
    assert set(RECIPES) <= set(known_recipes())
