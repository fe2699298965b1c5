"""The example of docs/adding_a_method.md is a whole method: it keeps the contract, and recipes can name it."""

import re
import sys
import types
from importlib import resources
from pathlib import Path

import contract
import pytest

import metaq
from metaq.errors import InputError
from metaq.experiments.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"


@pytest.fixture(scope="module")
def example():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    module = sys.modules["adding_a_method"] = types.ModuleType("adding_a_method")  # dataclasses look it up there
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules["adding_a_method"]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(example, check):
    check(example.Grid(step=0.2))


def test_the_pull_draws_weights_to_their_levels(example):
    distances = []
    for strength in (0.0, 1.0):
        training = contract.Training(example.Grid(step=0.2, strength=strength))
        for _ in range(contract.STEPS):
            training.step()
        latent, decoded = training.latent_weights(), training.decoded()
        distances.append(sum(float((latent[name] - decoded[name]).square().sum()) for name in latent))
    assert distances[1] < 0.9 * distances[0]


def test_recipes_know_a_method_of_the_table(example, monkeypatch, tmp_path):
    monkeypatch.setitem(metaq.methods.methods, "grid", example.Grid)
    text = (resources.files("metaq.experiments") / "recipes" / "lenet5-digits.toml").read_text(encoding="utf-8")
    section = '[method]\nname = "grid"\nstep = 0.2\n'
    path = tmp_path / "grid.toml"
    path.write_text(re.sub(r"\[method\].*?(?=\n\[)", section, text, flags=re.DOTALL), encoding="utf-8")
    assert load_recipe(str(path)).compression == example.Grid(step=0.2)


def test_fields_are_checked(example):
    with pytest.raises(InputError, match="Grid step: expected more than 0 and at most 1, found 2"):
        example.Grid(step=2)
