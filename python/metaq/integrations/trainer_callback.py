"""The callback of `metaq.integrations.transformers` for `transformers.Trainer`; only who uses it loads `transformers`.

The Trainer calls, around a step of the optimizer: gradient clipping, ``on_pre_optimizer_step``, ``optimizer.step()``,
``on_optimizer_step``, ``on_step_end``, ``on_log``, evaluation, saving, ``on_save``.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from metaq.binding.selection import Methods
from metaq.binding.shards import is_distributed
from metaq.compressor import Compressor
from metaq.errors import InputError
from metaq.integrations import FILE
from metaq.integrations.session import TrainingSession

logger = logging.getLogger(__name__)

STATE_FILE = "metaq_state.pt"
"""What a method needs to go on: tensors and numbers, which ``torch.load(..., weights_only=True)`` reads."""


class MetaqCallback(TrainerCallback):
    """Trains towards a small file under `transformers.Trainer`::

        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[MetaqCallback(metaq.METaQ())])
        trainer.train()

    Every checkpoint folder gets a ``model.mtq``, and ``metaq_state.pt`` to go on from. At the end ``model.mtq`` is in
    ``output_dir`` too, of the best weights with ``load_best_model_at_end``, and the model keeps the file's weights.
    The Trainer's logs, and what it reports them to, have ``size_bytes``, ``bits_per_weight`` and ``entropy`` (bits).

    Args:
        method: a method, or a mapping from patterns of parameter names to methods, as of `metaq.Compressor`.
        measure_every: steps of the optimizer between two measurements for the logs; by default a twentieth of the
            training.
        validation_loss: for methods that prune by it, such as `metaq.LOBSTER`: the loss of the model that it is given,
            in evaluation mode, on held-out data; of several ranks the mean counts.

    Raises:
        InputError: when training begins: under DeepSpeed, FSDP1 or `nn.DataParallel`, and what `Compressor` refuses.
    """

    def __init__(
        self,
        method: Methods,
        measure_every: int | None = None,
        validation_loss: Callable[[nn.Module], float] | None = None,
    ) -> None:
        self._session = TrainingSession(method, measure_every, validation_loss)

    @property
    def compressor(self) -> Compressor:
        """The compressor, while training goes on."""
        return self._session.compressor

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bind the method, and go on where the checkpoint was made, if the Trainer does."""
        model: nn.Module = kwargs["model"]
        _check_supported(args, model)
        _move_before_reporters(self)
        digest = _digest(model) if state.global_step else 0
        self._session.begin(model, kwargs["optimizer"], state.max_steps)
        if state.global_step:
            self._load(_checkpoint_to_resume(args, state), digest)
            if self._session.ended_epochs < int(state.epoch):  # saved at an epoch's last step, before its end
                self._session.end_epoch()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the method's gradients to those of the loss, which are unscaled and clipped by now."""
        self.compressor.regularize()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where the scaler of float16 has left out the step, the model is as it was."""
        if getattr(kwargs["optimizer"], "step_was_skipped", False):
            self.compressor.show(is_training=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Checkpoints hold the weights of the file."""
        if control.should_save:
            self.compressor.show(is_training=False)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the method decide; checkpoints hold the weights of the file."""
        self._session.end_epoch()
        if control.should_save:
            self.compressor.show(is_training=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add size, bits per weight and entropy to what is logged of training."""
        if logs is not None and self._session.is_bound and ("loss" in logs or "train_loss" in logs):
            measures = self._session.measures()
            logs.update(measures)
            state.log_history[-1].update(measures)  # a copy of the logs, made before

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the file and the method's state into the folder of the checkpoint."""
        compressed = self.compressor.compress()
        states = self._session.state_dict()
        if args.should_save:
            self.compressor.show(is_training=False)
            folder = _checkpoint_folder(args, state)
            self._session.write(folder / FILE, compressed)
            torch.save(states | {"digest": _digest(self.compressor.model)}, folder / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the file of the weights that training ends with, and leave the model with them."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint), None)
        compressed = self.compressor.compress()
        self._session.finish()
        if args.should_save:
            path = _output(args) / FILE
            logger.info("%s: %d bytes", path, self._session.write(path, compressed))

    def _load(self, folder: Path, digest: int | None) -> None:
        """Take up the state in a checkpoint's folder.

        Args:
            digest: of the weights that must lie in the same folder; None for whatever they are.

        Raises:
            InputError: there is no state, or it is that of other weights.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise InputError(
                f"{path}: expected the state of MetaqCallback, found no file; resume from a checkpoint made with it,"
                " and where that is not in output_dir, give TrainingArguments(resume_from_checkpoint=FOLDER) too"
            )
        states = torch.load(path, map_location="cpu", weights_only=True)
        if digest is not None and states["digest"] != digest:
            raise InputError(
                f"{path}: expected the state that belongs to the weights that the Trainer resumes with, found another;"
                " give TrainingArguments(resume_from_checkpoint=FOLDER)"
            )
        self._session.load_state_dict(states)


def _check_supported(args: TrainingArguments, model: nn.Module) -> None:
    """Raise an InputError for ways to spread a model over devices that take its parameters away."""
    if getattr(args, "deepspeed_plugin", None) is not None or getattr(args, "deepspeed", None):
        raise InputError("Trainer: expected DDP or FSDP2, found DeepSpeed, whose optimizer owns the weights")
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise InputError("Trainer: expected DDP or FSDP2, found FSDP1; set fsdp_config={'version': 2}")
    if args.n_gpu > 1:
        raise InputError(f"Trainer: expected one device a process, found {args.n_gpu}; start it with torchrun")


def _move_before_reporters(callback: TrainerCallback) -> None:
    """Put a callback right behind the Trainer's own, before TensorBoard's, W&B's and the like.

    The Trainer puts those first, so that they would not see what this one adds to the logs. It does not tell a callback
    where the list of all is, but whoever calls it is the one who has it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler) and callback in handler.callbacks:
            handler.callbacks.remove(callback)
            handler.callbacks.insert(1, callback)
            return
        frame = frame.f_back  # type: ignore[assignment]


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint that the Trainer has just made."""
    name = f"checkpoint-{state.global_step}"
    folders = [_output(args) / name, *_output(args).glob(f"run-*/{name}")]  # in run-TRIAL in a search
    return max((folder for folder in folders if folder.is_dir()), key=lambda folder: folder.stat().st_mtime)


def _checkpoint_to_resume(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder that the Trainer resumes from, of which it tells a callback only the step."""
    if isinstance(args.resume_from_checkpoint, str) and Path(args.resume_from_checkpoint).is_dir():
        return Path(args.resume_from_checkpoint)
    return _output(args) / f"checkpoint-{state.global_step}"


def _output(args: TrainingArguments) -> Path:
    return Path(args.output_dir or "")


def _digest(model: nn.Module) -> int:
    """A checksum of a model's parameters, those in shards left out."""
    digest = 0
    for parameter in model.parameters():
        if is_distributed(parameter):
            continue  # each process has other shards
        words = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest = zlib.crc32(words.numpy().data, digest)
    return digest
