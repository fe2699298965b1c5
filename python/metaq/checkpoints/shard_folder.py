"""Folders of shards: how one is opened to be compressed, and how the folder that comes of it is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from metaq.checkpoints.config import CompressionConfig, CompressionReport
from metaq.checkpoints.folder_kind import FolderKind
from metaq.checkpoints.model_folder import (
    check_replaceable,
    check_uncompressed,
    finish_model_folder,
    read_config,
    without_wrapping,
)
from metaq.checkpoints.places import check_folder
from metaq.checkpoints.resumable import WorkFolder
from metaq.io import open_source
from metaq.io.huggingface import MTQ, Folder, read_checkpoint_folder
from metaq.io.source import TensorSource


class ShardFolder:
    """A folder whose shards are open, and the kind of folder that is to come of it.

    Attributes:
        found: the folder.
        parts: its shards, by the names of the `.mtq` shards that come of them.
        kind: of the folder to come.
    """

    def __init__(self, found: Folder, parts: Mapping[str, TensorSource], kind: FolderKind) -> None:
        self.found, self.parts, self.kind = found, parts, kind

    def asked_of_shards(self, config: CompressionConfig) -> CompressionConfig:
        """What the `.mtq` shards are to meet, so that the folder meets what the configuration says.

        Raises:
            InputError: its size leaves nothing for them.
        """
        return without_wrapping(config, self.parts) if self.kind is FolderKind.SAFETENSORS else config

    def absolute_paths(self) -> dict[str, Path]:
        """Where the shards are, by the names of the `.mtq` shards."""
        return {self.found.renamed(shard, MTQ): path.absolute() for shard, path in self.found.paths().items()}

    def publish(self, folder: WorkFolder, report: CompressionReport) -> CompressionReport:
        """Finish a folder that has all `.mtq` shards, as one of the kind that is to come, and move it to its place.

        Returns:
            The report, with the size of the files with weights.

        Raises:
            InputError: a file cannot be read or written.
        """
        self.found.finish(folder.path, MTQ)
        if self.kind is FolderKind.SAFETENSORS:
            weights = sum(layout.size for tensors in self.parts.values() for layout in tensors.layouts.values())
            report = finish_model_folder(folder.path, report, weights)
        folder.publish_all(asdict(report))
        return report


@contextmanager
def opened_folder(source: Path, output: Path, kind: FolderKind, key: str | None, force: bool) -> Iterator[ShardFolder]:
    """Open a folder of shards of which it is known that a folder of this kind may be written to the output.

    Args:
        key: under which the state dict is, in files of torch.save that hold more than one.
        force: whether an output that exists may be replaced.

    Raises:
        InputError: the source cannot be read, or is compressed already; the output may not be written; or the source
            has no configuration of a model, which folders of safetensors need.
    """
    found = read_checkpoint_folder(source)
    check_folder(found, output, kind.suffix, force)
    if kind is FolderKind.SAFETENSORS:
        check_replaceable(output)
        read_config(source)
    with ExitStack() as opened:
        sources = {shard: opened.enter_context(closing(open_source(source / shard, key))) for shard in found.shards}
        found.check(lambda shard: sources[shard].layouts)
        parts = {found.renamed(shard, MTQ): tensors for shard, tensors in sources.items()}
        check_uncompressed(source, parts)
        yield ShardFolder(found, parts, kind)
