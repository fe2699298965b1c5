"""Quantizes a model stage by stage, each on inputs that come out of the quantized stages before it.

Two ways lead through the model. On one all weights are what they were, and inputs are r; on the other those of earlier
stages are quantized, and inputs are x. For each weight W a quantizer gets, with sums over positions and means over
samples,

    inputs = Σ x xᵀ,    cross = Σ (r - x) xᵀ,

so that it may aim at W r from x: the V of least E‖W r - V x‖² is ``W (inputs + cross) inputs⁻¹``. What is stored
between stages are activations, on the CPU; moments there are of one stage at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers.calibration import check_batches, report_missing
from metaq.quantizers.layers import Factor, MatrixView, Weights
from metaq.quantizers.moments import SharedSums
from metaq.quantizers.observation import Observation, run, sample_count, still
from metaq.quantizers.operations import Operation
from metaq.quantizers.padding import token_mask
from metaq.quantizers.replay import Memory, Replay, memory_of
from metaq.quantizers.stages import Stage, trace


@dataclass(frozen=True)
class Moments:
    """What is known of a weight's inputs x; means over samples of sums over positions.

    Attributes:
        inputs: Σ x xᵀ, float32, of shape (groups, columns, columns); None for weights that are only looked up in.
        cross: Σ (r - x) xᵀ of the same shape, r the inputs in the model as it was; None if it was not asked for, or
            cannot be said, as for experts, which do not see the same inputs any more.
        positions: how many inputs each group has seen, int64, of shape (groups,).
        counts: of tables, how often each row was looked up, int64, of shape (rows,).
        unseen: of inputs, as for `metaq.quantizers.second_order.feedback`.
    """

    inputs: Tensor | None
    cross: Tensor | None
    positions: Tensor
    counts: Tensor | None = None
    unseen: float = 0.0


Quantize = Callable[[str, MatrixView, Tensor, Moments], Tensor | None]
"""Gives the quantized matrices of a weight, (groups, rows, columns), from its name, view, matrices and moments; None to
leave it as it is."""


class Within(StrEnum):
    """In what steps a stage is quantized.

    BLOCK: at once, on the inputs that its weights have before any of them is quantized.
    LAYER: weights that share their inputs together; those that run later see what came of them.
    """

    BLOCK = "block"
    LAYER = "layer"


@dataclass(frozen=True)
class SequentialOptions:
    """How `quantize_sequentially` works.

    Attributes:
        cross: whether to find what inputs would be in the model as it was, which takes another run of each stage.
        within: in what steps a stage is quantized.
        memory: what to store between stages; if not given, the least that is right for the first batch.
    """

    cross: bool = False
    within: Within = Within.BLOCK
    memory: Memory | None = None


def quantize_sequentially(
    model: nn.Module,
    batches: Iterable[Any],
    quantize: Quantize,
    *,
    options: SequentialOptions | None = None,
    progress: Progress | None = None,
) -> None:
    """Quantize the weights of a model in place, in the order in which they run.

    Weights that are used in several stages, as an embedding that is the last layer, too, are quantized in the first,
    by the inputs that they have in the model as it was. Padding does not count, as in `metaq.calibrate`.

    Args:
        model: any. Its blocks are found by `metaq.quantizers.stages`. If an error is raised, it may be quantized in
            part.
        batches: as for `metaq.calibrate`; they are run several times, and are kept.
        quantize: is called for each weight, in order.

    Raises:
        InputError: no batch, one that the model does not take, activations that are not finite, or quantized matrices
            that are not or have another shape.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> quantize_sequentially(model, [torch.ones(5, 3)], lambda name, view, matrices, moments: matrices.round())
    """
    check_batches(batches)
    kept = list(batches)
    if sum(map(sample_count, kept)) == 0:
        raise InputError("quantize_sequentially: expected at least one batch of samples, found none")
    with still(model), torch.no_grad():
        _Quantization(model, kept, quantize, options or SequentialOptions(), progress or Progress()).run()


class _Quantization:
    """The state of `quantize_sequentially`."""

    def __init__(
        self, model: nn.Module, batches: list[Any], quantize: Quantize, options: SequentialOptions, progress: Progress
    ) -> None:
        self.model, self.batches, self.quantize, self.options = model, batches, quantize, options
        self.progress = progress
        self.samples = sum(map(sample_count, batches))
        self.is_token = [token_mask(batch, index) for index, batch in enumerate(batches)]
        self.parameters = Weights(model.named_parameters()).parameters
        first = trace(model, batches[0], keeps=options.memory is not Memory.NOTHING)
        memory = options.memory or memory_of(model, batches[0], first)
        self.stages, self.views, self.owners = first.stages, first.sharing.views, first.sharing.owners
        self.repeated = first.repeated
        self.quantized_way = Replay(model, first.blocks, memory, batches)
        self.original_way = Replay(model, first.blocks, memory, batches)
        self.offered: set[str] = set()  # names of weights that the quantizer was asked about
        self.originals: dict[str, Tensor] = {}  # weights as they were, of those that a run on the original way needs

    def run(self) -> None:
        self.progress.begin("quantizing", sum(parameter.nbytes for parameter in self.parameters.values()))
        whole = self._whole_sums()
        for stage in self.stages:
            self._quantize_stage(stage, whole)
        report_missing((name for name in self.parameters if name not in self.offered), "quantize_sequentially")

    def _whole_sums(self) -> SharedSums:
        """Of weights that are used in several stages, all in the model as it is."""
        sums = SharedSums()
        if self.repeated:
            weights = self._weights(self.repeated)
            for index, batch in enumerate(self.batches):
                with Observation(weights, sums.listener(self.is_token[index])):
                    run(self.model, batch, index)
        return sums

    def _quantize_stage(self, stage: Stage, whole: SharedSums) -> None:
        steps = self._steps(stage)
        watched = [[name for name in step if name not in self.repeated] for step in steps]
        last = max((place for place, names in enumerate(watched) if names), default=None)
        for place, (step, names) in enumerate(zip(steps, watched, strict=True)):
            sums = self._sums(stage, names, is_last=place == last) if names else SharedSums()
            for name in step:
                self._put(name, whole if name in self.repeated else sums)
        if not self.quantized_way.stores(stage):
            return
        for index in range(len(self.batches)):
            self.quantized_way.store(stage, index, self.quantized_way.run(stage, index))
            if self.options.cross and last is None:
                self._references(stage, (), index, is_last=True)
        for name in {name for step in steps for name in step} - self.repeated:
            self.originals.pop(name, None)

    def _steps(self, stage: Stage) -> list[list[str]]:
        """The weights of a stage that are quantized on the same runs.

        Those that the first batch did not use, as some of many experts, are among the last.
        """
        prefix = f"{stage.block}."
        unseen = [name for name in self.parameters if name not in self.views and name.startswith(prefix)]
        if self.options.within is Within.BLOCK:
            return [[*stage.weights, *unseen]]
        steps: dict[str, list[str]] = {}
        for name in stage.weights:
            steps.setdefault(self.owners.get(name, name), []).append(name)
        return [*steps.values(), unseen]

    def _sums(self, stage: Stage, names: list[str], is_last: bool) -> SharedSums:
        """Sums over the inputs of some weights of a stage."""
        sums, weights = SharedSums(self.options.cross), self._weights(names)
        for index in range(len(self.batches)):
            references = self._references(stage, names, index, is_last) if self.options.cross else None
            with Observation(weights, sums.listener(self.is_token[index], references.take if references else None)):
                self.quantized_way.run(stage, index)
        for name in weights.used_differently:
            del sums.sharing.views[name]
        return sums

    def _references(self, stage: Stage, names: Iterable[str], index: int, is_last: bool) -> _References:
        """What happens on the original way; the last time, what comes of it is stored."""
        references = _References()
        with self._original_weights(), Observation(self._weights(names), references.keep):
            output = self.original_way.run(stage, index)
        if is_last:
            self.original_way.store(stage, index, output)
        return references

    def _weights(self, names: Iterable[str]) -> Weights:
        return Weights((name, self.parameters[name]) for name in names)

    def _put(self, name: str, sums: SharedSums) -> None:
        """Quantize a weight, unless nothing was multiplied by it, or not always by the same matrices."""
        parameter, view = self.parameters[name], sums.sharing.views.get(name)
        self.progress.advance(parameter.nbytes, 0)
        if view is None:
            return
        self.offered.add(name)
        matrices = self.quantize(name, view, view.matrices(parameter), self._moments(name, sums))
        if matrices is None:
            return
        if not bool(torch.isfinite(matrices).all()):
            raise InputError(f"{name}: expected finite quantized weights, found NaN or infinite ones")
        if self.options.cross:
            self.originals[name] = parameter.detach().clone()
        parameter.copy_(view.weight(matrices))

    def _moments(self, name: str, sums: SharedSums) -> Moments:
        found, counts = sums.of(name), sums.counts.get(name)
        if found is None:
            return Moments(None, None, sums.positions(name), counts)
        inputs = (found.products / self.samples).float()
        cross = None if found.cross is None else (found.cross / self.samples).float()
        return Moments(inputs, cross, found.positions, counts, found.unseen)

    @contextmanager
    def _original_weights(self) -> Iterator[None]:
        """The model with weights as they were, of those that are kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, values in self.originals.items():
            parameter = self.parameters[name]
            self.originals[name], parameter.data = parameter.data, values


@dataclass
class _References:
    """The operations of a run, with copies of their inputs, in order for each weight."""

    operations: dict[str, list[Operation]] = field(default_factory=dict)
    _copied: tuple[Tensor, int, Tensor] | None = None

    def keep(self, factor: Factor, operation: Operation, output: Tensor) -> Tensor:
        kept = self.operations.setdefault(factor.view.name, [])
        if not operation.is_lookup and not operation.is_routed and not factor.is_one_of_several:
            kept.append(replace(operation, inputs=self._copy(operation.inputs)))
        return output

    def _copy(self, inputs: Tensor) -> Tensor:
        """A copy, which weights that share their inputs share, too."""
        if self._copied is None or self._copied[0] is not inputs or self._copied[1] != inputs._version:
            self._copied = (inputs, inputs._version, inputs.detach().clone())
        return self._copied[2]

    def take(self, name: str) -> Operation | None:
        """The next operation of a weight."""
        kept = self.operations.get(name)
        return kept.pop(0) if kept else None
