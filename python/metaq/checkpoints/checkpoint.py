"""The engine: tensors of one or many sources, all on one step, to `.mtq` files or to symbols in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import partial
from typing import Protocol, TypeVar

from metaq import coding
from metaq.checkpoints.chunk_encoder import Totals
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.parts import Parts
from metaq.checkpoints.resumable import WorkFolder
from metaq.checkpoints.sample import draw_sample, is_sampled
from metaq.checkpoints.search import Quantity, Target, Weights, search_step, target_of
from metaq.checkpoints.tensor_plan import Storage, TensorPlan
from metaq.checkpoints.weight_quantizer import WeightQuantizer
from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.format.writer import check_texts
from metaq.io.source import TensorSource, size_bytes
from metaq.progress import Progress
from metaq.tensors import KEPT_EXACTLY

Result = TypeVar("Result")
Task = Callable[[Parts], dict[str, Result]]
"""Work on parts, as a function of this module's or a partial of one, so that it can be sent to other processes."""

_log = logging.getLogger(__name__)


class Workers(Protocol):
    """Those who share the parts of a checkpoint; `metaq.checkpoints.ranks` are other processes."""

    def parts(self, sources: Mapping[str, TensorSource], progress: Progress) -> Parts:
        """The parts, of all these, that are left to the calling process."""

    def run(self, task: Task[Result], own: Parts) -> dict[str, Result]:
        """Do a task on all parts, wherever they are, those of the calling process being ``own``; all results.

        Raises:
            Exception: what went wrong, wherever it did.
        """


class OneProcess:
    """No others: all parts are the calling process's own."""

    def parts(self, sources: Mapping[str, TensorSource], progress: Progress) -> Parts:
        """All of them."""
        return Parts(sources, progress)

    def run(self, task: Task[Result], own: Parts) -> dict[str, Result]:
        """Do a task on them."""
        return task(own)


