"""Weights of trained networks from local files; nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from metaq.errors import InputError
from metaq.experiments.data.files import cache_folder
from metaq.io.safetensors import read_safetensors

_COUNTER = "num_batches_tracked"  # batch normalisation's, which many checkpoints leave out


def find_weights(name_or_path: str) -> Path:
    """The file of a network's weights: a path that ends in ``.safetensors``, or a name that is looked up.

    ``NAME.safetensors`` is searched in ``$METAQ_DATA/models``, then in the folder ``models`` beside ``$METAQ_DATA``,
    then in ``models`` in the user's cache.

    Raises:
        InputError: it is in none of them.
    """
    if name_or_path.endswith(".safetensors"):
        return Path(name_or_path)
    local = os.environ.get("METAQ_DATA")
    folders = [Path(local) / "models", Path(local).absolute().parent / "models"] if local else []
    paths = [folder / f"{name_or_path}.safetensors" for folder in (*folders, cache_folder() / "models")]
    for path in paths:
        if path.is_file():
            return path
    found = f"none at {' or '.join(map(str, paths))}"
    raise InputError(f"weights {name_or_path!r}: expected a .safetensors file of that name, found {found}")


def load_weights(model: nn.Module, name_or_path: str) -> None:
    """Load a trained network's weights into ``model``, whose names and shapes must be exactly the file's.

    Only the counters of batches that normalisation has seen may be missing; they stay as they are.

    Raises:
        InputError: there is no such file, or it holds another network.
    """
    path = find_weights(name_or_path)
    tensors = read_safetensors(path)[0]
    state = model.state_dict()
    counters = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] == _COUNTER}
    try:
        model.load_state_dict({**counters, **tensors})
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise InputError(f"{path}: expected the tensors of {type(model).__name__}, found others: {details}") from None
