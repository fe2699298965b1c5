"""Checkpoints hold everything that a killed run needs to end at the same file, byte for byte."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metaq.errors import FormatError
from metaq.experiments.loop import Stage
from metaq.files import read_bytes, write_atomically

FLOAT, COMPRESS = "float", "compress"


@dataclass
class RunProgress:
    """How far a run has come: its stage, the epochs done in it, and the best file so far with its score.

    ``best_weights`` is the digest of the weights that the model itself had when it became that file.
    """

    stage: str = FLOAT
    epochs_done: int = 0
    best_file: bytes = b""
    best_accuracy: float = -1.0
    best_epoch: int = -1
    best_weights: str = ""


def save(path: Path, progress: RunProgress, stage: Stage, recipe: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {
        "recipe": recipe,
        "progress": vars(progress)
        | {"best_file": torch.frombuffer(bytearray(progress.best_file or b"\0"), dtype=torch.uint8)},
        "model": stage.model.state_dict(),
        "optimizer": stage.optimizer.state_dict(),
        "generator": stage.generator.get_state(),
        "compressor": stage.compressor.state_dict() if stage.compressor is not None else {},
        "average": stage.average.weights if stage.average is not None else {},
    }
    _write(path, state)


def copy_for(recipe: dict[str, Any], source: Path, target: Path) -> None:
    """Write a copy of a checkpoint from which another recipe, equal to its own up to that epoch, goes on.

    Raises:
        InputError: there is no such file.
        FormatError: it is not a checkpoint of metaq.
    """
    _write(target, _read(source) | {"recipe": recipe})


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content, with a `RunProgress` under "progress".

    Raises:
        InputError: there is no such file.
        FormatError: it is not a checkpoint of metaq.
    """
    state = _read(path)
    try:
        state["progress"]["best_file"] = state["progress"]["best_file"].numpy().tobytes()
        state["progress"] = RunProgress(**state["progress"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(path, error) from None
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise _foreign(path, error) from None
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _foreign(path: Path, error: Exception) -> FormatError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FormatError(f"{path}: expected a checkpoint of metaq, found another file ({reason})")


def restore(state: dict[str, Any], stage: Stage) -> None:
    """Put a checkpoint's tensors and generator into a stage."""
    stage.model.load_state_dict(state["model"])
    stage.optimizer.load_state_dict(state["optimizer"])
    stage.generator.set_state(state["generator"])
    if stage.compressor is not None:
        stage.compressor.load_state_dict(state["compressor"])
    if stage.average is not None:
        stage.average.load(state["average"])
