"""Recipes: what is read, what is refused, and what the refusal says."""

import json

import pytest

from metaq.errors import RecipeError
from metaq.experiments.recipe import as_tree, known_recipes, load_recipe, recipe_from
from metaq.methods.metaq.method import METaQ

TEACHER = "teacher={{network='lenet5',count={count},training={{epochs=1,batch_size=1,learning_rate=1}}}}"


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_of_the_package_is_valid(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from(name, json.loads(json.dumps(as_tree(recipe)))) == recipe


def test_overrides_reach_every_kind_of_entry():
    recipe = load_recipe(
        "lenet5-mnist",
        ["method.strength=1e-3", "seed=7", "training.learning_rate=1", "file.coder=zstd", "method.radius=3"],
    )
    assert recipe.method.configuration == METaQ(
        strength=1e-3, step=0.15, radius=3, schedule=recipe.method.configuration.schedule
    )
    assert (recipe.seed, recipe.training.learning_rate, recipe.file.coder) == (7, 1.0, "zstd")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.strenght=1", "did you mean 'strength'"),
        ("trainning.epochs=1", "did you mean 'training'"),
        ("training.epoch=1", "did you mean 'epochs'"),
        ("training.epochs=many", "expected int, found 'many'"),
        ("training.epochs=1.5", "expected int, found 1.5"),
        ("training.epochs=0", "epochs: expected 1 to"),
        ("training.optimizer=adamw", "expected one of adam, sgd"),
        ("training.distillation=2", "distillation: expected 0 to 1"),
        ("float_training.distillation=0.5", r"expected a \[teacher\] for it, found none"),
        (TEACHER.format(count=1), "expected distillation in a stage"),
        (TEACHER.format(count=0), "count: expected 1 to 1000"),
        ("teacher={network='lenet5',count=1}", "'teacher.training': expected a value, found none"),
        ("training.scale_share=1", "scale_share: expected 0 to less than 1"),
        ("float_training.average_decay=0.9", "average_decay: expected 0 without a last phase"),
        ("training.last_phase_epochs=1000", "last_phase_epochs"),
        ("method.strength=-1", "strength"),
        ("method.name=metaqq", "did you mean 'metaq'"),
        ("network.name=lenet", "did you mean 'lenet5'"),
        ("data.name=mnis", "did you mean 'mnist'"),
        ("seed.x=1", "found a value"),
        ("threads=0", "threads"),
        ("network=3", "expected a section"),
        ("seed", "expected key=value"),
    ],
)
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("lenet5-mnist", [override])


def test_a_wrong_name_or_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'lenet5-mnist'"):
        load_recipe("lenet5-minst")
    with pytest.raises(RecipeError, match="readable"):
        load_recipe(str(tmp_path / "missing.toml"))
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(RecipeError, match="expected TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    (tmp_path / "short.toml").write_text("seed = 1")
    with pytest.raises(RecipeError, match="expected a value, found none"):
        load_recipe(str(tmp_path / "short.toml"))
