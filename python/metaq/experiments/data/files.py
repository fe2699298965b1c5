"""Finds data files in ``$METAQ_DATA``, in the user's cache or at the mirrors, and checks each."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import logging
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from metaq.errors import DataError, InputError
from metaq.files import read_bytes, write_atomically

_TIMEOUT_SECONDS = 20
_REMOVE = "remove it to have it fetched again"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A published file: its name, the SHA-256 and the size of its content, the URLs of folders that hold it.

    Where ``is_gzip``, the content is what the file unpacks to, however it is packed; otherwise it is the file itself,
    which may be an archive: nothing in it is looked at before its checksum is known to be right.
    """

    name: str
    sha256: str
    size_bytes: int
    mirrors: tuple[str, ...] = ()
    is_gzip: bool = False


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/metaq``, or ``~/.cache/metaq``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaq"


def fetch(dataset: str, file: PublishedFile) -> bytes:
    """The content of a local copy, or of one downloaded into the cache, once it is checked.

    Raises:
        DataError: a local copy is another file, or there is none and no mirror could be reached.
    """
    local = os.environ.get("METAQ_DATA")
    folders = ([Path(local)] if local else []) + [cache_folder()]
    places = [folder / dataset / file.name for folder in folders]
    for path in places:
        if path.is_file():
            return _unpack(_local(path, file), file, str(path))
    reasons = []
    for mirror in file.mirrors:
        try:
            packed = _download(mirror + file.name, _most_bytes(file))
            content = _unpack(packed, file, mirror + file.name)
            places[-1].parent.mkdir(parents=True, exist_ok=True)
            write_atomically(places[-1], packed)
            return content
        except (OSError, http.client.HTTPException, DataError, InputError) as error:
            reasons.append(str(error))
    served = f", and no mirror served it ({reasons[0]})" if reasons else ""
    remedy = f"put the file there, or set METAQ_DATA to the folder that holds {dataset}/"
    raise DataError(f"{dataset}: expected {file.name} at {' or '.join(map(str, places))}, found none{served}; {remedy}")


def _most_bytes(file: PublishedFile) -> int:
    """That a packed file may have: packing makes what cannot be packed a little larger."""
    return file.size_bytes + file.size_bytes // 100 + 1024


def _local(path: Path, file: PublishedFile) -> bytes:
    size = path.stat().st_size
    if size > _most_bytes(file):
        raise DataError(f"{path}: expected at most {_most_bytes(file)} bytes, found {size}; {_REMOVE}")
    return read_bytes(path)


def _download(url: str, most_bytes: int) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        _LOGGER.info("downloading %s, %s bytes", url, response.length if response.length else "unknown number of")
        data: bytes = response.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise DataError(f"{url}: expected at most {most_bytes} bytes, found more")
    return data


def _unpack(packed: bytes, file: PublishedFile, where: str) -> bytes:
    try:
        content = _unzipped(packed, file.size_bytes) if file.is_gzip else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: expected a gzip file, found {error}; {_REMOVE}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(f"{where}: expected content of SHA-256 {file.sha256}, found {digest}; {_REMOVE}")
    return content


def _unzipped(packed: bytes, size_bytes: int) -> bytes:
    """The content, or as much of it as is enough to know that it is another."""
    with gzip.open(io.BytesIO(packed)) as file:
        return file.read(size_bytes + 1)
