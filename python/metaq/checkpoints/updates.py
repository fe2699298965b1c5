"""Checkpoints and their differences: `metaq delta` and `metaq apply`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.networks import ShardedNetwork, SourceNetwork, found_folder, opened_network
from metaq.checkpoints.places import check_file, check_folder, may_finish, working
from metaq.checkpoints.resumable import WorkFolder, clean_up, fingerprint, finished_before, put_back
from metaq.errors import InputError
from metaq.files import read_bytes, write_atomically
from metaq.format.applying import Application, in_memory, open_difference
from metaq.format.changes import encode_difference
from metaq.format.network import Layout, Network, OctetNetwork
from metaq.format.whole_network import encode_network
from metaq.io import format_for, formats
from metaq.io.huggingface import MTQ, SAFETENSORS, Folder
from metaq.io.safetensors import Put, write_pieces
from metaq.io.source import StoredTensor
from metaq.io.standard import STANDARD
from metaq.progress import Progress

_logger = logging.getLogger(__name__)

_FILE = "file "  # begins the metadata's keys of a folder's other files
_TEXT_SUFFIXES = (".json", ".txt", ".md", ".jinja")  # of those: nothing that is run
_TEXT_BYTES = 1 << 20
_ONLY_KEY = "applied"  # what a shard of the result depends on beside the sources is nothing


def write_difference(
    base: Path,
    new: Path,
    output: Path,
    config: CompressionConfig | None = None,
    *,
    key: str | None = None,
    base_key: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write what makes one checkpoint of another as a `.mtq` file.

    Args:
        base: a checkpoint file, a `.mtq` file or a folder of shards.
        new: another one, of any of these kinds. Of folders, texts that differ are in the difference too.
        config: to what error of the changes or to what size, as of `metaq.delta`; by default without loss.
        key: under which the new checkpoint's state dict is, in files of torch.save that hold more than one.
        base_key: the same of the base.
        resume: of a difference with loss, go on with the passes that a stopped run finished. One without is made from
            the start.
        force: replace an output that exists; the checkpoints never are.

    Returns:
        the sizes in bytes, and their ratio; with loss also the error and the bits per weight (`LossyReport`).

    Raises:
        InputError: a checkpoint cannot be read, no step leads to what is asked for, or the output cannot be written or
            exists.
        FormatError: a `.mtq` file is not whole and unchanged.
    """
    progress = progress or Progress()
    _check_output(output, base, new, force=force or may_finish(output, resume))
    with ExitStack() as opened:
        old = _opened_base(base, base_key, opened)
        other = opened.enter_context(opened_network(new, key))
        texts = _changed_texts(base, new) if base.is_dir() and new.is_dir() else {}
        other = _Described(other, {**other.metadata, **texts})
        whole = sum(layout.size_bytes for layout in other.layouts.values())
        if config is None or config.lossless:
            data = encode_difference(old, other, progress, None if config is None else config.coder)
            write_atomically(output, data)
            return _report(whole, len(data))
        sources = {**_files("base", base), **_files("new", new)}
        from metaq.checkpoints.lossy_updates import DIFFERENCE, write_lossy_difference  # with torch

        described = asdict(config) | {"key": key, "base_key": base_key}
        with working(output, "delta", sources, described, resume) as work:
            if work.finished is not None:
                work.remove()
                return work.finished
            found = write_lossy_difference(old, other, config, work, progress)
            error, bits = found.relative_squared_error, found.bits_per_weight
            report = _report(whole, found.file_bytes) | {"relative_squared_error": error, "bits_per_weight": bits}
            work.publish(DIFFERENCE, report)
            return report


