"""Results as `metaq train` writes them."""

import copy
import json

import pytest

from metaq.experiments.recipe import as_tree, load_recipe


@pytest.fixture(scope="session")
def made_result():
    """A function to the content of a `result.json`."""
    trees = {}

    def make(recipe="lenet5-mnist", seed=0, file_bytes=1000, accuracy=0.99, loss=0.1):
        tree = trees.setdefault(recipe, as_tree(load_recipe(recipe)))
        return {
            "recipe": recipe,
            "float32_bytes": 177_704,
            "file_bytes": file_bytes,
            "ratio": 177_704 / file_bytes,
            "epoch": 3,
            "validation_accuracy": 0.98,
            "weights_sha256": "00",
            "test_before": {"loss": 0.05, "accuracy": 0.995},
            "test_after": {"loss": loss, "accuracy": accuracy},
            "seconds": 12.5,
            "machine": "a machine",
            "config": copy.deepcopy(tree) | {"seed": seed},
        }

    return make


@pytest.fixture
def write():
    """A function that writes JSON to a path, with its folders, and returns the path."""

    def write_json(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write_json
