"""The model of a Hugging Face folder, and batches of text or images for it, as `metaq.calibrate` takes them.

Which kind of data it is follows from the path: a ``.txt`` file, a ``.jsonl`` file, or a folder of images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError
from metaq.integrations import calibration_text as text
from metaq.integrations import folder_models

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
IMAGES, IMAGES_OF_A_BATCH = 256, 16

Batch = dict[str, Tensor]


def load(
    folder: Path, data: Path, *, samples: int | None = None, window: int | None = None
) -> tuple[nn.Module, list[Batch]]:
    """Load a model, in float32, and data for it. Nothing is fetched from a network.

    - Text for models that generate becomes windows of ``window`` tokens, from the beginning on, by default of 1,024 or
      of as many as the model takes. Texts of a ``.jsonl`` file follow each other, each with the end token behind it.
    - Text for other models, such as BERT, becomes sentences: the lines of a ``.txt`` file, the texts of a ``.jsonl``
      file, cut to ``window`` tokens, with an attention mask. They are taken evenly from the whole.
    - An object in a ``.jsonl`` file has "text", or "messages" for the chat template.
    - Images go through the folder's image processor. They are taken evenly from all, sorted by their paths.

    Args:
        folder: with ``config.json``, weights, and a tokenizer or image processor.
        data: a path that ends in ``.txt`` or ``.jsonl``, or a folder of images, in folders below it too.
        samples: how many windows (by default 128), sentences (512) or images (256) to take, if there are so many.
        window: of tokens; for text only.

    Returns:
        The model, and batches of keyword arguments: int64 ``input_ids`` of shape (batch, tokens) and what else the
        tokenizer gives, or float32 ``pixel_values`` of shape (batch, channels, height, width).

    Raises:
        InputError: a model, tokenizer or image processor that is missing or unknown, or data that cannot be read, is
            empty, or is shorter than a window.
    """
    is_images = _is_images(data)
    if is_images and window is not None:
        raise InputError(f"window: expected none for images, found {window}")
    config = folder_models.load_config(folder)
    if not is_images:
        tokenizer = folder_models.load_tokenizer(folder)
        model = folder_models.load_model(folder, config)
        with folder_models.quiet():
            return model, text.batches(model, tokenizer, data, samples, window)
    processor, paths = folder_models.load_image_processor(folder), _image_paths(data, samples or IMAGES)
    model = folder_models.load_model(folder, config)
    with folder_models.quiet():
        return model, _image_batches(model, processor, paths)


def _is_images(data: Path) -> bool:
    if data.is_dir():
        return True
    if not data.exists():
        raise InputError(f"{data}: expected data to calibrate with, found no such file or folder")
    if data.suffix not in text.SUFFIXES:
        expected = f"a file ending in {' or '.join(text.SUFFIXES)}, or a folder of images"
        raise InputError(f"{data}: expected {expected}, found {data.suffix or 'no suffix'}")
    return False


def _image_paths(folder: Path, count: int) -> list[Path]:
    """Evenly from all images that are there."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise InputError(f"{folder}: expected images, such as *.jpg or *.png, found none")
    return text.evenly(paths, count)


def _image_batches(model: Any, processor: Any, paths: list[Path]) -> list[Batch]:
    mode = "L" if getattr(model.config, "num_channels", 3) == 1 else "RGB"
    batches: list[Batch] = []
    for first in range(0, len(paths), IMAGES_OF_A_BATCH):
        some = paths[first : first + IMAGES_OF_A_BATCH]
        pixels = [_pixels(path, processor, mode) for path in some]
        for path, tensor in zip(some, pixels, strict=True):
            if tensor.shape != pixels[0].shape:
                expected = f"an image processor that gives one size, {tuple(pixels[0].shape)}"
                raise InputError(f"{path}: expected {expected}, found {tuple(tensor.shape)}")
        batches.append({"pixel_values": torch.stack(pixels)})
    return batches


def _pixels(path: Path, processor: Any, mode: str) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels: Tensor = processor(images=image.convert(mode), return_tensors="pt")["pixel_values"][0]
    except Exception as error:
        raise InputError(f"{path}: expected an image, found {folder_models.first_line(error)}") from error
    return pixels
