"""Runs one stage of a model on the stored outputs of the blocks before it.

The model's own code runs, with stand-ins for these blocks that give what was stored, and stops behind the stage. So
masks, position embeddings and whatever else a block is given come from where they always come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from typing import Any

from torch import nn

from metaq.errors import InputError
from metaq.quantizers.observation import batch_tensors, run
from metaq.quantizers.stages import Stage, Trace
from metaq.quantizers.trees import are_same, mapped


class Memory(Enum):
    """What is stored between stages, which a trace tells (`memory_of`).

    LAST: the output of the last block, which stands for all before it.
    ALL: those of all blocks.
    NOTHING: every stage takes a run of the whole model.
    """

    LAST = "last"
    ALL = "all"
    NOTHING = "nothing"


class _Stop(BaseException):
    """Ends a run behind a stage; no Exception, so that models do not catch it."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def memory_of(model: nn.Module, batch: Any, trace: Trace) -> Memory:
    """The least that has to be stored for every stage to get the inputs that it had in a trace, bit for bit."""
    if trace.is_chain and len(trace.outputs) == len(trace.blocks):
        for memory in (Memory.LAST, Memory.ALL):
            if _suffices(model, batch, trace, memory):
                return memory
    return Memory.NOTHING


class Replay:
    """A model's way through its stages, for a list of batches.

    Args:
        memory: what to store, on the CPU.
    """

    def __init__(self, model: nn.Module, blocks: list[str], memory: Memory, batches: list[Any]) -> None:
        self.model, self.batches, self.memory = model, batches, memory
        self._blocks = [model.get_submodule(name) for name in blocks]
        self._stored: list[list[Any]] = [[] for _ in batches]

    def run(self, stage: Stage, index: int) -> Any:
        """Run a stage on what is stored for a batch; gives what comes of it."""
        batch = self.batches[index]
        if self.memory is Memory.NOTHING:
            return run(self.model, batch, index)
        return replay(self.model, self._blocks, self._stored[index], stage, batch, index)

    def stores(self, stage: Stage) -> bool:
        """Whether what comes of a stage is kept."""
        return self.memory is not Memory.NOTHING and stage.block is not None

    def store(self, stage: Stage, index: int, output: Any) -> None:
        """Keep what came of a stage, for the next."""
        if not self.stores(stage):
            return
        output = mapped(output, lambda tensor: tensor.detach().cpu())
        stored = self._stored[index]
        self._stored[index] = [*stored, output] if self.memory is Memory.ALL else [output] * (len(stored) + 1)


def replay(model: nn.Module, blocks: list[nn.Module], stored: list[Any], stage: Stage, batch: Any, index: int) -> Any:
    """Run a stage on the outputs of the blocks before it.

    Raises:
        InputError: the model does not take the batch, or runs its blocks in another order than in its trace.
    """
    device = next((tensor.device for tensor in batch_tensors(batch)), None)
    with ExitStack() as stack:
        for block, output in zip(blocks[: stage.before], stored, strict=True):
            stack.enter_context(_forward(block, partial(_stand_in, output, device)))
        if stage.before < len(blocks):
            stack.enter_context(_stopping(blocks[stage.before], behind=stage.block is not None))
        try:
            output = run(model, batch, index)
        except _Stop as stop:
            return stop.result
    if stage.before < len(blocks):
        raise InputError(f"batch {index}: expected {stage.block or 'the next block'} to run, found that it does not")
    return output


def _stand_in(output: Any, device: Any, *_: Any, **__: Any) -> Any:
    """Gives a copy of what a block gave."""
    return mapped(output, lambda tensor: tensor.clone() if device is None else tensor.to(device, copy=True))


@contextmanager
def _forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a module."""
    had_own = "forward" in vars(module)
    before = module.forward
    module.forward = function
    try:
        yield
    finally:
        if had_own:
            module.forward = before
        else:
            del module.forward


@contextmanager
def _stopping(block: nn.Module, behind: bool) -> Iterator[None]:
    """Ends the run before a block, which gives its arguments, or behind it, which gives its output."""

    def end_before(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        raise _Stop((arguments, keywords))

    def end_behind(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        raise _Stop(output)

    hook = (
        block.register_forward_hook(end_behind)
        if behind
        else block.register_forward_pre_hook(end_before, with_kwargs=True)
    )
    try:
        yield
    finally:
        hook.remove()


def _suffices(model: nn.Module, batch: Any, trace: Trace, memory: Memory) -> bool:
    blocks = [model.get_submodule(name) for name in trace.blocks]
    for before in range(1, len(blocks) + 1):
        known = trace.outputs[:before]
        stored = known if memory is Memory.ALL else known[-1:] * before
        try:
            found = replay(model, blocks, stored, Stage(None, before, ()), batch, 0)
        except InputError:  # the model stumbles over the output of another block
            return False
        expected = trace.arguments[before] if before < len(blocks) else trace.output
        if not are_same(found, expected):
            return False
    return True
