"""Folders of repositories of Hugging Face's hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaq.errors import InputError
from metaq.io.payload import QUANT_METHOD

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_NEEDED = "pip install 'metaq-nn[hub]'"
_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
_FIRST = ["config.json", "*.mtq", "*.index.json"]


def folder_of(repo_or_folder: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    """A folder as it is; of a repository the folder that its files with weights are downloaded to.

    `.mtq` files are downloaded, and `.safetensors` files only if `config.json` says that these are in them.

    Args:
        options: of `huggingface_hub.snapshot_download`; those that a folder has no use for are ignored.

    Raises:
        InputError: there is no such folder or repository, the hub cannot be reached, or `huggingface_hub` is missing.
    """
    for name in options:
        if name not in _OPTIONS:
            raise InputError(f"from_pretrained: expected options of {', '.join(_OPTIONS)}, found {name!r}")
    folder = Path(repo_or_folder)
    if folder.is_dir():
        return folder
    name = str(repo_or_folder)
    if not isinstance(repo_or_folder, str) or not _REPOSITORY.fullmatch(name):
        found = "a file" if folder.exists() else "neither"
        raise InputError(f"{name}: expected a folder, or a repository OWNER/NAME of the hub, found {found}")
    folder = _download(name, options, _FIRST)
    if not any(folder.glob("*.mtq")) and _is_wrapped(folder):
        return _download(name, options, [*_FIRST, "*.safetensors"])
    return folder


def _is_wrapped(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(config["quantization_config"]["quant_method"] == QUANT_METHOD)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _download(name: str, options: Mapping[str, Any], patterns: list[str]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError:
        found = f"no such folder, and no huggingface_hub to look for a repository; {_NEEDED}"
        raise InputError(f"{name}: expected a folder, or a repository of the hub, found {found}") from None
    expected = f"{name}: expected a folder, or a repository of the hub that can be read"
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **options))
    except errors.GatedRepoError:
        remedy = "log in by `hf auth login`, or give token="
        raise InputError(f"{expected}, found one that asks for access; {remedy}") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{expected}, found no revision {options.get('revision')!r} of it") from None
    except errors.RepositoryNotFoundError:
        remedy = "a private one needs `hf auth login`, or token="
        raise InputError(f"{expected}, found no folder and no repository of that name; {remedy}") from None
    except errors.LocalEntryNotFoundError:
        remedy = "connect, or download it beforehand"
        raise InputError(f"{expected}, found no copy of it in the cache and no way to the hub; {remedy}") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise InputError(f"{expected}, found an error: {' '.join(str(error).split())[:200]}") from None
