"""Models, tokenizers and image processors of Hugging Face folders, by `transformers`, without network or output."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils import logging as library_logging

from metaq.errors import InputError, first_line

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_NAMES_SHOWN = 3

_log = logging.getLogger(__name__)


def load_config(folder: Path) -> Any:
    """The configuration of a folder's model.

    Raises:
        InputError: no ``config.json``, one of a model that `transformers` does not have, or of one that is quantized.
    """
    place = folder / "config.json"
    if not place.is_file():
        raise InputError(f"{folder}: expected config.json, which says what model it is, found no such file")
    with _explained(f"{place}: expected a model that transformers {transformers.__version__} has"):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{place}: expected a model with weights of floating point, found one that is quantized")
    names = _architectures(config)
    if names and not any(hasattr(transformers, name) for name in names):
        expected = f"an architecture that transformers {transformers.__version__} has"
        raise InputError(f"{place}: expected {expected}, found {', '.join(names)}")
    return config


def load_model(folder: Path, config: Any) -> nn.Module:
    """The model of a folder, of the class that its configuration names, in float32 and in evaluation mode.

    Raises:
        InputError: weights that do not load.
    """
    kind = _class_of(config)
    with _explained(f"{folder}: expected a {kind.__name__} that loads"):
        model, loading = kind.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, **_float32()
        )
    _report_missing(sorted(loading["missing_keys"]), folder, type(model).__name__)
    module: nn.Module = model.eval()
    return module


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    if not _has_any(folder, _TOKENIZER_FILES):
        raise InputError(f"{folder}: expected a tokenizer, such as tokenizer.json, for text, found none")
    with _explained(f"{folder}: expected a tokenizer that loads"):
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_image_processor(folder: Path) -> Any:
    """The image processor of a folder.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    if not _has_any(folder, _PROCESSOR_FILES):
        raise InputError(f"{folder}: expected an image processor, {_PROCESSOR_FILES[0]}, for images, found none")
    with _explained(f"{folder}: expected an image processor that loads"):
        kind: Any = transformers.AutoImageProcessor
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which `transformers` shows neither progress nor warnings."""
    library: Any = library_logging
    verbosity, shows_bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if shows_bars:
            library.enable_progress_bar()


@contextmanager
def _explained(expected: str) -> Iterator[None]:
    """Quiet, and with any failure of `transformers` as an InputError that begins so."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise InputError(f"{expected}, found {first_line(error)}") from error


def _architectures(config: Any) -> list[str]:
    return list(getattr(config, "architectures", None) or ())


def _class_of(config: Any) -> Any:
    """The class of the first known architecture that the configuration names; where it names none, a general one."""
    for name in _architectures(config):
        if hasattr(transformers, name):
            return getattr(transformers, name)
    is_causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return transformers.AutoModelForCausalLM if is_causal else transformers.AutoModel


def _float32() -> dict[str, torch.dtype]:
    """The keyword, whose name has changed, by which weights are loaded so."""
    major, minor = map(int, transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": torch.float32}


def _has_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _report_missing(names: list[str], folder: Path, kind: str) -> None:
    """Say that a part of the model is at random, which makes the data say less than it could."""
    if names:
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        _log.warning("%s: expected all weights of %s, found none for %s%s: they are random", folder, kind, shown, more)
