"""A callback for Lightning's Trainer.

Lightning calls, around a step of an optimizer: ``on_train_batch_start``, the optimizer's step hooks, and in the step
its closure with forward, backward, ``on_before_optimizer_step`` and gradient clipping. The method's gradients are not
to be clipped. So they are added at the end of that closure, and not in ``on_before_optimizer_step``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from metaq.binding.selection import Methods
from metaq.compressed_model import CompressedModel, encode
from metaq.compressor import Compressor
from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.integrations import FILE
from metaq.integrations.session import TrainingSession

logger = logging.getLogger(__name__)

CHECKPOINT_KEY = "model.mtq"
"""Under which a checkpoint holds the bytes of the file, as a tensor of uint8."""


class MetaqCallback(Callback):
    """Trains towards a small file under Lightning's Trainer::

        trainer = lightning.Trainer(max_epochs=10, callbacks=[MetaqCallback(metaq.METaQ())])
        trainer.fit(module)

    Every checkpoint holds the weights of the file in its ``state_dict``, the file itself, which `extract` writes, and
    what the method needs to go on. At the end the file is at ``path``, and the module keeps its weights. Loggers and
    the progress bar get ``size_bytes``, ``bits_per_weight`` and ``entropy`` (bits).

    Optimization may be automatic, or manual with one optimizer or several. Several may make their steps by gradients of
    their own, as those of adversarial networks do, or after one backward pass for all of them.

    Args:
        method: a method, or a mapping from patterns of parameter names to methods, as of `metaq.Compressor`.
        path: of the file at the end; by default ``model.mtq`` in the Trainer's ``default_root_dir``.
        measure_every: steps of the optimizer between two measurements for the logs; by default a twentieth of the
            training, and 500 where its length is not known.
        validation_loss: for methods that prune by it, such as `metaq.LOBSTER`: the loss of the module that it is given,
            in evaluation mode, on held-out data; of several ranks the mean counts.
        training_steps: the training's length, which the Trainer does not know in manual optimization: in gradients that
            steps are made by, so that one backward pass for several optimizers counts once.

    Raises:
        InputError: when training begins, with DeepSpeed's strategy or FSDP1's, and what `metaq.Compressor` refuses.
    """

    def __init__(
        self,
        method: Methods,
        path: str | os.PathLike[str] | None = None,
        measure_every: int | None = None,
        validation_loss: Callable[[nn.Module], float] | None = None,
        training_steps: int | None = None,
    ) -> None:
        self._session = TrainingSession(method, measure_every, validation_loss)
        self._path, self._training_steps = path, training_steps
        self._handles: list[RemovableHandle] = []
        self._optimizers: list[Optimizer] = []
        self._regularized: dict[Optimizer, tuple[Tensor, int]] = {}  # a gradient with the method's in it, its version
        self._loaded: dict[str, Any] = {}  # from a checkpoint, until training begins
        self._ended: dict[str, Any] = {}  # for checkpoints that are made when training has ended
        self._compressed: CompressedModel | None = None  # for those too

    @property
    def compressor(self) -> Compressor:
        """The compressor, while training goes on."""
        return self._session.compressor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that take a module's parameters away; forget what other runs have left."""
        self._loaded = {}
        if stage == "fit" and isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy):
            found = type(trainer.strategy).__name__
            raise InputError(f"strategy: expected DDP or ModelParallelStrategy (FSDP2), found {found}")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bind the method: by now weights and optimizers are those of a checkpoint, if there is one."""
        self._begin(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bind the method, where no sanity check has come before."""
        if not self._session.is_bound:
            self._begin(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forward passes in training are to see what the method shows them."""
        self.compressor.show(is_training=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log size, bits per weight and entropy."""
        pl_module.log_dict(self._session.measures(), on_step=True, on_epoch=False, prog_bar=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation measures the weights of the file."""
        if self._session.is_bound:
            self.compressor.show(is_training=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the method decide what it decides at the end of an epoch."""
        self._session.end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, and leave the module with its weights."""
        self._compressed = self.compressor.compress()
        self._ended = self._session.state_dict()
        self._session.finish()
        self._remove_hooks()
        path = Path(self._path or Path(trainer.default_root_dir) / FILE)
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            logger.info("%s: %d bytes", path, self._session.write(path, self._compressed))

    def state_dict(self) -> dict[str, Any]:
        """What the method needs to go on, for the checkpoint.

        The weights in the checkpoint are the module's own, and not yet written: they become those of the file.
        """
        if not self._session.is_bound:
            return self._ended
        self.compressor.show(is_training=False)
        return self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training begins."""
        self._loaded = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the file into the checkpoint."""
        compressed = self.compressor.compress() if self._session.is_bound else self._compressed
        if compressed is None or compressed.is_elsewhere:
            return
        data = bytearray(encode(compressed, self._session.coder))
        checkpoint[CHECKPOINT_KEY] = torch.frombuffer(data, dtype=torch.uint8)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove_hooks()
        # Before those of the compressor, which look whether these have been called.
        self._optimizers, self._regularized = trainer.optimizers, {}
        self._handles = [optimizer.register_step_pre_hook(self._regularize_within) for optimizer in trainer.optimizers]
        steps = self._training_steps or _length(trainer, pl_module)
        self._session.begin(pl_module, trainer.optimizers, steps)
        if self._loaded:
            self._session.load_state_dict(self._loaded)
        self._loaded, self._ended, self._compressed = {}, {}, None

    def _regularize_within(self, optimizer: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the method's gradients added when those of the loss are complete: at the end of the closure.

        Returns:
            the arguments of the optimizer's step, with another closure.
        """
        if getattr(optimizer, "grad_scale", None) is not None:
            raise InputError("optimizer: expected unscaled gradients, found a fused one under float16; use fused=False")
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:  # it has been called before, as with the scaler of float16
            self._regularize(optimizer)
            return None

        def closure_and_method() -> Any:
            loss = closure()
            self._regularize(optimizer)
            return loss

        return arguments[:1], {**named, "closure": closure_and_method}

    def _regularize(self, optimizer: Optimizer) -> None:
        """Add the method's gradients, unless they have been in this optimizer's since the step of another one."""
        gradient, version = self._regularized.pop(optimizer, (None, 0))
        if gradient is not None and gradient is _gradient(optimizer) and gradient._version == version:
            return
        self.compressor.regularize()
        gradients = {other: _gradient(other) for other in self._optimizers if other is not optimizer}
        self._regularized = {other: (g, g._version) for other, g in gradients.items() if g is not None}

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def extract(checkpoint: str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Write the `.mtq` file that a checkpoint of `MetaqCallback` holds; returns its size in bytes.

    Raises:
        InputError: the checkpoint holds none, or the file cannot be written.
    """
    is_folder = Path(checkpoint).is_dir()  # of ModelParallelStrategy
    content = torch.load(
        Path(checkpoint) / "meta.pt" if is_folder else checkpoint, map_location="cpu", weights_only=True
    )
    if CHECKPOINT_KEY not in content:
        raise InputError(f"{checkpoint}: expected {CHECKPOINT_KEY!r} in it, found {', '.join(map(repr, content))}")
    data = content[CHECKPOINT_KEY].numpy().tobytes()
    write_atomically(path, data)
    return len(data)


def _gradient(optimizer: Optimizer) -> Tensor | None:
    """The first of an optimizer's gradients, None if it has none."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return next((parameter.grad for parameter in parameters if parameter.grad is not None), None)


def _length(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """The training's length in steps of the optimizer, None where it is not known."""
    if not pl_module.automatic_optimization:
        return None
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None
