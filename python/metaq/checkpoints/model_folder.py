"""Folders of `.mtq` shards to folders that `AutoModel.from_pretrained` loads once metaq's quantizer is known to it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.model_card import Facts, read_card, write_card
from metaq.checkpoints.places import check_folder, may_finish, working
from metaq.errors import InputError, nearest_name
from metaq.files import open_bytes, read_json, write_atomically
from metaq.format.dtypes import DTYPES
from metaq.format.reader import Reader
from metaq.io.huggingface import MTQ, SAFETENSORS, Folder, read_folder
from metaq.io.payload import (
    METADATA,
    PAYLOAD,
    QUANT_METHOD,
    VERSION,
    WrappedTensors,
    has_payload,
    wrapping_bytes,
    write_wrapped,
)
from metaq.io.source import TensorSource
from metaq.progress import Progress

CONFIG = "config.json"
_STEM = "model"  # by which transformers finds files


def read_config(folder: Path) -> dict[str, Any]:
    """A model's `config.json`, which must be one that `AutoModel` can go by.

    Raises:
        InputError: there is none, it is no JSON object, it names no model that the installed `transformers` knows, or
            its weights are quantized by another library.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{path}: expected the configuration of a transformers model, found no such file")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{path}: expected an object with a 'model_type', which AutoModel needs, found none")
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise InputError(f"{path}: expected an object in 'quantization_config', found another value")
    method = quantization.get("quant_method")
    if quantization and method != QUANT_METHOD:
        raise InputError(f"{path}: expected weights that are not quantized yet, found quantization by {method}")
    _check_known(path, config)
    return config


def _check_known(path: Path, config: dict[str, Any]) -> None:
    if "auto_map" in config or importlib.util.find_spec("transformers") is None:
        return  # the model brings its own code, or there is nothing to ask
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = config["model_type"]
    if name not in CONFIG_MAPPING:
        known = f"a model_type that transformers {__version__} knows"
        remedy = f"{nearest_name(name, CONFIG_MAPPING.keys())}; without --as safetensors the class need not be known"
        raise InputError(f"{path}: expected {known}, found {name!r}{remedy}")


def check_replaceable(output: Path) -> None:
    """Raise an InputError if a place to write to has safetensors files of which none has a `.mtq` file in it."""
    files = sorted(output.glob(f"*{SAFETENSORS}")) if output.is_dir() else []
    if files and not any(map(has_payload, files)):
        raise InputError(f"{output}: expected no such folder or one that metaq made, found one of other weights")


def check_uncompressed(folder: Path, parts: Mapping[str, TensorSource]) -> None:
    """Raise an InputError if a folder's shards have `.mtq` files in them."""
    for tensors in parts.values():
        if any(name.startswith(PAYLOAD) for name in tensors.layouts):
            remedy = "compress the folder that it was made of"
            raise InputError(f"{folder}: expected weights that are not compressed yet, found .mtq files; {remedy}")


def without_wrapping(config: CompressionConfig, parts: Mapping[str, TensorSource]) -> CompressionConfig:
    """A configuration by which the files keep below its size with what is written around the `.mtq` files.

    Raises:
        InputError: nothing would be left.
    """
    if config.size_bytes is None:
        return config
    around = sum(wrapping_bytes(tensors.layouts, number) for number, tensors in enumerate(parts.values()))
    if around >= config.size_bytes:
        raise InputError(f"size_bytes: expected more than the {around} that names take, found {config.size_bytes}")
    return replace(config, size_bytes=config.size_bytes - around)


def finish_model_folder(folder: Path, report: CompressionReport, weights: int) -> CompressionReport:
    """Put the `.mtq` shards of a finished folder into safetensors files, and a card beside them.

    Args:
        weights: how many there are.

    Returns:
        The report, with the size of the safetensors files.

    Raises:
        InputError: as `wrap_folder`.
    """
    shards = read_folder(folder, MTQ)
    report = replace(report, file_bytes=wrap_folder(shards, folder))
    for name in (*shards.shards, *([] if shards.index is None else [shards.index])):
        (folder / name).unlink()
    facts = Facts(report.file_bytes, report.source_bytes, weights, report.relative_squared_error, report.coder)
    write_card(folder, facts, read_config(folder), Path(report.file).name, read_card(folder))
    return report


def wrap_folder(source: Folder, target: Path) -> int:
    """Write safetensors files with a folder's `.mtq` shards in them, their index, and the `config.json` that says so.

    Those of an earlier model in their place are removed.

    Args:
        source: of `.mtq` shards, with a `config.json` beside them.
        target: a folder that exists.

    Returns:
        The size of the safetensors files in bytes.

    Raises:
        InputError: as `read_config`, or a place cannot be written.
        FormatError: a shard is not a whole `.mtq` file.
    """
    config = read_config(source.path)
    config["quantization_config"] = {"quant_method": QUANT_METHOD, "version": VERSION}
    if config.get("dtype", config.get("torch_dtype")) is None:
        config["dtype"] = _first_dtype(source)
    places: dict[str, str] = {}
    for number, (shard, path) in enumerate(source.paths().items()):
        name = _STEM + SAFETENSORS if source.index is None else source.renamed(shard, SAFETENSORS)
        places |= dict.fromkeys(write_wrapped(path, target / name, number), name)
    size_bytes = sum((target / name).stat().st_size for name in set(places.values()))
    for path in target.glob(f"{_STEM}*{SAFETENSORS}"):
        if path.name not in places.values() and has_payload(path):
            path.unlink()
    index_path = target / f"{_STEM}{SAFETENSORS}.index.json"
    if source.index is None:
        index_path.unlink(missing_ok=True)
    else:
        index = {"metadata": {"total_size": size_bytes}, "weight_map": dict(sorted(places.items()))}
        _write_json(index_path, index)
    _write_json(target / CONFIG, config)
    return size_bytes


def unwrap_folder(source: Path, output: Path, resume: bool, force: bool, progress: Progress) -> None:
    """The inverse of `finish_model_folder`: the weights as plain tensors, under the names that they have in ``source``.

    Arguments and errors are those of `decompress_path`.
    """
    from metaq.io.safetensors import write_safetensors

    found = read_folder(source, SAFETENSORS)
    check_folder(found, output, SAFETENSORS, force or may_finish(output, resume))
    places = {
        name: shard for name, shard in found.content.get("weight_map", {}).items() if not name.startswith(PAYLOAD)
    }
    found = replace(found, content=found.content | {"weight_map": places})
    with (
        working(output, "decompress", found.paths(), {}, resume) as folder,
        closing(WrappedTensors(list(found.paths().values()))) as tensors,
    ):
        if folder.finished is not None:
            folder.remove()
            return
        progress.begin("decompressing", sum(path.stat().st_size for path in found.paths().values()))
        for shard, path in found.paths().items():
            if not folder.is_written(shard, ""):
                write_safetensors(
                    folder.path / shard, {name: tensor for name, _, tensor in tensors.items_in(path)}, METADATA
                )
                folder.record(shard, "", {})
            progress.advance(path.stat().st_size, (folder.path / shard).stat().st_size)
        found.finish(folder.path, SAFETENSORS)
        config = read_config(folder.path)
        del config["quantization_config"]
        _write_json(folder.path / CONFIG, config)
        folder.publish_all({})


def _first_dtype(folder: Folder) -> str:
    """What transformers would take for the dtype of floats: that of the first of them."""
    for path in folder.paths().values():
        for row in Reader(open_bytes(path), str(path)).rows:
            if DTYPES[row[1]].is_float:
                return DTYPES[row[1]].name
    return "float32"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
