"""Checkpoints of any kind to `.mtq` and back: files, folders of shards, standard input and output."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metaq.checkpoints.checkpoint import Checkpoint
from metaq.checkpoints.chunk_decoder import (
    decode_to_safetensors,
    decoded_bytes,
    open_reader,
    stored_tensors,
)
from metaq.checkpoints.chunk_encoder import Totals
from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.places import check_file, check_folder, work_folder
from metaq.checkpoints.work_folder import WorkFolder, fingerprint
from metaq.io import format_for, open_source
from metaq.io.huggingface import MTQ, SAFETENSORS, read_checkpoint_folder, read_folder
from metaq.io.onnx import GRAPH
from metaq.io.source import TensorSource
from metaq.io.standard import STANDARD, readable, writable
from metaq.progress import Progress
from metaq.threads import in_parallel, thread_counts


def compress_path(
    source: Path,
    output: Path,
    config: CompressionConfig,
    *,
    resume: bool = False,
    force: bool = False,
    key: str | None = None,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress a file, or a folder of shards to such a folder; "-" is standard input or output.

    Args:
        config: to what error or size.
        resume: go on with what a stopped run left.
        force: replace an output that exists, which is refused otherwise. The source is never replaced.
        key: under which the state dict is, in files of torch.save that hold more than one.

    Raises:
        InputError: the source is unreadable or of an unknown kind, no step meets what is asked for, or the output
            cannot be written or exists.
    """
    start, progress = time.perf_counter(), progress or Progress()
    described = asdict(config) | {"key": key}
    if source.is_dir():
        found = read_checkpoint_folder(source)
        check_folder(found, output, MTQ, force)
        with ExitStack() as opened:
            sources = {shard: opened.enter_context(closing(open_source(source / shard, key))) for shard in found.shards}
            found.check(lambda shard: sources[shard].layouts)
            parts = {found.renamed(shard, MTQ): tensors for shard, tensors in sources.items()}
            with _working(output, _options("compress", found.paths(), described), resume) as folder:
                checkpoint, totals = _compress(parts, config, folder, progress)
        found.finish(folder.path, MTQ)
        folder.publish_all(output)
        return _report(checkpoint, totals, str(output), len(parts), start)
    check_file(source, output, force)
    with readable(source) as path, writable(output, MTQ) as target:
        place = Path(os.path.realpath(target))  # a link stays, what it points to is written
        options = _options("compress", {place.name: path}, described)
        with closing(open_source(path, key)) as tensors, _working(place, options, resume) as folder:
            checkpoint, totals = _compress({place.name: tensors}, config, folder, progress)
        folder.publish(place.name, place)
        return _report(checkpoint, totals, str(output), None, start)


def decompress_path(
    source: Path, output: Path, *, resume: bool = False, force: bool = False, progress: Progress | None = None
) -> None:
    """The inverse of `compress_path`, to the kind of file that the output's suffix names.

    Standard output is given an `.onnx` model if the file holds one, otherwise a `.safetensors` file.

    Args:
        resume: go on with what a stopped run left of a folder.
        force: replace an output that exists, which is refused otherwise. The source is never replaced.

    Raises:
        InputError: the source is unreadable, the output's suffix unknown, or the output cannot be written or exists.
        FormatError: the source is not a whole and unchanged `.mtq` file.
    """
    progress = progress or Progress()
    if source.is_dir():
        _decompress_folder(source, output, resume, force, progress)
        return
    if output != STANDARD:
        format_for(output)
    check_file(source, output, force)
    with readable(source) as path:
        reader = open_reader(path)
        is_onnx = any(entry.name == GRAPH for entry in reader.header.tensors)
        with writable(output, ".onnx" if is_onnx else SAFETENSORS) as target:
            progress.begin("decompressing", decoded_bytes(reader))
            if target.suffix == SAFETENSORS:
                decode_to_safetensors(reader, target, thread_counts(1)[1], progress)
            else:
                tensors = stored_tensors(reader, with_graph=target.suffix == ".onnx")
                format_for(target).write(target, tensors, reader.header.metadata)


def _compress(
    parts: Mapping[str, TensorSource], config: CompressionConfig, folder: WorkFolder, progress: Progress
) -> tuple[Checkpoint, Totals]:
    checkpoint = Checkpoint(parts, config, progress, folder)
    return checkpoint, checkpoint.write(checkpoint.find_step())


def _decompress_folder(source: Path, output: Path, resume: bool, force: bool, progress: Progress) -> None:
    found = read_folder(source, MTQ)
    check_folder(found, output, SAFETENSORS, force)
    readers = {shard: open_reader(path) for shard, path in found.paths().items()}
    found.check(lambda shard: [entry.name for entry in readers[shard].header.tensors])
    sizes = {shard: decoded_bytes(reader) for shard, reader in readers.items()}
    outer, inner = thread_counts(len(found.shards))
    stop = threading.Event()

    def decode(shard: str) -> None:
        part = found.renamed(shard, SAFETENSORS)
        if folder.is_written(part, ""):
            progress.advance(sizes[shard], sizes[shard])
        else:
            decode_to_safetensors(readers[shard], folder.path / part, inner, progress, stop)
            folder.record(part, "", {})

    with _working(output, _options("decompress", found.paths(), {}), resume) as folder:
        progress.begin("decompressing", sum(sizes.values()))
        in_parallel(decode, found.shards, outer, stop)
    found.finish(folder.path, SAFETENSORS)
    folder.publish_all(output)


@contextmanager
def _working(output: Path, options: Mapping[str, Any], resume: bool) -> Iterator[WorkFolder]:
    """The folder in which an output is made; after a failure it stays if a part of it is finished."""
    folder = WorkFolder(work_folder(output), options, resume)
    try:
        yield folder
    except BaseException:
        folder.close()
        raise


def _options(work: str, sources: Mapping[str, Path], described: Mapping[str, Any]) -> dict[str, Any]:
    """All that the parts depend on."""
    return {"work": work, "source": fingerprint(sources), **described}


def _report(checkpoint: Checkpoint, totals: Totals, file: str, shards: int | None, start: float) -> CompressionReport:
    count, energy = checkpoint.count, checkpoint.energy
    return CompressionReport(
        file=file,
        shards=shards,
        tensors=len(checkpoint.owner),
        source_bytes=checkpoint.size_bytes,
        file_bytes=totals.size_bytes,
        relative_squared_error=totals.squared_error / energy if energy else 0.0,
        bits_per_weight=totals.bits / count if count else None,
        coder=checkpoint.coder,
        seconds=time.perf_counter() - start,
    )