class Checkpoint:
    """Sources that are compressed together.

    The step is looked for on a sample of the weights, if they are many; then all are quantized on it and measured, and
    again with a corrected step while the target is missed. Few weights, and those that are to stay in memory, are kept
    quantized and coded between these trials and the writing; otherwise each trial writes the files, which are kept if
    they meet the target.

    Args:
        sources: for each part's name, which is the name of its `.mtq` file.
        folder: where files go; None for symbols in memory, as `symbols` gives them.
        workers: who share the work; what comes of it does not depend on them, bit for bit.
        exact: names of tensors that stay as they are, whatever the configuration says.
        extra_bytes: that will be added to the files, and count as theirs.

    Raises:
        InputError: a source cannot be read or held in `.mtq` files, no tensor is there, one is there twice, or a
            pattern matches none.
    """

    def __init__(
        self,
        sources: Mapping[str, TensorSource],
        config: CompressionConfig,
        progress: Progress,
        folder: WorkFolder | None = None,
        workers: Workers | None = None,
        exact: Collection[str] = (),
        extra_bytes: int = 0,
    ) -> None:
        self.sources, self.config, self.folder, self.exact = sources, config, folder, exact
        self.extra_bytes = extra_bytes
        self.owner = _owners(sources)
        config.check_names(self.owner)
        self.size_bytes = sum(size_bytes(source) for source in sources.values())
        self.workers = workers or OneProcess()
        self.parts = self.workers.parts(sources, progress)
        self.plans = self._plans()
        self.quantized = [name for name, plan in self.plans.items() if plan.storage is Storage.QUANTIZED]
        self.count = self._count(self.quantized)
        self.energy = sum(self.plans[name].energy for name in self.quantized)
        self.remembers = folder is None or not is_sampled(self.count)
        self.coder = config.coder or coding.suitable(self.size_bytes, config.lossless)
        self.quantizer = WeightQuantizer(self.coder, config.step is not None)
        self._run(partial(Parts.prepare, quantizer=self.quantizer, remembers=self.remembers))
        self.fixed: dict[str, UniformCodebook] = {}

    def find_step(self) -> float:
        """The step that meets what the configuration asks for; any, if nothing is quantized.

        Raises:
            InputError: no step leads there, or a place cannot be written.
        """
        if self.config.step is not None:
            return self.config.step
        for pattern, bits in self.config.tensor_bits.items():
            self._fix(pattern, bits)
        if len(self.fixed) == len(self.quantized):
            return 1.0
        target = target_of(self.config)

        def try_step(step: float) -> Totals:
            return self._measure(step, target.needs_coding) if self.remembers else self._write(step, is_trial=True)

        return self._search(self.quantized, target, try_step)

    def write(self, step: float) -> Totals:
        """Write all files."""
        return self._write(step, is_trial=False)

    def codebooks(self, step: float) -> dict[str, UniformCodebook]:
        """The levels of each quantized tensor, where the common step is ``step``."""
        return {name: self.fixed.get(name) or self.quantizer.codebook(step) for name in self.quantized}

    def _plans(self) -> dict[str, TensorPlan]:
        found = self._run(partial(Parts.plan, config=self.config, exact=self.exact))
        names = [name for name, part in self.owner.items() if name not in self.sources[part].aliases]
        for name in names:
            if not found[name].is_finite:
                _log.warning(KEPT_EXACTLY, name)
        return {name: found[name] for name in names}

    def _fix(self, pattern: str, bits: float) -> None:
        """The levels of tensors that have bits of their own; they are measured by themselves."""
        group = [name for name in self.quantized if self.config.bits_pattern(name) == pattern]
        if group:
            target = Target(f"bits of {pattern!r}", Quantity.BITS, bits)
            step = self._search(group, target, lambda step: self._measure_some(group, step))
            self.fixed |= dict.fromkeys(group, self.quantizer.codebook(step))

    def _search(self, names: list[str], target: Target, try_step: Callable[[float], Totals]) -> float:
        count = self._count(names)
        peak = max(self.plans[name].peak for name in names)
        others = self.size_bytes - sum(self.sources[self.owner[name]].layouts[name].size_bytes for name in names)
        energy = sum(self.plans[name].energy for name in names)
        sample = draw_sample({name: self.sources[self.owner[name]] for name in names})
        return search_step(Weights(count, energy, peak, others), target, sample, self.quantizer, try_step)

    def _count(self, names: list[str]) -> int:
        return sum(self.sources[self.owner[name]].layouts[name].size for name in names)

    def _measure(self, step: float, is_coded: bool) -> Totals:
        """What all files would come to."""
        return self._sum(partial(Parts.measure, codebooks=self.codebooks(step), is_coded=is_coded))

    def _measure_some(self, names: list[str], step: float) -> Totals:
        """What some quantized tensors by themselves would come to."""
        codebooks = dict.fromkeys(names, self.quantizer.codebook(step))
        return self._sum(partial(Parts.measure_some, codebooks=codebooks))

    def _write(self, step: float, is_trial: bool) -> Totals:
        """Files on this step, but for those that are there already or, in a trial, of a known outcome."""
        assert self.folder is not None
        folder, key = self.folder, repr(step)
        done = {}
        for part in self.sources:
            known = folder.result(part, key, [field.name for field in fields(Totals)])
            if known is not None and known["size_bytes"] < 1:
                raise folder.damaged_note(part)
            if known is not None and (is_trial or folder.is_written(part, key)):
                done[part] = Totals(known["squared_error"], known["bits"], int(known["size_bytes"]))
        return self._sum(partial(Parts.write, folder=folder, key=key, codebooks=self.codebooks(step), done=done))

    def _run(self, task: Task[Result]) -> dict[str, Result]:
        return self.workers.run(task, self.parts)

    def _sum(self, task: Task[Totals]) -> Totals:
        return self._total(self._run(task))

    def _total(self, found: Mapping[str, Totals]) -> Totals:
        """In the parts' order, so that floating point does not depend on who did the work."""
        return sum((found[part] for part in self.sources), Totals(size_bytes=self.extra_bytes))


def _owners(sources: Mapping[str, TensorSource]) -> dict[str, str]:
    """The part that each name is in."""
    owner: dict[str, str] = {}
    for part, source in sources.items():
        check_texts([*source.metadata, *source.metadata.values(), *source.layouts])
        for name in source.layouts:
            if name in owner:
                first = os.path.basename(sources[owner[name]].name)
                raise InputError(f"{source.name}: expected other tensors than in {first}, found {name!r} too")
            owner[name] = part
    if not owner:
        raise InputError("checkpoint: expected at least one tensor, found none")
    return owner
