"""What `metaq compress` does with `--calibrate`, and what it says without."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metaq.errors import InputError
from metaq.files import read_json

if TYPE_CHECKING:
    from metaq.checkpoints import CompressionConfig, CompressionReport, FolderKind
    from metaq.checkpoints.ranks import Ranks
    from metaq.progress import Progress

# The figures are those of "What data is worth" in docs/checkpoints.md.
_WORTH = (
    "with --calibrate it would be nearer to the float model: a ResNet-20 at 2 bits has 85.1 % top-1 so, 75.1 % without"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataOptions:
    """The options about data, None where they are not given.

    Raises:
        InputError: one of them without the data.
    """

    data: Path | None
    samples: int | None
    window: int | None
    refit_epochs: int | None

    def __post_init__(self) -> None:
        given = {"--samples": self.samples, "--window": self.window, "--refit": self.refit_epochs}
        for name, value in given.items():
            if self.data is None and value is not None:
                raise InputError(f"{name}: expected --calibrate DATA beside it, found none")


def compress_with_data(
    source: Path,
    output: Path,
    config: CompressionConfig,
    options: DataOptions,
    *,
    resume: bool,
    force: bool,
    key: str | None,
    kind: FolderKind,
    progress: Progress,
    ranks: Ranks | None,
) -> CompressionReport:
    """Compress a Hugging Face folder by what data says of its model.

    Raises:
        InputError: a source that is no folder, options that do not go with data, or whatever else is wrong.
    """
    data = options.data
    assert data is not None
    _check_flags(config, resume, ranks)
    if not source.is_dir():
        expected = "a Hugging Face folder for --calibrate, because the code of the model is needed"
        found = "a file" if source.exists() else "no such folder"
        remedy = "in Python, metaq.compress_calibrated takes any model"
        raise InputError(f"{source}: expected {expected}, found {found}; {remedy}")
    from metaq.checkpoints.calibrated_folder import compress_calibrated_folder
    from metaq.integrations import calibration_data

    return compress_calibrated_folder(
        source,
        output,
        lambda: calibration_data.load(source, data, samples=options.samples, window=options.window),
        config,
        refit_epochs=options.refit_epochs,
        force=force,
        key=key,
        kind=kind,
        progress=progress,
    )


def hint_at_data(source: Path, config: CompressionConfig) -> None:
    """Say what data is worth, where a folder's configuration says that `transformers` can run its model."""
    if config.lossless or config.step is not None:
        return
    try:
        content = read_json(source / "config.json")
    except InputError:
        return
    if not isinstance(content, dict) or content.get("is_encoder_decoder"):
        return
    if isinstance(content.get("model_type"), str) and content.get("architectures"):
        _log.warning("%s: compressed without data; %s", source, _WORTH)


def _check_flags(config: CompressionConfig, resume: bool, ranks: Ranks | None) -> None:
    flag = "--lossless" if config.lossless else "--step" if config.step is not None else None
    if flag is not None:
        expected = "--bits, --size, --max-error or --quality beside it"
        raise InputError(f"--calibrate: expected {expected}, found {flag}, where data has no say")
    if resume:
        raise InputError(
            "--calibrate: expected no --resume beside it, found it; a stopped run leaves nothing to go on from"
        )
    if ranks is not None:
        raise InputError(f"--calibrate: expected one process, found {ranks.count}")
