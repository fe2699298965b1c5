"""The stages of a model: blocks that run one after the other, and what runs before, between and behind them.

Blocks are the children of lists and sequences of modules that have modules themselves: layers of a transformer, blocks
of a ResNet. In a model without such, every module with weights of its own is one. What order they have, and which
weights run outside of them, is seen in a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError
from metaq.quantizers.layers import Factor, Weights
from metaq.quantizers.moments import Sharing
from metaq.quantizers.observation import Observation, run, still
from metaq.quantizers.operations import Operation
from metaq.quantizers.trees import copied, tensors


@dataclass(frozen=True)
class Stage:
    """A part of a model that runs in one go.

    Attributes:
        block: the name of the block; None for what runs outside of blocks.
        before: how many blocks have run before.
        weights: names of the parameters that multiply something for the first time here, in that order.
    """

    block: str | None
    before: int
    weights: tuple[str, ...]


@dataclass
class Trace:
    """One run of a model.

    Attributes:
        blocks: names of those that ran, in the order in which they began.
        stages: in the order in which they ran; those without weights that are blocks are there, too.
        sharing: the views of all weights, and which are multiplied by the same inputs.
        repeated: names of weights that are used in more than one stage.
        is_chain: whether every block ran once, and none while another did.
        arguments: copies of those of each block, if the trace was asked to keep them.
        outputs: copies of what each block gave, likewise.
        output: a copy of what the model gave, likewise.
    """

    blocks: list[str] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    sharing: Sharing = field(default_factory=Sharing)
    repeated: set[str] = field(default_factory=set)
    is_chain: bool = True
    arguments: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    output: Any = None


def stages(model: nn.Module, batch: Any) -> list[Stage]:
    """The stages of a model, as they run for a batch.

    Raises:
        InputError: the model does not take the batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [stage.weights for stage in stages(model, torch.zeros(1, 3))]
        [('0.weight',), ('2.weight',)]
    """
    with still(model), torch.no_grad():
        return [stage for stage in trace(model, batch).stages if stage.weights]


def trace(model: nn.Module, batch: Any, keeps: bool = False) -> Trace:
    """Run a model that is still, without gradients.

    Args:
        keeps: whether to copy the arguments and outputs of blocks.
    """
    recorder, weights = _Recorder(keeps), Weights(model.named_parameters())
    with recorder.of_blocks(model, batch), Observation(weights, recorder.listen):
        output = run(model, batch, 0)
    if keeps:
        recorder.trace.output = copied(output)
    recorder.finish(weights.used_differently)
    return recorder.trace


def block_names(model: nn.Module, batch: Any) -> list[str]:
    """The blocks of a model, in the order in which it lists them.

    Where blocks hold lists that are longer than theirs, as in models of several resolutions, these are taken apart,
    unless they are alternatives, such as experts.
    """
    found = list(_blocks("", model, set()))
    if not found:
        return [name for name, module in model.named_modules() if _has_weights(module) and not list(module.children())]
    lists = _inner_lists(model, found)
    if max((len(list(module.children())) for module in lists.values()), default=0) > len(found):
        return list(_blocks("", model, _passing_on(model, batch, lists)))
    return found


def _blocks(name: str, module: nn.Module, taken_apart: set[str], is_inside: bool = False) -> Iterator[str]:
    """The blocks in a module that is none."""
    lists_blocks = name in taken_apart if is_inside else _is_chain(module)
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        is_block = lists_blocks and _has_weights(child) and (is_inside or not _is_chain(child))
        if is_block and (is_inside or not any(other.startswith(f"{path}.") for other in taken_apart)):
            yield path
        else:
            yield from _blocks(path, child, taken_apart, is_inside or is_block)


def _inner_lists(model: nn.Module, blocks: list[str]) -> dict[str, nn.Module]:
    """The outermost lists within blocks, by name."""
    found: dict[str, nn.Module] = {}
    for block in blocks:
        for name, module in model.get_submodule(block).named_modules(prefix=block):
            if _is_chain(module) and not any(name.startswith(f"{other}.") for other in found):
                found[name] = module
    return found


def _passing_on(model: nn.Module, batch: Any, lists: dict[str, nn.Module]) -> set[str]:
    """The names of lists of which each module is given what the one before gives."""
    broken: set[str] = set()
    last: dict[str, tuple[int, Tensor | None]] = {}

    def begin(name: str, place: int, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        before, result = last.get(name, (-1, None))
        if place != before + 1 or (place > 0 and next(iter(tensors((arguments, keywords))), None) is not result):
            broken.add(name)

    def end(name: str, place: int, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        last[name] = (place, next(iter(tensors(output)), None))

    hooks = []
    for name, module in lists.items():
        for place, child in enumerate(module.children()):
            hooks.append(child.register_forward_pre_hook(partial(begin, name, place), with_kwargs=True))
            hooks.append(child.register_forward_hook(partial(end, name, place)))
    try:
        run(model, batch, 0)
    finally:
        for hook in hooks:
            hook.remove()
    return set(last) - broken


def _is_chain(module: nn.Module) -> bool:
    """Whether it lists modules of which some have modules and weights."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    return any(_has_weights(child) and len(list(child.children())) > 0 for child in module)


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())


class _Recorder:
    """Fills a trace."""

    def __init__(self, keeps: bool) -> None:
        self.trace, self.keeps = Trace(), keeps
        self._running: list[str] = []
        self._places: dict[str, int] = {}  # of each weight: twice the blocks before, one more within a block

    @contextmanager
    def of_blocks(self, model: nn.Module, batch: Any) -> Iterator[None]:
        hooks = []
        for name in block_names(model, batch):
            module = model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(partial(self._begin, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(self._end, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, name: str, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._running or name in self.trace.blocks:
            self.trace.is_chain = False
        if name not in self.trace.blocks:
            self.trace.blocks.append(name)
            if self.keeps:
                self.trace.arguments.append(copied((arguments, keywords)))
        self._running.append(name)

    def _end(self, name: str, _: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self._running.remove(name)
        if self.keeps and self.trace.is_chain:
            self.trace.outputs.append(copied(output))

    def listen(self, factor: Factor, operation: Operation, output: Tensor) -> Tensor:
        self.trace.sharing.is_new(factor, operation)
        name, blocks = factor.view.name, self.trace.blocks
        place = 2 * blocks.index(self._running[-1]) + 1 if self._running else 2 * len(blocks)
        if self._places.setdefault(name, place) != place:
            self.trace.repeated.add(name)
        return output

    def finish(self, left_out: set[str]) -> None:
        """Sort the weights into stages, without those left out."""
        blocks, views = self.trace.blocks, self.trace.sharing.views
        self._places = {name: place for name, place in self._places.items() if name not in left_out}
        self.trace.sharing.views = {name: views[name] for name in self._places}
        for place in range(2 * len(blocks) + 1):
            weights = tuple(name for name, at in self._places.items() if at == place)
            before, is_block = divmod(place, 2)
            if is_block or weights:
                self.trace.stages.append(Stage(blocks[before] if is_block else None, before, weights))
        if not self._places:
            raise InputError("stages: expected a model that multiplies inputs by its weights, found none that does")
