"""The accuracy of a `.mtq` file: its network and data set are those of the recipe that its metadata names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metaq.errors import InputError
from metaq.experiments import data, models
from metaq.experiments.loop import Evaluation, evaluate
from metaq.experiments.recipe import Recipe, load_recipe
from metaq.files import read_bytes
from metaq.format.reader import Reader
from metaq.metrics import digest
from metaq.tensors import load_tensors


def evaluate_file(path: Path, recipe_name: str | None = None) -> dict[str, Any]:
    """Decode a file, load it into its recipe's network, and measure it on the test set.

    Args:
        recipe_name: a recipe's name or path, where the file does not name one.

    Raises:
        InputError: the file cannot be read, names no recipe, or holds another network than its recipe's.
        FormatError: it is not a whole and unchanged `.mtq` file.
        DataError: the data set cannot be found or downloaded.
    """
    content = read_bytes(path)
    started = time.perf_counter()
    reader = Reader(content, str(path))
    weights = load_tensors(reader)
    decoding_seconds = time.perf_counter() - started
    name = recipe_name or reader.header.metadata.get("recipe")
    if name is None:
        raise InputError(f"{path}: expected the name of a recipe in its metadata, found none; add --recipe NAME")
    recipe = load_recipe(name)
    model, result = evaluate_weights(weights, recipe, str(path))
    float_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    return {
        "file": str(path),
        "network": recipe.network.name,
        "data": recipe.data.name,
        "file_bytes": len(content),
        "ratio": float_bytes / len(content),
        "decoding_seconds": decoding_seconds,
        **{f"test_{key}": value for key, value in asdict(result).items()},
        "weights_sha256": digest(model.state_dict()),
    }


def evaluate_weights(weights: Mapping[str, Tensor], recipe: Recipe, source: str) -> tuple[nn.Module, Evaluation]:
    """A recipe's network with given weights, and what it does on the recipe's test set.

    Raises:
        InputError: the weights, called ``source``, are not those of the network.
        DataError: the data set cannot be found or downloaded.
    """
    model = models.by_name(recipe.network.name)()
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise InputError(f"{source}: expected the tensors of {recipe.network.name}, found others: {details}") from None
    return model, evaluate(model, data.by_name(recipe.data.name)(recipe.data.held_out).test)
