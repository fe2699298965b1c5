"""Models to a folder and back, as the `transformers` library has made known, and a callback for its Trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from metaq.api import load_into, save
from metaq.checkpoints import CompressionConfig, compress_state_dict
from metaq.errors import InputError
from metaq.integrations import FILE

if TYPE_CHECKING:
    from metaq.integrations.trainer_callback import MetaqCallback as MetaqCallback

Model = TypeVar("Model", bound=nn.Module)


def __getattr__(name: str) -> Any:
    """`MetaqCallback` on first use: it alone needs `transformers`."""
    if name != "MetaqCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from metaq.integrations.trainer_callback import MetaqCallback
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "accelerate"):
            raise
        needed = f"MetaqCallback needs {error.name}: pip install 'metaq-nn[transformers]'"
        raise ModuleNotFoundError(needed, name=error.name) from None
    return MetaqCallback


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str], config: CompressionConfig | None = None) -> int:
    """Compress a model's state dict into ``folder/model.mtq``; returns the file's size in bytes.

    A model that has a ``config`` with a ``save_pretrained`` of its own, as those of `transformers` do, has that written
    beside it.

    Args:
        model: any module.
        folder: made if it is missing.
        config: to what error or size; by default 4 bits a weight.

    Raises:
        InputError: what `compress_state_dict` refuses, or a folder that cannot be written.
    """
    compressed = compress_state_dict(model.state_dict(), config)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write, found {error.strerror}") from None
    own = getattr(getattr(model, "config", None), "save_pretrained", None)
    if own is not None:
        own(folder)
    return save(compressed, Path(folder) / FILE)


def from_pretrained(folder: str | os.PathLike[str], model: Model) -> Model:
    """Load ``folder/model.mtq`` into a model of the same tensors, and return it; otherwise it stays as it was.

    Raises:
        InputError: there is no such file, or its names or shapes are not the model's.
        FormatError: it is not a whole and unchanged `.mtq` file.
    """
    load_into(model, Path(folder) / FILE)
    return model
