"""Several seeds of one recipe; runs are made up here, since `test_run.py` has real ones."""

import json
import statistics

import pytest

from metaq.errors import InputError
from metaq.experiments import run, seeds
from metaq.experiments.recipe import as_tree, load_recipe

RECIPE = load_recipe("lenet5-digits", ["seed=3"])


def made_up_run(recipe, folder):
    """What a run of a recipe returns, with figures that depend on the seed alone."""
    result = {"file_bytes": 100 + recipe.seed**2, "ratio": 1000 / recipe.seed, "validation_accuracy": 0.9}
    result |= {"test_after": {"accuracy": recipe.seed / 10}, "test_before": {"accuracy": 1.0}}
    result["config"] = as_tree(recipe)
    folder.mkdir(parents=True)
    (folder / run.RESULT).write_text(json.dumps(result))
    return result


def test_mean_and_deviation(tmp_path):
    found = seeds.run_seeds(RECIPE, tmp_path, 3, made_up_run)
    assert json.loads((tmp_path / seeds.SEEDS).read_text()) == found
    assert [one["seed"] for one in found["runs"]] == [3, 4, 5]
    sizes = [109, 116, 125]
    assert [one["file_bytes"] for one in found["runs"]] == sizes
    assert found["mean"]["file_bytes"] == pytest.approx(sum(sizes) / 3)
    assert found["deviation"]["file_bytes"] == pytest.approx(statistics.stdev(sizes))
    assert found["mean"]["test_accuracy"] == pytest.approx(0.4)
    assert found["deviation"]["test_accuracy"] == pytest.approx(0.1)
    assert found["deviation"]["test_accuracy_before"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-3", "seed-4", "seed-5", seeds.SEEDS]


def test_a_seed_with_a_result_is_not_run_again(tmp_path):
    first = seeds.run_seeds(RECIPE, tmp_path, 2, made_up_run)
    begun = []

    def run_one(recipe, folder):
        begun.append(recipe.seed)
        return made_up_run(recipe, folder)

    more = seeds.run_seeds(RECIPE, tmp_path, 4, run_one)
    assert begun == [5, 6]
    assert more["runs"][:2] == first["runs"]


def test_a_result_of_another_recipe_is_not_taken(tmp_path):
    seeds.run_seeds(RECIPE, tmp_path, 2, made_up_run)
    begun = []
    other = load_recipe("lenet5-digits", ["seed=3", "training.epochs=151"])
    seeds.run_seeds(
        other, tmp_path, 2, lambda recipe, folder: begun.append(recipe) or made_up_run(recipe, folder / "new")
    )
    assert len(begun) == 2


@pytest.mark.parametrize("count", [1, 0, -1])
def test_one_seed_has_no_deviation(tmp_path, count):
    with pytest.raises(InputError, match=f"seeds: expected 2 to 1000, found {count}"):
        seeds.run_seeds(RECIPE, tmp_path, count, made_up_run)
