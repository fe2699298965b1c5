"""The parts of a checkpoint that one process works on, and what it does to each of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import TypeVar

from metaq.checkpoints.chunk_encoder import ChunkEncoder, Totals
from metaq.checkpoints.config import CompressionConfig
from metaq.checkpoints.resumable import WorkFolder
from metaq.checkpoints.tensor_plan import TensorPlan, plan_tensor
from metaq.checkpoints.weight_quantizer import Codebooks, WeightQuantizer
from metaq.io.source import TensorSource, size_bytes
from metaq.progress import Progress
from metaq.threads import in_parallel, stream, thread_counts

Result = TypeVar("Result")


class Parts:
    """Sources that become a `.mtq` file each. All work on them gives a result for each part or tensor, by its name.

    Args:
        sources: by the part's name, which is the name of its file.
        cores: on how many to work; by default on all.
    """

    def __init__(self, sources: Mapping[str, TensorSource], progress: Progress, cores: int | None = None) -> None:
        self.sources, self.progress = sources, progress
        self.stop = threading.Event()
        self.plans: dict[str, TensorPlan] = {}
        self.encoders: dict[str, ChunkEncoder] = {}
        self._cores = cores or os.cpu_count() or 1
        self.outer, self.inner = thread_counts(len(sources), self._cores)

    def plan(self, config: CompressionConfig, exact: Collection[str]) -> dict[str, TensorPlan]:
        """How each tensor will be held, by its name; second names have no plan.

        Args:
            exact: names of tensors that stay as they are.

        Raises:
            InputError: a `.mtq` file cannot hold a tensor, or it cannot be read.
        """
        owner = {name: source for source in self.sources.values() for name in source.layouts}
        names = [name for name, source in owner.items() if name not in source.aliases]
        self.progress.begin("reading", self._size_bytes())

        def plan(name: str) -> TensorPlan:
            found = plan_tensor(owner[name], name, config, name in exact)
            self.progress.advance(owner[name].layouts[name].size_bytes, 0)
            return found

        self.plans = dict(zip(names, stream(plan, names, self.outer * self.inner), strict=True))
        return self.plans

    def prepare(self, quantizer: WeightQuantizer, remembers: bool) -> dict[str, None]:
        """Make ready to quantize, after `plan`.

        Args:
            remembers: whether chunks stay in memory, so that what was measured need not be done again.
        """
        if remembers:
            self.inner = max(self.inner, self._cores // self.outer)
        self.encoders = {
            part: ChunkEncoder(source, self.plans, quantizer, self.stop, remembers)
            for part, source in self.sources.items()
        }
        return {}

    def measure(self, codebooks: Codebooks, is_coded: bool) -> dict[str, Totals]:
        """What each part's file would come to; unless ``is_coded``, only its error."""
        self.progress.begin("measuring", self._size_bytes())
        return self._each(lambda part: self.encoders[part].measure(codebooks, self.inner, self.progress, is_coded))

    def measure_some(self, codebooks: Codebooks) -> dict[str, Totals]:
        """What the quantized tensors that have a codebook would come to by themselves."""
        names = {part: [name for name in codebooks if name in self.sources[part].layouts] for part in self.sources}
        sizes = [self.sources[part].layouts[name].size_bytes for part in names for name in names[part]]
        self.progress.begin("measuring", sum(sizes))

        def measure(part: str) -> Totals:
            return self.encoders[part].measure_some(names[part], codebooks, self.inner, self.progress)

        return self._each(measure)

    def write(
        self, folder: WorkFolder, key: str, codebooks: Codebooks, done: Mapping[str, Totals]
    ) -> dict[str, Totals]:
        """Write the parts' files into a folder, but for those that are done, and record there what they came to.

        Args:
            key: that it is recorded by.
            done: what such parts came to.

        Raises:
            InputError: a source cannot be read any more, or the folder cannot be written.
        """
        self.progress.begin("compressing", self._size_bytes())

        def write(part: str) -> Totals:
            if part in done:
                self.progress.advance(size_bytes(self.sources[part]), done[part].size_bytes)
                return done[part]
            totals = self.encoders[part].write(folder.path / part, codebooks, self.inner, self.progress)
            folder.record(part, key, asdict(totals))
            return totals

        return self._each(write)

    def _size_bytes(self) -> int:
        return sum(size_bytes(source) for source in self.sources.values())

    def _each(self, work: Callable[[str], Result]) -> dict[str, Result]:
        names = list(self.sources)
        return dict(zip(names, in_parallel(work, names, self.outer, self.stop), strict=True))
