"""`.mtq` files and folders back to checkpoints.

Needs torch only to write files of torch.save, and to read safetensors files with `.mtq` files in them.
"""

from __future__ import annotations

import threading
from pathlib import Path

from metaq.checkpoints.chunk_decoder import decode_to_safetensors, decoded_bytes, open_reader, stored_tensors
from metaq.checkpoints.model_folder import unwrap_folder
from metaq.checkpoints.places import check_file, check_folder, may_finish, working
from metaq.io import format_for
from metaq.io.huggingface import MTQ, SAFETENSORS, read_folder
from metaq.io.onnx import GRAPH
from metaq.io.payload import has_payload
from metaq.io.standard import STANDARD, readable, writable
from metaq.progress import Progress
from metaq.threads import in_parallel, thread_counts


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


def _decompress_folder(source: Path, output: Path, resume: bool, force: bool, progress: Progress) -> None:
    if any(map(has_payload, source.glob(f"*{SAFETENSORS}"))):
        unwrap_folder(source, output, resume, force, progress)
        return
    found = read_folder(source, MTQ)
    check_folder(found, output, SAFETENSORS, force or may_finish(output, resume))
    names: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for shard, path in found.paths().items():  # one at a time: there may be more than a process may open
        reader = open_reader(path)
        names[shard], sizes[shard] = [entry.name for entry in reader.header.tensors], decoded_bytes(reader)
    found.check(lambda shard: names[shard])
    outer, inner = thread_counts(len(found.shards))
    stop = threading.Event()

    def decode(shard: str) -> None:
        part = found.renamed(shard, SAFETENSORS)
        if folder.is_written(part, ""):
            progress.advance(sizes[shard], sizes[shard])
        else:
            decode_to_safetensors(open_reader(source / shard), folder.path / part, inner, progress, stop)
            folder.record(part, "", {})

    with working(output, "decompress", found.paths(), {}, resume) as folder:
        if folder.finished is not None:
            folder.remove()
            return
        progress.begin("decompressing", sum(sizes.values()))
        in_parallel(decode, found.shards, outer, stop)
        found.finish(folder.path, SAFETENSORS)
        folder.publish_all({})
