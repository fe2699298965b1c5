"""A folder of shards to a compressed one by its model and some data. The model and the files are held in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metaq import coding
from metaq.checkpoints.calibrated import compress_calibrated
from metaq.checkpoints.compressed_shards import Shard, Summary, encode_shard, entries_at
from metaq.checkpoints.config import DEFAULT_BITS, QUALITIES, CompressionConfig, CompressionReport
from metaq.checkpoints.folder_kind import FolderKind
from metaq.checkpoints.places import working
from metaq.checkpoints.shard_folder import opened_folder
from metaq.checkpoints.source_names import Matches, Place, match
from metaq.checkpoints.state_dict import compress_state_dict
from metaq.compressed_model import CodedTensor, encode
from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.format.network import Layout
from metaq.io.source import TensorSource, size_bytes
from metaq.progress import Progress
from metaq.tensors import DTYPES

Load = Callable[[], tuple[nn.Module, Iterable[Any]]]
"""Gives a model and batches for it, as `metaq.calibrate` takes them."""

_TRIALS = 4  # to meet what is asked for in shards and in their dtypes: the model is in one piece, and in its own
_SHARDS_TAKE = 2e-3  # more bits than one file, as a share
_NAMES_SHOWN = 3

_log = logging.getLogger(__name__)


def compress_calibrated_folder(
    source: Path,
    output: Path,
    load: Load,
    config: CompressionConfig,
    *,
    refit_epochs: int | None = None,
    force: bool = False,
    key: str | None = None,
    kind: FolderKind = FolderKind.MTQ,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress a folder of shards to such a folder, as `compress_path` does, but by what data says of the model.

    The files have the names, shapes and dtypes of the source's tensors, whatever the model calls them and computes in.
    Tensors that are not in the model are compressed without data; a warning is logged that names weights among them.

    Args:
        load: gives the model of the folder, its weights being those of the shards, and the data. It is called once it
            is known that the source can be read and that the output may be written.
        config: to what error or size; neither a step nor lossless.
        refit_epochs: for how many epochs norms and biases are fitted afterwards; if not given, as by default of
            `compress_calibrated`.
        force: as of `compress_path`.
        key: as of `compress_path`.
        kind: as of `compress_path`.

    Raises:
        InputError: what `compress_path` or `compress_calibrated` refuses, or a model of other tensors.
    """
    start, progress = time.perf_counter(), progress or Progress()
    check_config(config)
    with opened_folder(source, output, kind, key, force) as opened:
        parts = opened.parts
        config.check_names(name for tensors in parts.values() for name in tensors.layouts)
        coder = config.coder or coding.suitable(sum(map(size_bytes, parts.values())))
        config = replace(opened.asked_of_shards(config), coder=coder)
        with working(output, "compress with data", opened.found.paths(), {}, resume=False) as folder:
            progress.begin("loading the model and the data")
            model, batches = load()
            shards = _shards(parts, model, list(batches), config, refit_epochs, progress)
            for part, shard in shards.items():
                write_atomically(folder.path / part, shard.data)
            return opened.publish(folder, _report(parts, shards, str(output), coder, start))


def check_config(config: CompressionConfig) -> None:
    """Raise an InputError unless data has a say in what a configuration asks for."""
    for name, is_given in (("lossless", config.lossless), ("step", config.step is not None)):
        if is_given:
            expected = "bits, a size or an error to compress to"
            raise InputError(f"calibrate: expected {expected}, found {name}, where data has no say")


def _shards(
    parts: Mapping[str, TensorSource],
    model: nn.Module,
    batches: list[Any],
    config: CompressionConfig,
    refit_epochs: int | None,
    progress: Progress,
) -> dict[str, Shard]:
    """The files, by their names; together they meet what is asked for."""
    matches = _matches(parts, model)
    target, wanted = _target(config)
    others, others_bytes = _others(parts, matches, config)
    aim = wanted - others_bytes if target == "size_bytes" else wanted
    aim *= 1 - _SHARDS_TAKE if len(parts) > 1 else 1
    translated = matches.translated(config)
    options: dict[str, Any] = {} if refit_epochs is None else {"refit_epochs": refit_epochs}
    for _ in range(_TRIALS):
        aimed = _aimed(translated, target, aim)
        compressed = compress_calibrated(model, batches, aimed, progress=progress, **options)
        entries = entries_at(compressed, matches.places, parts.values()) | others
        shards = _encoded(parts, entries, config, progress)
        found = getattr(Summary(shards.values()), target)
        if found <= wanted:
            return shards
        aim -= 1.5 * (found - wanted) + wanted * _SHARDS_TAKE  # what is not in the model does not follow the aim
    raise InputError(f"{target}: expected at most {wanted:g}, found {found:g} after {_TRIALS} trials")


