"""Models to folders and back. What it writes for `transformers` it writes without loading that library."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import Tensor, nn

from metaq.api import load_file, save
from metaq.checkpoints import CompressionConfig, compress_state_dict
from metaq.checkpoints.model_card import CARD, Facts, read_card, write_card
from metaq.checkpoints.model_folder import CONFIG, check_replaceable, read_config, wrap_folder
from metaq.compressed_model import CodedTensor, CompressedModel
from metaq.errors import InputError
from metaq.files import TEMPORARY_PREFIX, open_bytes, write_error
from metaq.format.dtypes import DTYPES
from metaq.format.network import Layout
from metaq.format.reader import Reader
from metaq.integrations import FILE
from metaq.integrations.repository import folder_of
from metaq.io.huggingface import MTQ, SAFETENSORS, Folder, read_folder
from metaq.io.payload import WrappedTensors, has_payload

Model = TypeVar("Model", bound=nn.Module)
_WEIGHTS = (".bin", ".mtq", ".pt", ".safetensors", ".index.json")
Place = str | os.PathLike[str]


def save_pretrained(
    model: nn.Module | CompressedModel | Place,
    folder: Place,
    config: CompressionConfig | None = None,
    *,
    source: Place | None = None,
    force: bool = False,
) -> int:
    """Write a model into a folder; returns the size of the files with its weights in bytes.

    A model of `transformers`, a compressed model, and a folder that ``metaq compress`` made become a folder that
    `AutoModel.from_pretrained` loads once `metaq.integrations.transformers` is imported, with a card, `README.md`. A
    card that is there already stays.

    Any other module is compressed into ``folder/model.mtq``. One that has a ``config`` with a ``save_pretrained`` of
    its own has that written beside it.

    Args:
        model: any module; a compressed model; or the path of a folder of `.mtq` files with a `config.json`.
        folder: made if it is missing.
        config: of a module only, to what error or size; by default 4 bits a weight.
        source: of a compressed model only: the folder with `config.json`, the tokenizer's files and the card of the
            model that it was made of.
        force: also replace a card that exists.

    Raises:
        InputError: what `compress_state_dict` refuses, no `config.json` of a known model, or a folder that cannot be
            written.
        FormatError: the folder has a file that is not a whole `.mtq` file.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to write, found {error.strerror}") from None
    if isinstance(model, nn.Module):
        compressed = compress_state_dict(model.state_dict(), config)
        if isinstance(getattr(getattr(model, "config", None), "model_type", None), str):
            return _save_model(model, compressed, target, force)
        own = getattr(getattr(model, "config", None), "save_pretrained", None)
        if own is not None:
            own(target)
        return save(compressed, target / FILE)
    if config is not None:
        raise InputError("config: expected none for a model that is compressed already, found one")
    if isinstance(model, CompressedModel):
        if source is None:
            raise InputError("source: expected the folder that has the compressed model's config.json, found none")
        return _save_compressed(model, read_config(Path(source)), Path(source), target, force)
    if source is not None:
        raise InputError(f"source: expected none beside a folder, whose files are taken, found {source}")
    return _save_folder(read_folder(Path(model), MTQ), Path(model), target, force)


def _save_model(model: nn.Module, compressed: CompressedModel, target: Path, force: bool) -> int:
    """A model of `transformers`, with what that library writes beside weights."""
    owner: Any = model
    with tempfile.TemporaryDirectory() as place:
        owner.config.save_pretrained(place)
        if getattr(owner, "generation_config", None) is not None and owner.can_generate():
            owner.generation_config.save_pretrained(place)
        config = read_config(Path(place)) | {"architectures": [type(model).__name__]}
        error = _relative_squared_error(model.state_dict(), compressed)
        return _save_compressed(compressed, config, Path(place), target, force, error)