def apply_differences(
    base: Path,
    differences: Sequence[Path],
    output: Path,
    *,
    base_key: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint that differences, one after the other, make of a base.

    Args:
        base: a checkpoint file, a `.mtq` file or a folder of shards.
        output: a place for a file of a known suffix or, of a folder, for one whose shards have the base's tensors. It
            may be the base itself, which then is replaced once all is done.
        base_key: as of `write_difference`.
        resume: of a folder, go on with the shards that a stopped run finished. A file is made from the start.
        force: replace another output that exists.

    Raises:
        InputError: something cannot be read or written, or a difference is of another base; nothing is written then.
        FormatError: a `.mtq` file is not whole and unchanged.
    """
    progress = progress or Progress()
    put_back(output)
    finished = {"differences": list(fingerprint(_files("difference", *differences)).values())}
    if output == base and resume and finished_before(output) == finished:
        clean_up(output)  # the base is the new checkpoint, to which the differences apply no more
        return
    folder = found_folder(base) if base.is_dir() and (output.is_dir() or not _is_file_name(output)) else None
    if folder is not None:
        if output != base:
            check_folder(folder, output, _shard_suffix(folder), force or may_finish(output, resume))
    else:
        if output.suffix != MTQ:
            format_for(output)
        others = differences if output == base else [base, *differences]
        _check_output(output, *others, force=force or output == base)
    with ExitStack() as opened:
        network = _opened_base(base, base_key, opened)
        if output == base and isinstance(network, SourceNetwork) and network.is_part:
            expected = "nothing but a state dict in a file to replace"
            raise InputError(f"{base}: expected {expected}, found more, which would be lost; give another output")
        places = network.places if isinstance(network, ShardedNetwork) else {}
        texts: dict[str, str] = {}
        for position, difference in enumerate(differences):
            application = Application(open_difference(difference), network, progress)
            texts |= {key: text for key, text in application.metadata.items() if key.startswith(_FILE)}
            if position + 1 < len(differences):
                network = _between(application, output, opened, f"{network.name} with {difference}")
        if folder is not None:
            checked = _checked_texts(texts, differences[-1])
            sources = {**_files("base", base), **_files("difference", *differences)}
            with working(output, "apply", sources, {"base_key": base_key}, resume) as work:
                if work.finished is not None:
                    work.remove()
                    return
                _write_folder(application, folder, places, work, checked)
                work.publish_all(finished)
        else:
            _write_file(application, output, list(application.layouts))


def fold_differences(
    base: Path,
    differences: Sequence[Path],
    output: Path,
    *,
    base_key: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one difference that makes of a base what several, one after the other, make of it.

    Args:
        base: as of `apply_differences`; changes are coded by what the base is, so that it is needed.
        base_key: as of `write_difference`.
        force: replace an output that exists; the base never is.

    Returns:
        as `write_difference`.

    Raises:
        InputError: something cannot be read or written, or a difference is of another base; nothing is written then.
        FormatError: a `.mtq` file is not whole and unchanged.
    """
    _check_output(output, base, *differences, force=force)
    with ExitStack() as opened:
        old = network = _opened_base(base, base_key, opened)
        metadata: dict[str, str] = {}
        for difference in differences:
            application = Application(open_difference(difference), network, progress)
            texts = {key: text for key, text in metadata.items() if key.startswith(_FILE)}
            metadata = {**texts, **application.metadata}
            network = _between(application, output, opened, f"{network.name} with {difference}")
        data = encode_difference(old, _Described(network, metadata), progress)
        whole = sum(layout.size_bytes for layout in network.layouts.values())
        write_atomically(output, data)
    return _report(whole, len(data))


def _check_output(output: Path, *sources: Path, force: bool) -> None:
    """Raise an InputError unless a file may be written to this place."""
    if output == STANDARD:
        raise InputError(f"{output}: expected a place for a file, found standard output")
    for source in sources:
        check_file(source, output, force)


def _opened_base(path: Path, key: str | None, opened: ExitStack) -> Network:
    """The base's tensors; a message that tells of the option for a key calls it by the base's."""
    try:
        return opened.enter_context(opened_network(path, key))
    except InputError as error:
        raise InputError(str(error).replace("--key NAME", "--base-key NAME")) from None


def _is_file_name(path: Path) -> bool:
    """Whether a path ends as a checkpoint's file; folders may have any dots in their names."""
    return path.suffix == MTQ or any(path.suffix in format.suffixes for format in formats)


def _report(whole: int, size: int) -> dict[str, Any]:
    return {"checkpoint_bytes": whole, "file_bytes": size, "ratio": whole / size}


def _files(kind: str, *paths: Path) -> dict[str, Path]:
    """The files that checkpoints or differences are read from, by names of their own."""
    found: dict[str, Path] = {}
    for place, path in enumerate(paths):
        files = found_folder(path).paths() if path.is_dir() else {path.name: path}
        found |= {f"{kind} {place}, {name}": file for name, file in files.items()}
    return found


class _Described:
    """A network with other metadata, and maybe another name."""

    def __init__(self, network: Network, metadata: Mapping[str, str], name: str | None = None) -> None:
        self.name, self.layouts, self.aliases = name or network.name, network.layouts, network.aliases
        self.metadata, self.octets = metadata, network.octets


def _between(application: Application, output: Path, opened: ExitStack, name: str) -> Network:
    """A network on the way: in a file beside the output, or in memory if tensors are shared, which such files lose."""
    if application.aliases:
        return _Described(in_memory(application), {}, name)
    folder = tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".metaq-")
    path = Path(opened.enter_context(folder), "between.safetensors")
    _write_file(application, path, list(application.layouts))
    return _Described(opened.enter_context(opened_network(path)), {}, name)


