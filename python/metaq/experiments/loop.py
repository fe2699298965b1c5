"""The training loop: epochs over samples, with one step of the optimizer for every batch. It names no method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaq.compressed_model import CompressedModel
from metaq.compressed_model import encode as encode_model
from metaq.compressor import Compressor
from metaq.experiments.augmentation import augmented
from metaq.experiments.averaging import RunningAverage
from metaq.experiments.data import Split
from metaq.experiments.recipe import LearningRateSchedule, Optimizer, Precision, StageSection
from metaq.methods import Method
from metaq.quantizers.recalibration import recalibrate

_EVALUATION_BATCH = 1000
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats and top-1 accuracy as a fraction, of images or of the next characters of a text."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Loss and accuracy of a model on a split, in evaluation mode and without gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = torch.cat([model(inputs) for inputs in split.inputs.split(_EVALUATION_BATCH)])
    finally:
        model.train(was_training)
    hits = int((logits.argmax(dim=-1) == split.labels).sum())
    return Evaluation(float(label_loss(logits, split.labels)), hits / split.labels.numel())


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of logits (..., classes) from the labels (...), over whatever is told."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence, in nats, of the outputs from the teacher's, both softened by ``temperature``.

    It is the mean over what is told, as in `label_loss`, times the temperature's square, so that gradients keep their
    size whatever the temperature.
    """
    ours, theirs = (
        functional.log_softmax(each.flatten(0, -2) / temperature, dim=1) for each in (logits, teacher_logits)
    )
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


class Stage:
    """One stage of training at work: a model, its optimizer, a generator that shuffles, a compressor and a teacher.

    Args:
        method: None where the network is trained without one.
        encode: how its file will be written.
        teacher: for distillation; None unless the section asks for it.
    """

    def __init__(
        self,
        model: nn.Module,
        section: StageSection,
        split: Split,
        seed: int,
        method: Method | None = None,
        encode: Callable[[CompressedModel], bytes] = encode_model,
        teacher: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.section = section
        self.split = split
        self.teacher = teacher.eval() if teacher is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = _optimizer(section, model)
        self.average = RunningAverage(model, section.average_decay) if section.average_decay else None
        self.samples_per_epoch = split.samples_per_epoch or len(split)
        self.steps_per_epoch = max(1, self.samples_per_epoch // section.batch_size)
        self.training_steps = section.epochs * self.steps_per_epoch
        self.compressor: Compressor | None = None
        if method is not None:
            self.compressor = Compressor(model, method, self.optimizer, self.training_steps, encode)
            self.compressor.last_phase_step = None  # the section says when

    def run_epoch(self, epoch: int, advance: Callable[[], None]) -> float:
        """Train for epoch number ``epoch`` (from 0); returns the mean training loss, the regulariser not counted."""
        first_of_last_phase = self.section.epochs - self.section.last_phase_epochs
        if epoch == first_of_last_phase:
            self._begin_last_phase()
        self.model.train()
        total = 0.0
        for batch, (inputs, labels) in enumerate(self._batches()):
            self._set_learning_rate((epoch + batch / self.steps_per_epoch) / self.section.epochs)
            self.optimizer.zero_grad()
            loss = self._loss(inputs, labels)
            loss.backward()
            if self.compressor is not None:
                self.compressor.regularize()
            if self.average is not None and epoch < first_of_last_phase:
                self.average.update()  # here the parameters hold what the optimizer trains, whatever the method
            self.optimizer.step()
            total += loss.item()
            advance()
        return total / self.steps_per_epoch

    def end_epoch(self, validation: Split) -> Evaluation:
        """End an epoch: the method decides, batch normalisation is recalibrated, held-out data measures the result."""
        if self.compressor is not None:
            self.compressor.end_epoch(lambda: evaluate(self.model, validation).loss)
        if self.section.recalibration_batches:
            size = self.section.batch_size
            recalibrate(self.model, self.split.inputs.split(size)[: self.section.recalibration_batches])
        return evaluate(self.model, validation)

    def is_last_phase(self, epoch: int) -> bool:
        """Whether an epoch's weights may become the file: in the last phase or, if there is none, the last epoch."""
        return epoch >= self.section.epochs - max(1, self.section.last_phase_epochs)

    def _begin_last_phase(self) -> None:
        if self.average is not None:
            self.average.put()
        if self.compressor is not None:
            if self.average is not None:
                self.compressor.adopt_weights()
            self.compressor.begin_last_phase()

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = self._logits(self.model, inputs)
        loss = label_loss(logits, labels)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            teacher_logits = self._logits(self.teacher, inputs)
        distance = distillation_loss(logits, teacher_logits, self.section.temperature)
        return loss.lerp(distance, self.section.distillation)

    def _logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits in float32, by layers that compute in the section's precision."""
        if self.section.precision is Precision.FLOAT32:
            logits: Tensor = model(inputs)
            return logits
        if inputs.ndim == 4:  # convolutions of bfloat16 are fastest so
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits = model(inputs)
        return logits.float()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's samples in random order; those at the end that do not fill a batch are left out."""
        order = torch.randperm(len(self.split), generator=self.generator)[: self.samples_per_epoch]
        for indices in order.split(self.section.batch_size)[: self.steps_per_epoch]:
            inputs = self.split.inputs[indices]
            yield augmented(inputs, self.section, self.generator), self.split.labels[indices]

    def _set_learning_rate(self, progress: float) -> None:
        rate = self.section.learning_rate
        if self.section.schedule is LearningRateSchedule.COSINE:
            rate *= 0.5 + 0.5 * math.cos(math.pi * progress)
        if self.compressor is not None:
            rate = min(rate, self.compressor.learning_rate_limit)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def _optimizer(section: StageSection, model: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = model.parameters(), section.learning_rate, section.weight_decay
    if section.optimizer is Optimizer.SGD:
        return torch.optim.SGD(parameters, lr=rate, momentum=_MOMENTUM, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
