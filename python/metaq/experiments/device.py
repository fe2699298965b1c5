"""Recipes' networks as programs for small devices."""

from __future__ import annotations

import torch

from metaq.errors import InputError
from metaq.experiments import models
from metaq.experiments.recipe import load_recipe
from metaq.format.checked_file import CheckedFile
from metaq.format.device_program import Program, program
from metaq.integrations.device import sequential_layers


def recipe_program(file: CheckedFile, recipe_name: str | None, name: str) -> Program:
    """The forward pass of a recipe's network with the weights of a file.

    Args:
        recipe_name: a recipe's name or path; if not given, the file's metadata names it.
        name: what the array is called.

    Raises:
        InputError: there is no recipe, its network is none that devices compute, or the file has other tensors.
        FormatError: the file is damaged, or of a coder that devices have not.
    """
    recipe_name = recipe_name or file.header.metadata.get("recipe")
    if recipe_name is None:
        raise InputError(f"{file.name}: expected the name of a recipe in its metadata, found none; add --recipe NAME")
    network = load_recipe(recipe_name).network.name
    made = models.by_name(network)
    shape: tuple[int, ...] | None = getattr(made, "input_shape", None)
    if shape is None:
        raise InputError(f"recipe {recipe_name}: expected a network that small devices compute, found {network}")
    return program(file, sequential_layers(made(), torch.zeros(1, *shape)), name)
