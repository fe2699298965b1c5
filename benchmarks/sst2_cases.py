"""The cases of `sst2.py`: how each makes its file, and what network is read back from it."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import sst2_updates as updates
from safetensors.torch import load_file, save_file
from sst2_task import Schedule, Task, drop_unmoved_embeddings, fine_tune, forget_checkpoints, narrow_embedding
from torch import nn

import metaq
from metaq.integrations import FILE
from metaq.integrations.transformers import MetaqCallback
from metaq.methods import Method

CALIBRATION_SENTENCES = 256
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One row to be made.

    Attributes:
        key: what the row is told from others by; ``size`` is 0 where the case aims at none.
        folder: for the file and for what training needs to go on.
    """

    bench: "Workbench"
    key: Row
    folder: Path

    @property
    def case(self) -> "Case":
        """How the file is made."""
        return CASES[self.key["case"]]

    @property
    def size(self) -> int:
        """The bytes to aim at."""
        size: int = self.key["size"]
        return size

    @property
    def file(self) -> Path:
        """Where the file is."""
        return self.folder / f"model.{self.case.suffix}"

    def fine_tune(self, model: nn.Module, callbacks: Sequence[Any] = ()) -> Row:
        """Train a network with the job's schedule; returns the speed."""
        key = self.key
        schedule = Schedule(key["epochs"], key["learning_rate"], key["seed"], precision=key["precision"])
        return fine_tune(self.bench.task, model, schedule, self.folder, callbacks)

    def make(self) -> Row:
        """Write the file, whole or not at all; returns what there is to say of that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"unfinished.{self.case.suffix}"
        start = perf_counter()
        found = self.case.write(self, unfinished)
        unfinished.replace(self.file)
        forget_checkpoints(self.folder)
        return found | {"seconds": perf_counter() - start}

    def model(self) -> nn.Module:
        """The network that the file holds, which is made if it has not been."""
        if not self.file.exists():
            self.make()
        return self.case.read(self.bench, self.file)


@dataclass(frozen=True)
class Case:
    """A way to make a file.

    Attributes:
        write: makes the file that it is given the path of; returns what else is to be in the row.
        read: the network that a file holds.
        suffix: of the file's name.
        schedule: of training, unless the options have another; None where nothing is trained.
        options: names of further options that the file depends on.
    """

    write: Callable[[Job, Path], Row]
    read: Callable[["Workbench", Path], nn.Module]
    suffix: str
    schedule: Schedule | None = None
    has_size: bool = False
    options: tuple[str, ...] = ()


class Workbench:
    """The task, and networks that several cases begin with."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.task, self.options = Task(options.folder), options

    def job(self, name: str, size: int = 0) -> Job:
        """What makes the row of a case."""
        options, default = self.options, CASES[name].schedule
        float_key = {"float_epochs": options.float_epochs, "float_learning_rate": options.float_learning_rate}
        key = {"case": name, "size": size, "seed": options.seed, "precision": options.precision, **float_key}
        if name == "float":
            key |= {"epochs": options.float_epochs, "learning_rate": options.float_learning_rate}
        elif default is not None:
            key |= {"epochs": options.epochs or default.epochs}
            key |= {"learning_rate": options.learning_rate or default.learning_rate}
        key |= {option: getattr(options, option) for option in CASES[name].options}
        values = ("+".join(value) if isinstance(value, list) else f"{value}" for value in key.values())
        return Job(self, key, options.work / "-".join(values))

    def tuned(self) -> nn.Module:
        """The network that is fine-tuned in float."""
        return self.job("float").model()

    def narrow(self) -> nn.Module:
        """The same without the embeddings of unused tokens and places."""
        model = self.tuned()
        drop_unmoved_embeddings(model, self.task.base())
        return model


def write_float(job: Job, path: Path) -> Row:
    model = job.bench.task.base()
    speed = job.fine_tune(model)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return speed


def read_float(bench: Workbench, path: Path) -> nn.Module:
    model = bench.task.base()
    model.load_state_dict(load_file(path))
    return model


def write_narrow(job: Job, path: Path) -> Row:
    model = job.bench.tuned()
    share = drop_unmoved_embeddings(model, job.bench.task.base())
    metaq.save(metaq.compress_state_dict(model.state_dict(), metaq.CompressionConfig(lossless=True)), path)
    return {"dropped_embeddings": share}


