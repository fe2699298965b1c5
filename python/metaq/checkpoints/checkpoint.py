"""The engine: tensors of one or many sources, all on one step, to `.mtq` files or to symbols in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property

from metaq import coding
from metaq.checkpoints.chunk_encoder import ChunkEncoder, Totals
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.resumable import WorkFolder
from metaq.checkpoints.sample import draw_sample, is_sampled
from metaq.checkpoints.search import Quantity, Target, Weights, search_step, target_of
from metaq.checkpoints.tensor_plan import Storage, TensorPlan, plan_tensor
from metaq.checkpoints.weight_quantizer import WeightQuantizer
from metaq.codebook import UniformCodebook
from metaq.errors import InputError
from metaq.format.writer import check_texts
from metaq.io.source import TensorSource, size_bytes
from metaq.progress import Progress
from metaq.quantizers.calibration import Calibration
from metaq.quantizers.second_order import Sensitivity, sensitivity
from metaq.threads import in_parallel, stream, thread_counts


class Checkpoint:
    """Sources that are compressed together.

    The step is looked for on a sample of the weights, if they are many; then all are quantized on it and measured, and
    again with a corrected step while the target is missed. Few weights, and those that are to stay in memory, are kept
    quantized and coded between these trials and the writing; otherwise each trial writes the files, which are kept if
    they meet the target.

    Args:
        sources: for each part's name, which is the name of its `.mtq` file.
        folder: where files go; None for symbols in memory, as `symbols` gives them.
        calibration: of the model whose tensors these are.

    Raises:
        InputError: a source cannot be read or held in `.mtq` files, no tensor is there, one is there twice, a pattern
            matches none, or the calibration is another model's.
    """

    def __init__(
        self,
        sources: Mapping[str, TensorSource],
        config: CompressionConfig,
        progress: Progress,
        folder: WorkFolder | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.sources, self.config, self.progress, self.folder = sources, config, progress, folder
        self.owner = _owners(sources)
        config.check_names(self.owner)
        self.size_bytes = sum(size_bytes(source) for source in sources.values())
        self.stop = threading.Event()
        self.outer, self.inner = thread_counts(len(sources))
        self.plans = self._plans()
        self.quantized = [name for name, plan in self.plans.items() if plan.storage is Storage.QUANTIZED]
        self.count = self._count(self.quantized)
        self.energy = sum(self.plans[name].energy for name in self.quantized)
        self.remembers = folder is None or not is_sampled(self.count)
        if self.remembers:
            self.inner = max(self.inner, (os.cpu_count() or 1) // self.outer)
        self.coder = config.coder or coding.suitable(self.size_bytes, config.lossless)
        sensitivities = self._sensitivities(calibration)
        self.quantizer = WeightQuantizer(self.coder, config.step is not None, sensitivities)
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

    def encoders(self) -> Mapping[str, ChunkEncoder]:
        """What writes each part's file, by the part's name."""
        return self._encoders

    def codebooks(self, step: float) -> dict[str, UniformCodebook]:
        """The levels of each quantized tensor, where the common step is ``step``."""
        return {name: self.fixed.get(name) or self.quantizer.codebook(name, step) for name in self.quantized}

    def _plans(self) -> dict[str, TensorPlan]:
        self.progress.begin("reading", self.size_bytes)

        def plan(name: str) -> TensorPlan:
            source = self.sources[self.owner[name]]
            found = plan_tensor(source, name, self.config)
            self.progress.advance(source.layouts[name].size_bytes, 0)
            return found

        names = [name for name, part in self.owner.items() if name not in self.sources[part].aliases]
        return dict(zip(names, stream(plan, names, self.outer * self.inner), strict=True))

    def _sensitivities(self, calibration: Calibration | None) -> dict[str, Sensitivity]:
        """Of the tensors that were calibrated."""
        if calibration is None or self.config.step is not None:
            return {}
        found = {name: sensitivity(calibration, name) for name in self.quantized if name in calibration.inputs}
        for name, entry in found.items():
            layout = self.sources[self.owner[name]].layouts[name]
            if entry.rows != layout.shape[0] or entry.rows * len(entry.costs) != layout.size:
                expected = f"one of shape {layout.shape}"
                raise InputError(f"calibration of {name!r}: expected {expected}, found another model's")
        return found

    @cached_property
    def _encoders(self) -> dict[str, ChunkEncoder]:
        return {
            part: ChunkEncoder(source, self.plans, self.quantizer, self.stop, self.remembers)
            for part, source in self.sources.items()
        }

    def _fix(self, pattern: str, bits: float) -> None:
        """The levels of tensors that have bits of their own; they are measured by themselves."""
        group = [name for name in self.quantized if self.config.bits_pattern(name) == pattern]
        if group:
            target = Target(f"bits of {pattern!r}", Quantity.BITS, bits)
            step = self._search(group, target, lambda step: self._measure_some(group, step))
            self.fixed |= {name: self.quantizer.codebook(name, step) for name in group}

    def _search(self, names: list[str], target: Target, try_step: Callable[[float], Totals]) -> float:
        count = self._count(names)
        peak = max(self.plans[name].peak / self.quantizer.scale(name) for name in names)
        others = self.size_bytes - sum(self.sources[self.owner[name]].layouts[name].size_bytes for name in names)
        energy = sum(self.plans[name].energy for name in names)
        sample = draw_sample({name: self.sources[self.owner[name]] for name in names})
        return search_step(Weights(count, energy, peak, others), target, sample, self.quantizer, try_step)

    def _count(self, names: list[str]) -> int:
        return sum(self.sources[self.owner[name]].layouts[name].size for name in names)

    def _measure(self, step: float, is_coded: bool) -> Totals:
        """What all files would come to."""
        self.progress.begin("measuring", self.size_bytes)
        codebooks = self.codebooks(step)

        def measure(part: str) -> Totals:
            return self._encoders[part].measure(codebooks, self.inner, self.progress, is_coded)

        return self._sum(measure)

    def _measure_some(self, names: list[str], step: float) -> Totals:
        """What some quantized tensors by themselves would come to."""
        codebooks = {name: self.quantizer.codebook(name, step) for name in names}
        self.progress.begin("measuring", sum(self.sources[self.owner[name]].layouts[name].size_bytes for name in names))

        def measure(part: str) -> Totals:
            of_part = [name for name in names if self.owner[name] == part]
            return self._encoders[part].measure_some(of_part, codebooks, self.inner, self.progress)

        return self._sum(measure)

    def _write(self, step: float, is_trial: bool) -> Totals:
        """Files on this step, but for those that are there already or, in a trial, of a known outcome."""
        assert self.folder is not None
        folder, key, codebooks = self.folder, repr(step), self.codebooks(step)
        self.progress.begin("compressing", self.size_bytes)

        def write(part: str) -> Totals:
            known = folder.result(part, key)
            if known is not None and (is_trial or folder.is_written(part, key)):
                self.progress.advance(size_bytes(self.sources[part]), int(known["size_bytes"]))
                return Totals(known["squared_error"], known["bits"], int(known["size_bytes"]))
            totals = self._encoders[part].write(folder.path / part, codebooks, self.inner, self.progress)
            folder.record(part, key, asdict(totals))
            return totals

        return self._sum(write)

    def _sum(self, work: Callable[[str], Totals]) -> Totals:
        return sum(in_parallel(work, list(self.sources), self.outer, self.stop), Totals())


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
