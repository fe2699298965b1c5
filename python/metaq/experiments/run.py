"""One run of a recipe: a folder with its configuration, metrics, checkpoint, float network, `.mtq` file and result."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaq.compressed_model import CompressedModel, encode, read_model
from metaq.errors import InputError
from metaq.experiments import checkpoint, data, models
from metaq.experiments.checkpoint import COMPRESS, FLOAT, RunProgress
from metaq.experiments.data import Dataset
from metaq.experiments.loop import Stage, evaluate
from metaq.experiments.recipe import Precision, Recipe, as_tree
from metaq.experiments.teacher import trained_teacher
from metaq.files import write_atomically
from metaq.format.reader import Reader
from metaq.io.safetensors import read_safetensors, write_safetensors
from metaq.methods import Method
from metaq.metrics import digest, entropy_of_order
from metaq.neuron_order import order_neurons
from metaq.tensors import device_of, load_tensors

_log = logging.getLogger(__name__)

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.pt"
_LOGGED_ORDERS = (1, 2, 4)  # of the entropy of the symbols, in bits per weight
FLOAT_NETWORK, FILE, RESULT, REPORT = "float.safetensors", "model.mtq", "result.json", "report.html"

Advance = Callable[[str, int, int], None]
"""Is called with the stage, the training steps done in it, and their number in all."""


class Run:
    """Runs a recipe in its folder.

    Args:
        recipe: the experiment.
        folder: where its results go; made if it does not exist.
        resume: go on from the folder's checkpoint; without it, a folder that holds a checkpoint is refused.
        advance: is called after every training step, for progress bars.
        device: where to train; only ``"cpu"`` gives the same network again, bit for bit.

    Raises:
        InputError: the folder holds a checkpoint and ``resume`` is off, or it belongs to another recipe; or there is no
            such device.
        DataError: the data set cannot be found or downloaded.
    """

    def __init__(self, recipe: Recipe, folder: Path, resume: bool, advance: Advance, device: str = "cpu") -> None:
        self.device = usable(device)
        self.recipe = recipe
        self.folder = folder
        self.advance = advance
        self._after_epoch: Callable[[], None] = lambda: None
        self._ordering_seconds = 0.0
        self.tree = as_tree(recipe)
        torch.set_num_threads(recipe.threads)
        self._warn_of_slow_bfloat16()
        self.state = self._resumed_state() if resume else None
        if not resume and (folder / CHECKPOINT).exists():
            raise InputError(
                f"{folder}: expected a new run, found a checkpoint; add --resume to go on, or name another folder"
            )
        self.progress: RunProgress = self.state["progress"] if self.state else RunProgress()
        self.dataset: Dataset = data.by_name(recipe.data.name)(recipe.data.held_out).to(self.device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder for the run, found {error.strerror}") from None
        self._write_json(CONFIG, {"recipe": recipe.name, **self.tree})
        self._forget_later_metrics()

    def _warn_of_slow_bfloat16(self) -> None:
        """The recipe's bfloat16, where the processor is one of x86-64 that says it cannot multiply it."""
        sections = {"float_training": self.recipe.float_training, "training": self.recipe.training}
        slow = [key for key, section in sections.items() if section.precision is Precision.BFLOAT16]
        can: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.12 and later
        if slow and self.device.type == "cpu" and not can.get("avx512_bf16", True) and not can.get("amx_bf16"):
            instead = " ".join(f"--set {key}.precision=float32" for key in slow)
            _log.warning("recipe %s: bfloat16 is slow on this processor; faster is %s", self.recipe.name, instead)

    def _resumed_state(self) -> dict[str, Any] | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        state = checkpoint.load(path)
        if state["recipe"] != self.tree:
            changed = [key for key in self.tree if self.tree[key] != state["recipe"].get(key)]
            raise InputError(
                f"{path}: expected the same recipe, found another {', '.join(changed)}; name another folder"
            )
        return state

    def _forget_later_metrics(self) -> None:
        """Keep the metrics of exactly the epochs that the checkpoint has behind it."""
        path = self.folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        done = self.progress.epochs_done + (self.recipe.float_training.epochs if self.progress.stage == COMPRESS else 0)
        write_atomically(path, "".join(lines[:done]).encode())

    def train(self) -> dict[str, Any]:
        """Both stages, then the file and its one evaluation on the test set; returns the content of ``result.json``."""
        self.train_file()
        return self._finish()

    def train_file(self, after_epoch: Callable[[], None] = lambda: None) -> None:
        """Both stages, then the file; the test set stays unused.

        Args:
            after_epoch: is called when the metrics and the checkpoint of an epoch are written; what it raises ends the
                run, which can be resumed from there.
        """
        self._after_epoch = after_epoch
        model = self._new_network()
        if self.recipe.network.weights:
            models.load_weights(model, self.recipe.network.weights)
        if self.progress.stage == FLOAT:
            self._run_stage(model, None)
            write_safetensors(self.folder / FLOAT_NETWORK, model.state_dict(), {})
            self.progress = RunProgress(stage=COMPRESS)
            self.state = None
        else:
            model.load_state_dict(read_safetensors(self.folder / FLOAT_NETWORK)[0])
        self._run_stage(model, self.recipe.compression)
        if self.recipe.file.neuron_moves:
            self._order_neurons(model)
        write_atomically(self.folder / FILE, self.progress.best_file)

    def _new_network(self) -> nn.Module:
        return models.initial(self.recipe.network.name, self.recipe.seed).to(self.device)

    def _float_network(self) -> nn.Module:
        model = self._new_network()
        model.load_state_dict(read_safetensors(self.folder / FLOAT_NETWORK)[0])
        return model

    def _teacher(self) -> nn.Module:
        if self.recipe.teacher is None:
            return self._float_network()
        return trained_teacher(self.recipe, self.folder, self.dataset, self.device, self.advance)

    def _run_stage(self, model: nn.Module, method: Method | None) -> None:
        name = FLOAT if method is None else COMPRESS
        section = self.recipe.float_training if method is None else self.recipe.training
        seed = self.recipe.seed + (method is not None)
        teacher = self._teacher() if section.distillation else None
        stage = Stage(model, section, self.dataset.train, seed, method, self._encode, teacher)
        if self.state is not None:
            checkpoint.restore(self.state, stage)
        total = stage.training_steps
        done = self.progress.epochs_done * stage.steps_per_epoch
        for epoch in range(self.progress.epochs_done, section.epochs):
            started = time.perf_counter()

            def advance() -> None:
                nonlocal done
                done += 1
                self.advance(name, done, total)

            loss = stage.run_epoch(epoch, advance)
            self._end_epoch(stage, name, epoch, loss, time.perf_counter() - started)

    def _end_epoch(self, stage: Stage, name: str, epoch: int, loss: float, seconds: float) -> None:
        validation = stage.end_epoch(self.dataset.validation)
        line = {"stage": name, "epoch": epoch, "loss": loss}
        line |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy, "seconds": seconds}
        if stage.compressor is not None:
            compressed = stage.compressor.compress()
            file = self._encode(compressed)
            line["file_bytes"] = len(file)
            line |= {f"entropy_{order}": entropy_of_order(compressed, order) for order in _LOGGED_ORDERS}
            if stage.is_last_phase(epoch) and validation.accuracy >= self.progress.best_accuracy:
                self.progress.best_file = file
                self.progress.best_accuracy, self.progress.best_epoch = validation.accuracy, epoch
                # The model still has the weights of its last evaluation, which the file must hold.
                self.progress.best_weights = digest(stage.model.state_dict())
            line |= stage.compressor.bound.measures()
        self.progress.epochs_done = epoch + 1
        with (self.folder / METRICS).open("a", encoding="utf-8") as metrics:
            metrics.write(json.dumps(line) + "\n")
        checkpoint.save(self.folder / CHECKPOINT, self.progress, stage, self.tree)
        self._after_epoch()

    def _encode(self, compressed: CompressedModel) -> bytes:
        metadata = {"recipe": self.recipe.name}
        return encode(CompressedModel(compressed.tensors, metadata), self.recipe.file.coder)

    def _order_neurons(self, model: nn.Module) -> None:
        """Make the file smaller by another order of the same network's neurons."""
        started = time.perf_counter()
        ordered = order_neurons(
            read_model(Reader(self.progress.best_file)),
            model,
            models.neuron_chains(self.recipe.network.name),
            self.recipe.file.neuron_moves,
            self.recipe.file.coder,
            lambda done, total: self.advance("order of neurons", done, total),
        )
        self.progress.best_file = self._encode(ordered)
        self.progress.best_weights = digest(ordered.decompress())
        self._ordering_seconds = time.perf_counter() - started

    def _finish(self) -> dict[str, Any]:
        """The test set, once: the float network, and the network that the file holds."""
        before, after = self._float_network(), self._new_network()
        after.load_state_dict(load_tensors(Reader(self.progress.best_file)))
        lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines()
        float_bytes = 4 * sum(parameter.numel() for parameter in before.parameters())
        result = {
            "recipe": self.recipe.name,
            "float32_bytes": float_bytes,
            "file_bytes": len(self.progress.best_file),
            "ratio": float_bytes / len(self.progress.best_file),
            "epoch": self.progress.best_epoch,
            "validation_accuracy": self.progress.best_accuracy,
            "weights_sha256": self.progress.best_weights,
            "test_before": asdict(evaluate(before, self.dataset.test)),
            "test_after": asdict(evaluate(after, self.dataset.test)),
            **self._teacher_result(),
            "seconds": sum(json.loads(line)["seconds"] for line in lines) + self._ordering_seconds,
            "machine": f"{self._processor()}, torch {torch.__version__}",
            "config": self.tree,
        }
        self._write_json(RESULT, result)
        return result

    def _teacher_result(self) -> dict[str, Any]:
        if self.recipe.teacher is None:
            return {}
        return {"test_teacher": asdict(evaluate(self._teacher().eval(), self.dataset.test))}

    def _processor(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()}, {os.cpu_count()} cores"

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.folder / name, (json.dumps(content, indent=2) + "\n").encode())


def usable(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: there is none that torch can use here.
    """
    device = device_of(name)
    if device.type == "meta":
        raise InputError("device: expected one that torch can use here, found 'meta' (its tensors hold no numbers)")
    return device