def read_narrow(bench: Workbench, path: Path) -> nn.Module:
    model = bench.task.base()
    for name, tensor in metaq.load_file(path).items():
        if name.endswith(".used"):
            narrow_embedding(model, name.removesuffix(".used"), tensor)
    metaq.load_into(model, path)
    return model


def read_difference(bench: Workbench, path: Path) -> nn.Module:
    model = bench.task.base()
    metaq.load_into(model, path)
    return model


def write_trained(make_method: Callable[[Job], Method], job: Job, path: Path) -> Row:
    speed = job.fine_tune(job.bench.narrow(), [MetaqCallback(make_method(job))])
    (job.folder / FILE).replace(path)
    return speed


def write_difference(job: Job, path: Path) -> Row:
    speed = job.fine_tune(job.bench.task.base(), [MetaqCallback(metaq.Difference(_metaq(job)))])
    (job.folder / FILE).replace(path)
    return speed


def write_post_training(job: Job, path: Path) -> Row:
    config = metaq.CompressionConfig(size_bytes=job.size)
    metaq.save(metaq.compress_state_dict(job.bench.narrow().state_dict(), config), path)
    return {}


def write_calibrated(job: Job, path: Path) -> Row:
    task = job.bench.task
    batches = task.batches(task.train[:CALIBRATION_SENTENCES], 32)
    for batch in batches:
        del batch["labels"]
    config = metaq.CompressionConfig(size_bytes=job.size)
    metaq.save(metaq.compress_calibrated(job.bench.narrow(), batches, config), path)
    return {}


def write_lora(job: Job, path: Path) -> Row:
    model = job.bench.task.base()
    updates.add_lora(model, job.key["lora_layers"], job.key["seed"])
    speed = job.fine_tune(model)
    updates.save_float16(updates.trained_tensors(model), path)
    return speed


def write_lora_4bit(job: Job, path: Path) -> Row:
    lora = job.bench.job("lora")
    if not lora.file.exists():
        lora.make()
    state = {name: tensor.float() for name, tensor in load_file(lora.file).items()}
    metaq.save(metaq.compress_state_dict(state, metaq.CompressionConfig(bits=4)), path)
    return {}


def write_bitfit(job: Job, path: Path) -> Row:
    model = job.bench.task.base()
    updates.train_biases_alone(model)
    speed = job.fine_tune(model)
    updates.save_float16(updates.trained_tensors(model), path)
    return speed


def write_bitdelta(job: Job, path: Path) -> Row:
    updates.save_one_bit(job.bench.task, job.bench.tuned(), path)
    return {}


def read_update(bench: Workbench, path: Path) -> nn.Module:
    tensors = metaq.load_file(path) if path.suffix == ".mtq" else load_file(path)
    return updates.merge(bench.task.base(), tensors)


def _metaq(job: Job) -> Method:
    return metaq.METaQ(strength=job.key["strength"]) if "strength" in job.key else metaq.METaQ(target_bytes=job.size)


def _hemp(job: Job) -> Method:
    return metaq.Sized(metaq.HEMP(), target_bytes=job.size)


_TRAINED = Schedule(6, 1e-4)
CASES = {
    "float": Case(write_float, read_float, "safetensors", Schedule(2, 1e-4)),
    "narrow": Case(write_narrow, read_narrow, "mtq"),
    "metaq": Case(partial(write_trained, _metaq), read_narrow, "mtq", _TRAINED, has_size=True),
    "metaq-strength": Case(partial(write_trained, _metaq), read_narrow, "mtq", _TRAINED, options=("strength",)),
    "hemp": Case(partial(write_trained, _hemp), read_narrow, "mtq", _TRAINED, has_size=True),
    "post-training": Case(write_post_training, read_narrow, "mtq", has_size=True),
    "calibrated": Case(write_calibrated, read_narrow, "mtq", has_size=True),
    "difference": Case(write_difference, read_difference, "mtq", _TRAINED, has_size=True),
    "difference-strength": Case(write_difference, read_difference, "mtq", _TRAINED, options=("strength",)),
    "lora": Case(write_lora, read_update, "safetensors", Schedule(5, 1e-3), options=("lora_layers",)),
    "lora-4bit": Case(write_lora_4bit, read_update, "mtq", Schedule(5, 1e-3), options=("lora_layers",)),
    "bitfit": Case(write_bitfit, read_update, "safetensors", Schedule(5, 1e-3)),
    "bitdelta": Case(write_bitdelta, lambda bench, path: updates.read_one_bit(bench.task.base(), path), "safetensors"),
}
BY_DEFAULT = [name for name in CASES if "strength" not in name]
