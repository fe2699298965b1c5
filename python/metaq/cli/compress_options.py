"""The options of `metaq compress`: what to compress to, what to keep, and how to code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metaq.checkpoints.folder_kind import FolderKind
from metaq.cli.options import Quality

_TARGET = "What to compress to: one of these at most; without any, 4 bits"
_CHOICES = "What to keep and how to code"
_DATA = "With data, for Hugging Face folders"


def _complete_coder(incomplete: str) -> list[tuple[str, str]]:
    from metaq import coding

    return [(name, coder.summary) for name, coder in coding.coders.items() if name.startswith(incomplete)]


CheckpointPath = Annotated[
    Path, typer.Argument(help="A checkpoint, a Hugging Face folder, or - for standard input.", show_default=False)
]
Bits = Annotated[
    float | None, typer.Option(help="Coded bits per quantized weight to stay below.", rich_help_panel=_TARGET)
]
Size = Annotated[
    str | None, typer.Option(help="Size of the file to stay below: 4MB, 500kB, 20000.", rich_help_panel=_TARGET)
]
MaxError = Annotated[float | None, typer.Option(help="Relative squared error to stay below.", rich_help_panel=_TARGET)]
QualityName = Annotated[
    Quality | None, typer.Option(help="Relative squared errors of 3e-2, 3e-3 and 3e-4.", rich_help_panel=_TARGET)
]
Step = Annotated[
    float | None, typer.Option(help="Put every weight on the nearest multiple of this.", rich_help_panel=_TARGET)
]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep every bit.", rich_help_panel=_TARGET)]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Keep tensors of matching names exactly; may be repeated.", rich_help_panel=_CHOICES
    ),
]
TensorBits = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATTERN:bits=N",
        help="Give matching tensors N bits per weight; may be repeated. "
        "The first pattern that matches a tensor's name counts.",
        rich_help_panel=_CHOICES,
    ),
]
CoderName = Annotated[
    str | None,
    typer.Option(
        help="mixing (smallest), adaptive (nearly as small, faster), rans (fastest), range, huffman, zstd, lzma, "
        "gzip or stored. Unless given, it is mixing; from 4 MiB on adaptive, and rans with --lossless.",
        show_default=False,
        autocompletion=_complete_coder,
        rich_help_panel=_CHOICES,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="The key under which a torch file holds its state dict.", show_default=False, rich_help_panel=_CHOICES
    ),
]
AsKind = Annotated[
    FolderKind,
    typer.Option(
        "--as",
        help="What a folder's shards become: .mtq files, or safetensors files with these in them, "
        "which AutoModel.from_pretrained loads after `import metaq.integrations.transformers`.",
        rich_help_panel=_CHOICES,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="DATA",
        help='Text (.txt, or .jsonl with "text" or "messages") or a folder of images that the model is run on.',
        rich_help_panel=_DATA,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many windows (128), sentences (512) or images (256) to take.",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Tokens of a window, or of a sentence at most. Unless given, 1024 or as many as the model takes.",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
RefitEpochs = Annotated[
    int | None,
    typer.Option(
        "--refit",
        metavar="EPOCHS",
        min=0,
        help="Fit norms and biases to the quantized weights for so many epochs, unless given 2; 0 leaves them.",
        show_default=False,
        rich_help_panel=_DATA,
    ),
]