def _target(config: CompressionConfig) -> tuple[str, float]:
    """The name of what is to be met, as a field of the configuration, and its value."""
    if config.size_bytes is not None:
        return "size_bytes", config.size_bytes
    if config.quality is not None or config.max_error is not None:
        return "max_error", config.max_error or QUALITIES[str(config.quality)]
    return "bits", config.bits or DEFAULT_BITS


def _aimed(config: CompressionConfig, target: str, aim: float) -> CompressionConfig:
    """The configuration with this in the place of its target."""
    changes: dict[str, Any] = {"quality": None, target: max(1, int(aim)) if target == "size_bytes" else aim}
    return replace(config, **changes)


def _matches(parts: Mapping[str, TensorSource], model: nn.Module) -> Matches:
    matches = match(parts.values(), model.state_dict())
    if not matches.places:
        raise InputError(
            f"calibrate: expected a model of the folder's tensors, found a {type(model).__name__} of others"
        )
    layouts = {name: layout for source in parts.values() for name, layout in source.layouts.items()}
    weights = [name for name in matches.missing if _is_weight(layouts[name])]
    if weights:
        shown = ", ".join(weights[:_NAMES_SHOWN])
        more = f" and {len(weights) - _NAMES_SHOWN} more" if len(weights) > _NAMES_SHOWN else ""
        expected = f"every weight of the folder in the {type(model).__name__}, found none for {shown}{more}"
        _log.warning("calibrate: expected %s; those are compressed without data", expected)
    return matches


def _is_weight(layout: Layout) -> bool:
    return DTYPES[layout.dtype].is_floating_point and len(layout.shape) > 1


def _others(
    parts: Mapping[str, TensorSource], matches: Matches, config: CompressionConfig
) -> tuple[dict[str, CodedTensor | Tensor], int]:
    """What is not in the model, compressed without data by its source's names, and the bytes that it takes."""
    state = {
        name: source.read(name, range(layout.size)).reshape(layout.shape)
        for source in parts.values()
        for name, layout in source.layouts.items()
        if name in matches.missing
    }
    if not state:
        return {}, 0
    own_config = config.of_names(state)
    if config.size_bytes is not None:
        share = sum(tensor.nbytes for tensor in state.values()) / sum(map(size_bytes, parts.values()))
        own_config = replace(own_config, size_bytes=max(1, int(config.size_bytes * share)))
    found = compress_state_dict(state, own_config)
    places = {name: Place(name) for name in state}
    return entries_at(found, places, parts.values()), len(encode(found, str(config.coder)))


def _encoded(
    parts: Mapping[str, TensorSource],
    entries: Mapping[str, CodedTensor | Tensor],
    config: CompressionConfig,
    progress: Progress,
) -> dict[str, Shard]:
    progress.begin("coding", sum(map(size_bytes, parts.values())))
    shards = {}
    for part, source in parts.items():
        shards[part] = encode_shard(source, entries, config.keeps, str(config.coder))
        progress.advance(size_bytes(source), len(shards[part].data))
    return shards


def _report(
    parts: Mapping[str, TensorSource], shards: Mapping[str, Shard], folder: str, coder: str, start: float
) -> CompressionReport:
    summary = Summary(shards.values())
    return CompressionReport(
        file=folder,
        shards=len(shards),
        tensors=sum(len(source.layouts) for source in parts.values()),
        source_bytes=sum(map(size_bytes, parts.values())),
        file_bytes=summary.size_bytes,
        relative_squared_error=summary.max_error,
        bits_per_weight=summary.bits if summary.weights else None,
        coder=coder,
        seconds=time.perf_counter() - start,
    )