def _own_metadata(application: Application) -> dict[str, str]:
    return {key: text for key, text in application.metadata.items() if not key.startswith(_FILE)}


def _write_file(application: Application, path: Path, names: Sequence[str]) -> None:
    """Some of the result's tensors as a file of the kind that its suffix names."""
    metadata = _own_metadata(application)
    if path.suffix != SAFETENSORS:
        network = in_memory(application, names)
        if path.suffix == MTQ:
            write_atomically(path, encode_network(network, metadata))
        else:
            format_for(path).write(path, _stored(network), metadata)
        return
    seconds: dict[str, list[str]] = {}
    for name in names:
        seconds.setdefault(application.aliases.get(name, name), []).append(name)

    def fill(put: Put) -> None:
        def put_all(name: str, first: int, octets: Any) -> None:
            for second in seconds[name]:
                put(second, first, octets)

        application.run(put_all, only=seconds)

    write_pieces(path, {name: application.layouts[name] for name in names}, metadata, fill)


def _stored(network: OctetNetwork) -> dict[str, StoredTensor]:
    whole = {name: network.octets(name, range(layout.size)) for name, layout in network.layouts.items()}
    return {
        name: StoredTensor(*layout, whole[network.aliases.get(name, name)]) for name, layout in network.layouts.items()
    }


def _shard_suffix(folder: Folder) -> str:
    """Of the shards to be written: those of `.mtq` files become plain ones, as by `metaq decompress`."""
    return SAFETENSORS if folder.suffix == MTQ else folder.suffix


def _write_folder(
    application: Application, folder: Folder, places: Mapping[str, str], work: WorkFolder, texts: Mapping[str, str]
) -> None:
    """Shards with the tensors of the base's, new ones in the last, and all other files."""
    suffix = _shard_suffix(folder)
    names: dict[str, list[str]] = {shard: [] for shard in folder.shards}
    for name in application.layouts:
        names[places.get(name, folder.shards[-1])].append(name)
    shards = {shard: own for shard, own in names.items() if own}
    for shard, own in shards.items():
        part = folder.renamed(shard, suffix)
        if not work.is_written(part, _ONLY_KEY):
            _write_file(application, work.path / part, own)
            work.record(part, _ONLY_KEY, {})
    _indexed(folder, shards, application.layouts).finish(work.path, suffix)
    for key, text in texts.items():
        place = work.path / key.removeprefix(_FILE)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text.encode())


def _indexed(folder: Folder, shards: Mapping[str, Sequence[str]], layouts: Mapping[str, Layout]) -> Folder:
    """The folder with an index of these shards, if it has one."""
    if folder.index is None:
        return folder
    total = sum(layout.size_bytes for layout in layouts.values())
    metadata = {**folder.content.get("metadata", {}), "total_size": total}
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    return replace(folder, content={**folder.content, "metadata": metadata, "weight_map": weight_map})


def _changed_texts(base: Path, new: Path) -> dict[str, str]:
    """Metadata with the other files of a folder that the base's lacks or has otherwise."""
    texts = {}
    files = found_folder(new).other_files()
    gone = [path.as_posix() for path in found_folder(base).other_files() if path not in files]
    if gone:
        found = f"{', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''}"
        _logger.warning("%s: has files that are not in %s: %s; a difference removes none", base, new, found)
    for path in files:
        content = read_bytes(new / path)
        if (base / path).is_file() and read_bytes(base / path) == content:
            continue
        if _is_text(path.as_posix()) and len(content) <= _TEXT_BYTES:
            try:
                texts[f"{_FILE}{path.as_posix()}"] = content.decode("utf-8")
                continue
            except UnicodeDecodeError:
                pass
        _logger.warning("%s: differs from the base's and is not in the difference; copy it by hand", new / path)
    return texts


def _is_text(name: str) -> bool:
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
    return is_inside and path.suffix in _TEXT_SUFFIXES and not name.endswith(".index.json")


def _checked_texts(texts: Mapping[str, str], difference: Path) -> Mapping[str, str]:
    for key in texts:
        name = key.removeprefix(_FILE)
        if not _is_text(name):
            expected = f"texts to be {', '.join(_TEXT_SUFFIXES)} files within the folder"
            raise InputError(f"{difference}: expected {expected}, found {name!r}")
    return texts
