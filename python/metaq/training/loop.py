"""The training loop: epochs over images, one optimizer step a batch. It names no method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.compressor import Compressor
from metaq.data import Split
from metaq.training.recipe import StageSection

_EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, and top-1 accuracy as a fraction."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Loss and accuracy of a model on a split, in evaluation mode and without gradients."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images in split.images.split(_EVALUATION_BATCH)])
    model.train(was_training)
    hits = int((logits.argmax(dim=1) == split.labels).sum())
    return Evaluation(float(functional.cross_entropy(logits, split.labels)), hits / len(split))


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image (n, channels, height, width) moved by up to ``pixels`` either way, its edges repeated behind it."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (pixels, pixels, pixels, pixels), mode="replicate")
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    each = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


class Stage:
    """One stage of training at work: a model, Adam on its parameters, a shuffling generator, perhaps a compressor."""

    def __init__(
        self, model: nn.Module, section: StageSection, split: Split, seed: int, compressor: Compressor | None
    ) -> None:
        self.model = model
        self.section = section
        self.split = split
        self.compressor = compressor
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=section.learning_rate)
        self.steps_per_epoch = max(1, len(split) // section.batch_size)

    def run_epoch(self, epoch: int, advance: Callable[[], None]) -> float:
        """Train for epoch number ``epoch`` (from 0); returns the mean training loss, the regulariser not counted."""
        if self.compressor is not None and epoch == self.section.epochs - self.section.last_phase_epochs:
            self.compressor.begin_last_phase()
        self.model.train()
        total = 0.0
        for batch, (images, labels) in enumerate(self._batches()):
            self._set_learning_rate((epoch + batch / self.steps_per_epoch) / self.section.epochs)
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images), labels)
            loss.backward()
            if self.compressor is not None:
                self.compressor.regularize()
            self.optimizer.step()
            total += loss.item()
            advance()
        return total / self.steps_per_epoch

    def is_last_phase(self, epoch: int) -> bool:
        """Whether an epoch's weights may become the file: in the last phase or, if there is none, the last epoch."""
        return epoch >= self.section.epochs - max(1, self.section.last_phase_epochs)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images in random order; what does not fill a batch is left out."""
        order = torch.randperm(len(self.split), generator=self.generator)
        for indices in order.split(self.section.batch_size)[: self.steps_per_epoch]:
            images = self.split.images[indices]
            if self.section.shift_pixels:
                images = shifted(images, self.section.shift_pixels, self.generator)
            yield images, self.split.labels[indices]

    def _set_learning_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.section.learning_rate * (0.5 + 0.5 * math.cos(math.pi * progress))
