"""Finds data files in ``$METAQ_DATA``, in the user's cache or at the mirrors, and checks each."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from metaq.errors import DataError, InputError
from metaq.files import write_atomically

_TIMEOUT_SECONDS = 20
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """A published file: its name, the SHA-256 of its content, the URLs of folders that hold it.

    Where ``is_gzip``, the content is what the file unpacks to; otherwise it is the file itself.
    """

    name: str
    sha256: str
    mirrors: tuple[str, ...]
    is_gzip: bool = True


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
            return _unpack(path.read_bytes(), file, str(path))
    reasons = []
    for mirror in file.mirrors:
        try:
            packed = _download(mirror + file.name)
            content = _unpack(packed, file, mirror + file.name)
            places[-1].parent.mkdir(parents=True, exist_ok=True)
            write_atomically(places[-1], packed)
            return content
        except (OSError, http.client.HTTPException, DataError, InputError) as error:
            reasons.append(str(error))
    raise DataError(
        f"{dataset}: expected {file.name} at {' or '.join(map(str, places))}, found none, and no mirror served it "
        f"({reasons[0]}); put the file there, or set METAQ_DATA to the folder that holds {dataset}/"
    )


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        _LOGGER.info("downloading %s, %s bytes", url, response.length if response.length else "unknown number of")
        data: bytes = response.read()
    return data


def _unpack(packed: bytes, file: PublishedFile, where: str) -> bytes:
    try:
        content = gzip.decompress(packed) if file.is_gzip else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: expected a gzip file, found {error}; remove it to have it fetched again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{where}: expected content of SHA-256 {file.sha256}, found {digest}; remove it to have it fetched again"
        )
    return content