def _save_compressed(
    model: CompressedModel,
    config: dict[str, Any],
    source: Path,
    target: Path,
    force: bool,
    relative_squared_error: float | None = None,
) -> int:
    with tempfile.TemporaryDirectory(dir=target, prefix=TEMPORARY_PREFIX) as place:
        save(model, Path(place) / FILE)
        (Path(place) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        shards = read_folder(Path(place), MTQ)
        return _save_folder(shards, source, target, force, relative_squared_error, model.coder)


def _relative_squared_error(state: Mapping[str, Tensor], compressed: CompressedModel) -> float:
    error = energy = 0.0
    for name, entry in compressed.tensors.items():
        if isinstance(entry, CodedTensor) and entry.dtype.is_floating_point:
            weights = state[name].detach().cpu().double()
            error += float((weights - entry.decompress().double()).square().sum())
            energy += float(weights.square().sum())
    return error / energy if energy else 0.0


def _save_folder(
    shards: Folder,
    source: Path,
    target: Path,
    force: bool,
    relative_squared_error: float | None = None,
    coder: str | None = None,
) -> int:
    """Wrap shards, and copy what is beside weights in ``source``."""
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: expected another folder than the source, found the source itself")
    check_replaceable(target)
    kept = None if force else read_card(target)
    size_bytes = wrap_folder(shards, target)
    try:
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.endswith(_WEIGHTS) and path.name not in (CONFIG, CARD):
                shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise write_error(target, error) from None
    if kept is None:
        layouts = _layouts(shards)
        weights, source_bytes = (sum(numbers) for numbers in zip(*layouts, strict=True))
        facts = Facts(size_bytes, source_bytes, weights, relative_squared_error, coder)
        write_card(target, facts, read_config(target), target.resolve().name, read_card(source))
    return size_bytes


def _layouts(shards: Folder) -> list[tuple[int, int]]:
    """The number of elements of each tensor and their bytes; second names of shared tensors do not count."""
    layouts = [
        Layout(DTYPES[row[1]], row[3])
        for path in shards.paths().values()
        for index, row in enumerate(Reader(open_bytes(path), str(path)).rows)
        if row[5] == index
    ]
    return [(layout.size, layout.size_bytes) for layout in layouts]


@overload
def from_pretrained(
    repo_or_folder: Place, model: None = None, strict: bool = True, **download: Any
) -> dict[str, Tensor]: ...


@overload
def from_pretrained(repo_or_folder: Place, model: Model, strict: bool = True, **download: Any) -> Model: ...


def from_pretrained(
    repo_or_folder: Place, model: Model | None = None, strict: bool = True, **download: Any
) -> Model | dict[str, Tensor]:
    """The tensors of a folder of `.mtq` files, or of safetensors files with these in them; or a model that has them.

    Args:
        repo_or_folder: a folder, or a repository of Hugging Face's hub (extra ``hub``), of which the files with weights
            are downloaded.
        model: to load the tensors into; otherwise they are returned by name.
        strict: whether the index must name just what is in the files and the model, if one is given, have just these
            tensors. A model that they do not fit stays as it was.
        download: ``revision``, ``cache_dir``, ``token``, ``force_download`` and ``local_files_only`` as of
            `huggingface_hub.snapshot_download`.

    Raises:
        InputError: there is no such folder or repository, it has no such files, the hub cannot be reached, or names or
            shapes are not the model's.
        FormatError: a file is not a whole and unchanged `.mtq` file.

    Example:
        >>> import metaq, torch, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size_bytes = metaq.save_pretrained(torch.nn.Linear(20, 3), folder)
        ...     list(metaq.from_pretrained(folder))
        ['weight', 'bias']
    """
    folder = folder_of(repo_or_folder, download)
    tensors = _read_tensors(folder, strict)
    if model is None:
        return tensors
    state = model.state_dict()
    kind = type(model).__name__
    for name, tensor in state.items():
        found = "no such tensor" if name not in tensors else f"shape {tuple(tensors[name].shape)}"
        expected = f"shape {tuple(tensor.shape)}"
        if found != expected and (strict or name in tensors):
            raise InputError(f"{folder}, tensor {name!r} of {kind}: expected {expected}, found {found}")
    others = [name for name in tensors if name not in state]
    if strict and others:
        raise InputError(f"{folder}: expected only the tensors of {kind}, found {others[0]!r} too")
    model.load_state_dict(tensors, strict=strict)
    return model


def _read_tensors(folder: Path, strict: bool) -> dict[str, Tensor]:
    wrapped = [path for path in sorted(folder.glob(f"*{SAFETENSORS}")) if has_payload(path)]
    if not wrapped:
        found = read_folder(folder, MTQ)
        parts = {shard: load_file(path) for shard, path in found.paths().items()}
        if strict:
            found.check(lambda shard: parts[shard])
        return {name: tensor for part in parts.values() for name, tensor in part.items()}
    files = read_folder(folder, SAFETENSORS)
    with closing(WrappedTensors([folder / shard for shard in files.shards])) as opened:
        if strict:
            files.check(lambda shard: opened.names_in(folder / shard))
        return {name: tensor for name, _, tensor in opened.items()}
