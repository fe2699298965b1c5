"""Checkpoints of any kind to `.mtq` and back: files, folders of shards, standard input and output."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metaq import api, coding
from metaq.checkpoints.chunk_encoder import decode_to_safetensors, decoded_bytes
from metaq.checkpoints.in_memory import compress_state_dict
from metaq.checkpoints.plan import Dials
from metaq.checkpoints.shards import Shards
from metaq.checkpoints.work_folder import STATE, WorkFolder, fingerprint
from metaq.compressed_model import CompressedModel
from metaq.errors import InputError
from metaq.files import map_bytes
from metaq.format.reader import Reader
from metaq.io import check_suffix, read_state, write_state
from metaq.io.huggingface import MTQ, SAFETENSORS, Folder, read_folder
from metaq.io.onnx import GRAPH
from metaq.io.safetensors import SafetensorsFile
from metaq.io.standard import STANDARD, readable, writable
from metaq.progress import Progress
from metaq.quantizers import uniform
from metaq.quantizers.lossless import compress_losslessly
from metaq.tensors import load_tensors
from metaq.threads import in_parallel, thread_counts

LARGE_BYTES = 1 << 24  # from here on a .safetensors file is read a piece at a time


def compress_path(
    source: Path, output: Path, dials: Dials, resumes: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Compress a file, or a folder of shards to such a folder; "-" is standard input or output.

    Args:
        resumes: go on with what a stopped run left of a folder or a large file.

    Returns:
        What came of it: the number of tensors, bytes before and after.

    Raises:
        InputError: the source is unreadable or of an unknown kind, the options lead nowhere, or the output cannot be
            written.
    """
    progress = progress or Progress()
    coding.by_name(dials.coder or coding.DEFAULT_CODER)
    if source.is_dir():
        return _compress_folder(source, output, dials, resumes, progress)
    with readable(source) as path, writable(output, MTQ) as target:
        is_large = path.suffix == SAFETENSORS and path.is_file() and path.stat().st_size >= LARGE_BYTES
        work = _compress_large if is_large else _compress_small
        return {"file": str(output), **work(path, target, dials, resumes, progress)}


def decompress_path(source: Path, output: Path, resumes: bool = False, progress: Progress | None = None) -> None:
    """The inverse of `compress_path`, to the kind of file that the output's suffix names.

    Standard output is given an `.onnx` model if the file holds one, otherwise a `.safetensors` file.

    Raises:
        InputError: the source is unreadable, the output's suffix unknown, or the output cannot be written.
        FormatError: the source is not a whole and unchanged `.mtq` file.
    """
    progress = progress or Progress()
    if source.is_dir():
        _decompress_folder(source, output, resumes, progress)
        return
    if output != STANDARD:
        check_suffix(output)
    with readable(source) as path:
        reader = Reader(map_bytes(path), str(path))
        is_onnx = any(entry.name == GRAPH for entry in reader.header.tensors)
        with writable(output, ".onnx" if is_onnx else SAFETENSORS) as target:
            if target.suffix == SAFETENSORS:
                progress.begin("decompressing", decoded_bytes(reader))
                decode_to_safetensors(reader, target, thread_counts(1)[1], progress)
                return
            progress.begin(f"decompressing {path.name}")
            write_state(target, load_tensors(reader), reader.header.metadata)


def work_folder(output: Path) -> Path:
    """Where what is finished of an output waits for the rest."""
    return output.with_name(f"{output.name}.partial")


def _compress_small(path: Path, target: Path, dials: Dials, resumes: bool, progress: Progress) -> dict[str, Any]:
    """All in memory."""
    state, metadata = read_state(path)
    progress.begin(f"compressing {path.name}")
    size_bytes = sum(tensor.numel() * tensor.dtype.itemsize for tensor in state.values())
    coder = dials.coder or coding.suitable(size_bytes, dials.lossless)
    if dials.lossless:
        model = compress_losslessly(state)
    elif dials.step is not None:
        model = uniform.compress(state, step=dials.step)
    else:
        model = compress_state_dict(state, replace(dials.config, coder=coder), metadata)
    size = api.save(CompressedModel(model.tensors, metadata), target, coder)
    return _result(len(state), size_bytes, size)


