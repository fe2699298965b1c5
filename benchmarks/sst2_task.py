"""SST-2 for a BERT: sentences in four parts, fine-tuning by `transformers.Trainer`, and accuracy.

A tenth of the training sentences is held out for choices. Sentences are cut at 64 tokens and come in batches of about
equal lengths. The classification head begins at zero, so that it is the same for all who have the network it sits on.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from metaq.integrations.folder_models import quiet

MOST_TOKENS = 64
EVALUATION_BATCH = 64
_SPLIT_SEED = 1234  # the held-out sentences are the same in every run
HEAD = "classifier."

Sentence = dict[str, Any]
"""``input_ids``, ``attention_mask`` and ``labels``, as the Trainer takes them."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained; the learning rate rises for a tenth, then falls to 0 in a line.

    Attributes:
        precision: of the layers in training; weights and every evaluation are float32.
    """

    epochs: int
    learning_rate: float
    seed: int = 0
    batch_size: int = 32
    precision: str = "float32"


class Task:
    """The sentences, and the network before fine-tuning.

    Args:
        folder: of a network that `AutoModelForSequenceClassification` loads, and of its tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        sentences = self._read("train")
        order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
        held_out = len(order) // 10
        self.train = [sentences[number] for number in order[held_out:]]
        self.held_out = [sentences[number] for number in order[:held_out]]
        self.dev = self._read("dev")

    @property
    def test(self) -> list[Sentence]:
        """The test sentences, which are read when they are asked for."""
        return self._read("test")

    def _read(self, name: str) -> list[Sentence]:
        path = Path(os.environ.get("METAQ_DATA", "data")) / "sst2" / f"{name}.tsv"
        rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        found = self.tokenizer([text for text, _ in rows], truncation=True, max_length=MOST_TOKENS)
        columns = zip(found["input_ids"], found["attention_mask"], rows, strict=True)
        return [{"input_ids": ids, "attention_mask": mask, "labels": int(label)} for ids, mask, (_, label) in columns]

    def base(self) -> nn.Module:
        """The network with a head of zeros."""
        with quiet():  # that there is no head
            model: nn.Module = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=2)
        for name, parameter in model.named_parameters():
            if name.startswith(HEAD):
                nn.init.zeros_(parameter)
        return model

    def batches(self, sentences: Sequence[Sentence], size: int) -> list[dict[str, Tensor]]:
        """Padded batches, short sentences first."""
        ordered = sorted(sentences, key=lambda sentence: len(sentence["input_ids"]))
        collate = DataCollatorWithPadding(self.tokenizer)
        return [dict(collate(ordered[first : first + size])) for first in range(0, len(ordered), size)]

    def accuracy(self, model: nn.Module, sentences: Sequence[Sentence]) -> float:
        """The share of sentences that a network tells right, in evaluation mode."""
        model.eval()
        hits = 0
        with torch.no_grad():
            for batch in self.batches(sentences, EVALUATION_BATCH):
                labels = batch.pop("labels")
                hits += int((model(**batch).logits.argmax(dim=1) == labels).sum())
        return hits / len(sentences)


class _Stopwatch(TrainerCallback):
    """Seconds and steps of this process; those of a process that was stopped are not known."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start, self.processor_start = perf_counter(), os.times().user

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps += 1

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = perf_counter() - self.start
        self.processor_seconds = os.times().user - self.processor_start


def fine_tune(
    task: Task, model: nn.Module, schedule: Schedule, folder: Path, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, float]:
    """Train with AdamW, going on from the folder's last checkpoint; returns the steps and how many a second takes.

    Seconds are those of all that a training does, files and checkpoints among it.
    """
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=schedule.batch_size,
        num_train_epochs=schedule.epochs,
        learning_rate=schedule.learning_rate,
        weight_decay=0.0,  # embeddings of tokens that never come stay as they are
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        train_sampling_strategy="group_by_length",
        seed=schedule.seed,
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=schedule.precision == "bfloat16",
        dataloader_pin_memory=False,
    )
    stopwatch = _Stopwatch()
    collate = DataCollatorWithPadding(task.tokenizer)
    trainer = Trainer(
        model, arguments, train_dataset=task.train, data_collator=collate, callbacks=[*callbacks, stopwatch]
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.exists() else None)
    steps, seconds = max(stopwatch.steps, 1), stopwatch.seconds
    return {
        "steps": trainer.state.max_steps,
        "steps_per_second": steps / seconds,
        "steps_per_processor_second": steps / max(stopwatch.processor_seconds, 1e-9),
    }


def forget_checkpoints(folder: Path) -> None:
    """Remove what `fine_tune` has left to go on from."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


class UsedEmbedding(nn.Module):
    """An embedding that has vectors for some of its numbers alone, and zeros for all others.

    Args:
        count: how many numbers there are.
        used: a bit for each, packed into bytes: whether it has a vector.
    """

    def __init__(self, count: int, used: Tensor, width: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("used", used)
        self.weight = nn.Parameter(torch.zeros(int(unpacked(used, count).sum()), width))

    def forward(self, numbers: Tensor) -> Tensor:
        """The vectors of some numbers."""
        is_used = unpacked(self.used, self.count).bool()
        places = (is_used.cumsum(dim=0) - 1).clamp(min=0)
        return functional.embedding(places[numbers], self.weight) * is_used[numbers].unsqueeze(-1)


@torch.no_grad()
def drop_unmoved_embeddings(model: nn.Module, base: nn.Module) -> float:
    """Leave out the embeddings that fine-tuning has not moved, of tokens and places that never came; their share.

    A file then has one bit for each instead, whichever way the rest is quantized.
    """
    dropped = total = 0
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding):
            original = base.get_parameter(f"{name}.weight")
            is_moved = (module.weight != original).any(dim=1)
            narrow_embedding(model, name, packed(is_moved)).weight.copy_(module.weight[is_moved])
            dropped, total = dropped + int((~is_moved).sum()), total + len(is_moved)
    return dropped / total


def narrow_embedding(model: nn.Module, name: str, used: Tensor) -> UsedEmbedding:
    """Put a `UsedEmbedding` without values in the place of an embedding."""
    embedding = model.get_submodule(name)
    narrow = UsedEmbedding(embedding.num_embeddings, used, embedding.embedding_dim)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, narrow)
    return narrow


def packed(bits: Tensor) -> Tensor:
    """Booleans in bytes, eight in each."""
    return torch.from_numpy(np.packbits(bits.numpy()))


def unpacked(bits: Tensor, count: int) -> Tensor:
    """Inverse of `packed`: zeros and ones."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count))
