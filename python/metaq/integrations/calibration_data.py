"""The model of a Hugging Face folder, and batches of text or images for it, as `metaq.calibrate` takes them.

Which kind of data it is follows from the path: a ``.txt`` file, a ``.jsonl`` file, or a folder of images.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError, first_line
from metaq.integrations import calibration_text as text
from metaq.integrations import folder_models

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
IMAGES, IMAGES_OF_A_BATCH = 512, 16
_LEAST_AREA, _MOST_ASPECT = 0.3, 4 / 3  # of a view: its share of an image, and width to height against the image's

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
    - Images go through the folder's image processor. They are taken evenly from all, sorted by their paths. Where there
      are fewer than asked for, each is seen whole first, then in parts that are drawn: a hundred images in six views
      each tell more than a hundred.

    Args:
        folder: with ``config.json``, weights, and a tokenizer or image processor.
        data: a path that ends in ``.txt`` or ``.jsonl``, or a folder of images, in folders below it too.
        samples: how many windows (by default 128), sentences (512) or views of images (512) to take; of text, if there
            is so much.
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
    count = samples or IMAGES
    processor, paths = folder_models.load_image_processor(folder), _image_paths(data, count)
    model = folder_models.load_model(folder, config)
    with folder_models.quiet():
        return model, _image_batches(model, processor, paths, count)


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


def _image_batches(model: Any, processor: Any, paths: list[Path], count: int) -> list[Batch]:
    mode = "L" if getattr(model.config, "num_channels", 3) == 1 else "RGB"
    generator = torch.Generator().manual_seed(0)
    batches: list[Batch] = []
    # Views of an image follow each other, so that the halves of a batch show different ones.
    order = sorted(range(count), key=lambda index: (index % len(paths), index))
    for first in range(0, count, IMAGES_OF_A_BATCH):
        pixels: list[Tensor] = []
        for index in order[first : first + IMAGES_OF_A_BATCH]:
            path = paths[index % len(paths)]
            tensor = _pixels(path, processor, mode, generator if index >= len(paths) else None)
            if pixels and tensor.shape != pixels[0].shape:
                expected = f"an image processor that gives one size, {tuple(pixels[0].shape)}"
                raise InputError(f"{path}: expected {expected}, found {tuple(tensor.shape)}")
            pixels.append(tensor)
        batches.append({"pixel_values": torch.stack(pixels)})
    return batches


def _pixels(path: Path, processor: Any, mode: str, generator: torch.Generator | None) -> Tensor:
    """What the model sees of an image; with a generator, of a part of it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            view = image.convert(mode)
            if generator is not None:
                view = view.crop(view_box(view.width, view.height, generator))
            pixels: Tensor = processor(images=view, return_tensors="pt")["pixel_values"][0]
    except Exception as error:
        raise InputError(f"{path}: expected an image, found {first_line(error)}") from error
    return pixels


def view_box(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """A part of an image that is drawn: left, top, right and bottom, in pixels.

    It has 0.3 to 1 of the area, and up to 4/3 of the image's aspect or its inverse, as far as the image reaches.
    """
    area, aspect, x, y = torch.rand(4, generator=generator).tolist()
    side = math.sqrt(_LEAST_AREA + (1 - _LEAST_AREA) * area)
    stretch = _MOST_ASPECT ** (aspect - 0.5)
    across, down = (max(1, round(size * min(1.0, side * by))) for size, by in ((width, stretch), (height, 1 / stretch)))
    left, top = int(x * (width - across + 1)), int(y * (height - down + 1))
    return left, top, left + across, top + down
