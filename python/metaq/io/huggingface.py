"""Folders as Hugging Face's libraries write them: shards, an index that names them, and other files beside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.files import copy_file, read_json, write_atomically, write_error

SAFETENSORS, TORCH, MTQ = ".safetensors", ".bin", ".mtq"
_TORCH_NAME, _NAME = "pytorch_model", "model"  # how shards are called that are, and that are not, of torch.save


@dataclass(frozen=True)
class Folder:
    """A checkpoint's folder.

    Attributes:
        path: of the folder.
        suffix: of its shards, ".safetensors", ".bin" or ".mtq".
        shards: their file names, in order.
        index: the index's file name, or None where one shard holds all.
        content: of the index, as parsed from JSON.
    """

    path: Path
    suffix: str
    shards: list[str]
    index: str | None
    content: dict[str, Any]

    def paths(self) -> dict[str, Path]:
        """The paths of the shards, by their file names."""
        return {shard: self.path / shard for shard in self.shards}

    def other_files(self) -> list[Path]:
        """All files that are neither shard nor index, relative to the folder; links to folders are not followed.

        Raises:
            InputError: a folder in it cannot be read, or something is neither file nor folder.
        """
        own = {*self.shards, self.index}
        found = [Path(folder, name) for folder, _, names in self._walk() for name in sorted(names)]
        for path in found:
            if not path.is_file():
                found_instead = "a device, pipe or socket" if path.exists() else "a link that leads nowhere"
                raise InputError(f"{path}: expected files and folders beside a model, found {found_instead}")
        own_paths = [path.relative_to(self.path) for path in found]
        return [path for path in own_paths if str(path) not in own]

    def _walk(self) -> Iterator[tuple[str, list[str], list[str]]]:
        def refuse(error: OSError) -> None:
            raise InputError(f"{error.filename}: expected a folder that can be read, found {error.strerror}")

        return os.walk(self.path, onerror=refuse)

    def check(self, names_in: Callable[[str], Iterable[str]]) -> None:
        """Raise an InputError unless every tensor is in the shard that the index names.

        Args:
            names_in: from a shard's file name to its tensors' names. Those that the index does not name are no error.
        """
        places = {shard: set(names_in(shard)) for shard in self.shards}
        for name, shard in self.content.get("weight_map", {}).items():
            if name not in places[shard]:
                found = next((f"it in {other}" for other, names in places.items() if name in names), "it nowhere")
                raise InputError(f"{self.path / str(self.index)}: expected tensor {name!r} in {shard}, found {found}")

    def renamed(self, shard: str, suffix: str) -> str:
        """A shard's file name in a folder of shards of another suffix."""
        return shard if suffix == self.suffix else self._stem(shard.removesuffix(self.suffix)) + suffix

    def _stem(self, name: str) -> str:
        return _NAME + name.removeprefix(_TORCH_NAME) if self.suffix == TORCH and name.startswith(_TORCH_NAME) else name

    def finish(self, target: Path, suffix: str) -> None:
        """Put the index, the other files and folders beside the shards in ``target``, which are of another suffix.

        Raises:
            InputError: a file cannot be read or written, or has the name of a shard.
        """
        for folder, _, _ in self._walk():
            place = target / Path(folder).relative_to(self.path)
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(place, error) from None
        for path in self.other_files():
            copy_file(self.path / path, target / path)
        if self.index is not None:
            places = {name: self.renamed(shard, suffix) for name, shard in self.content["weight_map"].items()}
            text = json.dumps({**self.content, "weight_map": places}, indent=2, ensure_ascii=False) + "\n"
            write_atomically(target / self._index_name(suffix), text.encode())

    def _index_name(self, suffix: str) -> str:
        assert self.index is not None
        if suffix == self.suffix:
            return self.index
        return self._stem(self.index.removesuffix(f"{self.suffix}.index.json")) + f"{suffix}.index.json"

    def check_names(self, suffix: str) -> None:
        """Raise an InputError if another file or folder has the name that a shard or the index will have."""
        taken = {str(path) for path in self.other_files()} | {
            path.name for path in self.path.iterdir() if path.is_dir()
        }
        index = [] if self.index is None else [self._index_name(suffix)]
        for name in (*(self.renamed(shard, suffix) for shard in self.shards), *index):
            if name in taken:
                raise InputError(f"{self.path}: expected no file called {name!r}, whose name is needed, found one")


def read_folder(path: Path, suffix: str) -> Folder:
    """A folder's shards of this suffix: those that ``*SUFFIX.index.json`` names, or the only file of the suffix.

    Raises:
        InputError: there are none or several, or the index is malformed or names a missing shard.
    """
    indices = sorted(path.glob(f"*{suffix}.index.json"))
    singles = sorted(entry.name for entry in path.glob(f"*{suffix}") if entry.is_file())
    if len(indices) > 1 or (not indices and len(singles) != 1):
        found = [entry.name for entry in indices] or singles
        expected = f"one file {'*' + suffix + '.index.json'!r} or else one {'*' + suffix!r}"
        raise InputError(f"{path}: expected {expected}, found {', '.join(found) or 'none'}")
    if not indices:
        return Folder(path, suffix, singles, None, {})
    content = _read_index(indices[0])
    shards = list(dict.fromkeys(content["weight_map"].values()))
    for shard in sorted(shards):
        if not shard.endswith(suffix) or Path(shard).name != shard or "\\" in shard:
            raise InputError(f"{indices[0]}: expected shards '*{suffix}' beside it, found {shard!r}")
        if not (path / shard).is_file():
            raise InputError(f"{indices[0]}: expected the shard {shard!r} beside it, found no such file")
    return Folder(path, suffix, sorted(shards), indices[0].name, content)


def read_checkpoint_folder(path: Path) -> Folder:
    """A folder of `.safetensors` shards or, without any, of `pytorch_model*.bin` shards, as `read_folder` reads it.

    Raises:
        InputError: as `read_folder`.
    """
    if not any(path.glob(f"*{SAFETENSORS}")) and not any(path.glob(f"*{SAFETENSORS}.index.json")):
        if any(path.glob(f"*{TORCH}.index.json")):
            return read_folder(path, TORCH)
        if (path / f"{_TORCH_NAME}{TORCH}").is_file():
            return Folder(path, TORCH, [f"{_TORCH_NAME}{TORCH}"], None, {})
    return read_folder(path, SAFETENSORS)


def _read_index(path: Path) -> dict[str, Any]:
    content = read_json(path)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise InputError(f"{path}: expected an object with a shard's name for each tensor in 'weight_map', found none")
    result: dict[str, Any] = content
    return result