def _compress_large(path: Path, target: Path, dials: Dials, resumes: bool, progress: Progress) -> dict[str, Any]:
    """A piece at a time."""
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: expected a file to write, found a directory or a device")
    folder = WorkFolder(work_folder(target), _options("compress", {target.name: path}, dials), resumes)
    result = _compress_shards({target.name: path}, dials, folder, progress)
    os.replace(folder.path / target.name, target)
    folder.remove()
    return result


def _compress_folder(source: Path, output: Path, dials: Dials, resumes: bool, progress: Progress) -> dict[str, Any]:
    found = read_folder(source, SAFETENSORS)
    found.check(lambda shard: _names(source / shard))
    folder = _folder_for(found, output, MTQ, _options("compress", _paths(found), dials), resumes)
    sources = {found.renamed(shard, MTQ): path for shard, path in _paths(found).items()}
    result = _compress_shards(sources, dials, folder, progress)
    _finish(found, folder, output, MTQ)
    return {"folder": str(output), "shards": len(sources), **result}


def _compress_shards(
    sources: Mapping[str, Path], dials: Dials, folder: WorkFolder, progress: Progress
) -> dict[str, Any]:
    try:
        with ExitStack() as opened:
            files = {part: opened.enter_context(closing(SafetensorsFile(path))) for part, path in sources.items()}
            shards = Shards(files, dials, folder, progress)
            size = shards.compress()
    except BaseException:
        folder.close()
        raise
    return _result(len(shards.owner), shards.size_bytes, size)


def _decompress_folder(source: Path, output: Path, resumes: bool, progress: Progress) -> None:
    found = read_folder(source, MTQ)
    readers = {shard: Reader(map_bytes(source / shard), str(source / shard)) for shard in found.shards}
    found.check(lambda shard: [entry.name for entry in readers[shard].header.tensors])
    folder = _folder_for(found, output, SAFETENSORS, _options("decompress", _paths(found), None), resumes)
    sizes = {shard: decoded_bytes(readers[shard]) for shard in found.shards}
    outer, inner = thread_counts(len(found.shards))
    stop = threading.Event()
    progress.begin("decompressing", sum(sizes.values()))

    def decode(shard: str) -> None:
        part = found.renamed(shard, SAFETENSORS)
        if folder.is_written(part, ""):
            progress.advance(sizes[shard], sizes[shard])
        else:
            decode_to_safetensors(readers[shard], folder.path / part, inner, progress, stop)
            folder.record(part, "", {})

    try:
        in_parallel(decode, found.shards, outer, stop)
    except BaseException:
        folder.close()
        raise
    _finish(found, folder, output, SAFETENSORS)


def _folder_for(found: Folder, output: Path, suffix: str, options: Mapping[str, Any], resumes: bool) -> WorkFolder:
    """The folder to work in, once it is clear that what comes of it can take the output's place."""
    if output == STANDARD:
        raise InputError(f"{found.path}: expected a folder to write to for a folder, found standard output")
    if output.resolve().is_relative_to(found.path.resolve()):
        raise InputError(f"{output}: expected a place outside of {found.path}, found one inside")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        kind = "one with files in it" if output.is_dir() else "a file"
        raise InputError(f"{output}: expected no such folder or an empty one, found {kind}")
    found.check_names(suffix)
    return WorkFolder(work_folder(output), options, resumes)


def _finish(found: Folder, folder: WorkFolder, output: Path, suffix: str) -> None:
    """The finished shards, and what lies beside them, take the output's place."""
    found.finish(folder.path, suffix)
    try:
        os.rename(folder.path, output)
        (output / STATE).unlink()
    except OSError as error:
        raise InputError(f"{output}: expected a writable place, found {error.strerror}") from None


def _paths(found: Folder) -> dict[str, Path]:
    return {shard: found.path / shard for shard in found.shards}


def _names(path: Path) -> list[str]:
    file = SafetensorsFile(path)
    file.close()
    return list(file.tensors)


def _options(work: str, sources: Mapping[str, Path], dials: Dials | None) -> dict[str, Any]:
    return {"work": work, "source": fingerprint(sources), **({} if dials is None else asdict(dials))}


def _result(tensors: int, before: int, size: int) -> dict[str, Any]:
    return {"tensors": tensors, "bytes_before": before, "bytes": size, "ratio": before / size}
