"""A small classifier under `transformers.Trainer`, as it comes from the package index, and what its tests compare."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import metaq

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer, TrainingArguments  # noqa: E402

# `fused` optimizers and pinned memory, on machines without an accelerator
ignore_pinning = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*argument is set as true but no accelerator:UserWarning"
)
SAMPLES, FEATURES, CLASSES = 96, 12, 3
METHOD = metaq.METaQ(strength=1e-3)


class Classifier(nn.Module):
    """What the Trainer asks of a model: a loss in its output, where there are labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(FEATURES, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, features, labels):
        logits = self.head(torch.relu(self.body(features)))
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    """Takes the samples in their order, as the loop beside it does."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def classifier(seed=0):
    torch.manual_seed(seed)
    return Classifier()


def samples(count=SAMPLES):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, FEATURES, generator=generator)
    labels = (features @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    return [{"features": row, "labels": label} for row, label in zip(features, labels, strict=True)]


def trainer(folder, model, callback, kind=Trainer, **options):
    defaults = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "save_strategy": "epoch",
        "logging_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "label_names": ["labels"],
    }
    arguments = TrainingArguments(str(folder), **(defaults | options))
    return kind(model, arguments, train_dataset=samples(), eval_dataset=samples(32), callbacks=[callback])


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


class Watcher(transformers.TrainerCallback):
    """Calls a function at the end of every step."""

    def __init__(self, call):
        self.call = call

    def on_step_end(self, *_, **__):
        self.call()


class Beginning(Watcher):
    """Calls a function when training begins, after the method is bound."""

    def on_step_end(self, *_, **__):
        pass

    def on_train_begin(self, *_, **__):
        self.call()
