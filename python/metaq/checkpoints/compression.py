"""Checkpoints of any kind to `.mtq`: files, folders of shards, standard input."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import get_type_hints

from metaq.checkpoints.checkpoint import Checkpoint
from metaq.checkpoints.chunk_encoder import Totals
from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.folder_kind import FolderKind
from metaq.checkpoints.places import check_file, may_finish, working
from metaq.checkpoints.ranks import Ranks, sizes_bytes
from metaq.checkpoints.resumable import WorkFolder
from metaq.checkpoints.shard_folder import opened_folder
from metaq.errors import InputError
from metaq.floats import default_floats
from metaq.io import open_source
from metaq.io.huggingface import MTQ
from metaq.io.source import TensorSource
from metaq.io.standard import readable, writable
from metaq.progress import Progress


@default_floats()
def compress_path(
    source: Path,
    output: Path,
    config: CompressionConfig,
    *,
    resume: bool = False,
    force: bool = False,
    key: str | None = None,
    kind: FolderKind = FolderKind.MTQ,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> CompressionReport:
    """Compress a file, or a folder of shards to such a folder; "-" is standard input or output.

    Args:
        config: to what error or size.
        resume: go on with what a stopped run left.
        force: replace an output that exists, which is refused otherwise. The source is never replaced.
        key: under which the state dict is, in files of torch.save that hold more than one.
        kind: of the shards of a compressed folder. Those of safetensors are for `AutoModel.from_pretrained`, and a
            `README.md` beside them says what came of the compression and how to load it.
        ranks: other processes, among which the shards of a folder are shared.

    Raises:
        InputError: the source is unreadable or of an unknown kind, no step meets what is asked for, or the output
            cannot be written or exists.
    """
    start, progress = time.perf_counter(), progress or Progress()
    described = asdict(config) | {"key": key, "kind": kind}
    if source.is_dir():
        with opened_folder(source, output, kind, key, force or may_finish(output, resume)) as shards:
            config = shards.asked_of_shards(config)
            with working(output, "compress", shards.found.paths(), described, resume) as folder:
                if folder.finished is not None:
                    return _finished(folder)
                if ranks is not None:
                    ranks.share(shards.absolute_paths(), sizes_bytes(shards.parts), key)
                checkpoint, totals = _compress(shards.parts, config, folder, progress, ranks)
                report = _report(checkpoint, totals, str(output), len(shards.parts), start)
                return shards.publish(folder, report)
    if kind is not FolderKind.MTQ:
        raise InputError(f"{source}: expected a folder of shards to write as {kind}, found a file")
    if ranks is not None:
        raise InputError(f"{source}: expected a folder of shards to share among {ranks.count} ranks, found a file")
    check_file(source, output, force or may_finish(output, resume))
    with (
        readable(source) as path,
        writable(output, MTQ) as target,
        closing(open_source(path, key)) as tensors,
        working(target, "compress", {target.name: path}, described, resume) as folder,
    ):
        if folder.finished is not None:
            return _finished(folder)
        checkpoint, totals = _compress({target.name: tensors}, config, folder, progress)
        report = _report(checkpoint, totals, str(output), None, start)
        folder.publish(target.name, asdict(report))
        return report


def _finished(folder: WorkFolder) -> CompressionReport:
    """What a run came to that was stopped when all was done.

    Raises:
        InputError: it has left something else.
    """
    found, kinds = folder.finished, get_type_hints(CompressionReport)
    assert found is not None
    is_whole = found.keys() == kinds.keys() and all(isinstance(found[name], kind) for name, kind in kinds.items())
    if not is_whole or found["file_bytes"] < 1 or not 0 <= found["source_bytes"] < 1 << 63:
        raise folder.damaged()
    folder.remove()
    return CompressionReport(**found)


def _compress(
    parts: Mapping[str, TensorSource],
    config: CompressionConfig,
    folder: WorkFolder,
    progress: Progress,
    ranks: Ranks | None = None,
) -> tuple[Checkpoint, Totals]:
    checkpoint = Checkpoint(parts, config, progress, folder, workers=ranks)
    return checkpoint, checkpoint.write(checkpoint.find_step())


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
