"""Checkpoints of one or many `.safetensors` files, too large for memory: one step for all, a `.mtq` file for each.

The step is first looked for on a sample of rows of all tensors, as long as a chunk. All files are then written with it
and what they come to is measured; where the target is missed, the next guess is corrected by that and they are written
again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from metaq import coding
from metaq.checkpoints import in_memory
from metaq.checkpoints.chunk_encoder import StreamEncoder, Sums, quantize
from metaq.checkpoints.in_memory import DEFAULT_BITS, QUALITIES
from metaq.checkpoints.plan import Dials, Fate, Treatment, treatment
from metaq.checkpoints.step_guesses import guessed_bits, guessed_error
from metaq.checkpoints.step_search import StepProblem, find_step
from metaq.checkpoints.work_folder import WorkFolder
from metaq.codebook import UniformCodebook
from metaq.coding import CHUNK_SYMBOLS
from metaq.errors import InputError
from metaq.format.sequence import block_shape
from metaq.io.safetensors import SafetensorsFile
from metaq.progress import Progress
from metaq.quantizers import trellis
from metaq.threads import in_parallel, stream, thread_counts

SAMPLE_WEIGHTS = CHUNK_SYMBOLS  # so that the coder has learned as much as in a chunk
_SAMPLED_PLACES = 4  # of a tensor

Measure = Callable[[Sums], float]
TryStep = Callable[[float], tuple[float, float]]


class Shards:
    """Files that are compressed together.

    Args:
        files: for each part's name, which becomes the name of its `.mtq` file.
        folder: where those go.

    Raises:
        InputError: a source cannot be read or held in `.mtq` files, no tensor is there, one is there twice, or a
            pattern matches none.
    """

    def __init__(
        self, files: Mapping[str, SafetensorsFile], dials: Dials, folder: WorkFolder, progress: Progress
    ) -> None:
        self.files, self.dials, self.folder, self.progress = files, dials, folder, progress
        self.owner: dict[str, str] = {}
        for part, file in self.files.items():
            for name in file.tensors:
                if name in self.owner:
                    first = self.files[self.owner[name]].path.name
                    raise InputError(f"{file.path}: expected other tensors than in {first}, found {name!r} too")
                self.owner[name] = part
        if not self.owner:
            raise InputError("checkpoint: expected at least one tensor, found none")
        for pattern in (*dials.config.keep, *dials.config.tensor_bits):
            if not any(fnmatchcase(name, pattern) for name in self.owner):
                raise InputError(
                    f"pattern {pattern!r}: expected one that matches a tensor's name, found no such tensor"
                )
        self.size_bytes = sum(file.size_bytes for file in self.files.values())
        self.stop = threading.Event()
        self.outer, self.inner = thread_counts(len(self.files))
        self.treatments = self._treatments()
        self.quantized = [name for name, found in self.treatments.items() if found.fate is Fate.QUANTIZED]
        self.fixed: dict[str, UniformCodebook] = {}
        self.coder = dials.coder or coding.suitable(self.size_bytes, dials.lossless)

    def _treatments(self) -> dict[str, Treatment]:
        self.progress.begin("reading", self.size_bytes)

        def treat(name: str) -> Treatment:
            file = self.files[self.owner[name]]
            found = treatment(file, name, self.dials)
            dtype, shape = file.tensors[name]
            self.progress.advance(math.prod(shape) * dtype.itemsize, 0)
            return found

        names = list(self.owner)
        return dict(zip(names, stream(treat, names, self.outer * self.inner), strict=True))

    def compress(self) -> int:
        """Write all files; their size in bytes.

        Raises:
            InputError: no step leads to the target, or a place cannot be written.
        """
        config = self.dials.config
        if self.dials.lossless or not self.quantized:
            return self._write_all(1.0).size_bytes
        if self.dials.step is not None:
            return self._write_all(self.dials.step).size_bytes
        for pattern, bits in config.tensor_bits.items():
            self._fix(pattern, bits)
        if config.size_bytes is not None:
            return self._to_size(config.size_bytes)
        if config.max_error is not None or config.quality is not None:
            target = config.max_error if config.quality is None else QUALITIES[config.quality]
            assert target is not None
            energy = sum(found.energy for found in self.treatments.values())
            name = "max_error" if config.quality is None else "quality"
            return self._to(lambda sums: sums.squared_error / energy if energy else 0.0, target, name, rises=True)
        count = self._count(self.quantized)
        return self._to(lambda sums: sums.bits / count, DEFAULT_BITS if config.bits is None else config.bits, "bits")

    def _to_size(self, target: int) -> int:
        return self._to(lambda sums: float(sums.size_bytes), target, "size_bytes")

    def _to(self, measure: Measure, target: float, name: str, rises: bool = False) -> int:
        def try_step(step: float) -> tuple[float, float]:
            return measure(self._write_all(step, is_trial=True)), step

        return self._write_all(self._search(self.quantized, try_step, measure, target, name, rises)).size_bytes

    def _fix(self, pattern: str, bits: float) -> None:
        """The step of tensors that have bits of their own; they are measured without being written."""
        first = {
            name: next((p for p in self.dials.config.tensor_bits if fnmatchcase(name, p)), None)
            for name in self.quantized
        }
        group = [name for name in self.quantized if first[name] == pattern]
        if not group:
            return
        count = self._count(group)

        def measure(sums: Sums) -> float:
            return sums.bits / count

        def try_step(step: float) -> tuple[float, float]:
            return measure(self._measure_all(group, step)), step

        step = self._search(group, try_step, measure, bits, f"bits of {pattern!r}")
        self.fixed |= self._books(group, step)

    def _search(
        self,
        names: list[str],
        try_step: TryStep,
        measure: Measure,
        target: float,
        name: str,
        rises: bool = False,
    ) -> float:
        """The step at which what is measured meets the target, looked for on a sample first."""
        sample = self._sample(names)
        share = self._count(names) / sum(tensor.numel() for tensor in sample.values())
        kept = self.size_bytes - sum(self._size(name) for name in self.quantized)
        bits, error = guessed_bits(sample), guessed_error(sample)

        def guess(step: float) -> float:
            if rises:
                return error(step)
            return measure(_scaled(Sums(bits=bits(step) * self._count(names)), 1.0, kept))

        peak = max(self.treatments[name].peak for name in names)
        problem = StepProblem(target, in_memory.octaves({"": torch.tensor([peak])}), rises, guess)

        def try_sample(step: float) -> tuple[float, float]:
            symbols, sums = quantize(sample, self._books(names, step), self.coder)
            payload = coding.by_name(self.coder).encode([tensor.numpy() for tensor in symbols.values()])
            value = measure(_scaled(sums + Sums(bits=8 * len(payload)), share, kept))
            return value, value / (guess(step) or math.inf)

        try:
            with suppress(InputError):  # the last word is with all of it
                problem = replace(problem, factor=find_step(try_sample, problem) or 1.0)
            return find_step(try_step, problem)
        except InputError as failure:
            raise InputError(f"{name}: {failure}") from None

    def _sample(self, names: list[str]) -> dict[str, Tensor]:
        """Rows at a few places of each tensor, in proportion to its size."""
        share = min(1.0, SAMPLE_WEIGHTS / self._count(names))
        sample = {}
        for name in names:
            file = self.files[self.owner[name]]
            rows, channels, kernel = block_shape(file.tensors[name][1])
            wanted = max(1, round(rows * share))
            places = min(_SAMPLED_PLACES, wanted)
            parts = []
            for place in range(places):
                taken = wanted * (place + 1) // places - wanted * place // places
                first = (rows - wanted) * place // max(1, places - 1) + wanted * place // places
                parts.append(file.read(name, range(first * channels * kernel, (first + taken) * channels * kernel)))
            sample[name] = torch.cat(parts).reshape(-1, channels, kernel)
        return sample

    def _count(self, names: list[str]) -> int:
        return sum(math.prod(self.files[self.owner[name]].tensors[name][1]) for name in names)

    def _size(self, name: str) -> int:
        dtype, shape = self.files[self.owner[name]].tensors[name]
        return math.prod(shape) * dtype.itemsize

    def _books(self, names: list[str], step: float) -> dict[str, UniformCodebook]:
        """``step`` is rdoq's, as in `metaq.checkpoints.in_memory`, unless it is given."""
        in_trellis = self.coder in trellis.CODERS and self.dials.step is None
        shared = UniformCodebook(step / trellis.FINER if in_trellis else step)
        return {name: self.fixed.get(name, shared) for name in names}

    def _encoder(self, part: str) -> StreamEncoder:
        return StreamEncoder(self.files[part], self.treatments, self.coder, self.dials.step is not None, self.stop)

    def _measure_all(self, names: list[str], step: float) -> Sums:
        self.progress.begin("measuring", sum(self._size(name) for name in names))
        books = self._books(names, step)

        def measure(part: str) -> Sums:
            of_part = [name for name in names if self.owner[name] == part]
            return self._encoder(part).measure(of_part, books, self.inner, self.progress)

        return sum(in_parallel(measure, list(self.files), self.outer, self.stop), Sums())

    def _write_all(self, step: float, is_trial: bool = False) -> Sums:
        """Files on this step, but for those that are there already or, in a trial, of a known outcome."""
        self.progress.begin("compressing", self.size_bytes)
        books, key = self._books(self.quantized, step), repr(step)

        def write(part: str) -> Sums:
            known = self.folder.result(part, key)
            if known is not None and (is_trial or self.folder.is_written(part, key)):
                self.progress.advance(self.files[part].size_bytes, int(known["size_bytes"]))
                return Sums(known["squared_error"], known["bits"], int(known["size_bytes"]))
            sums = self._encoder(part).encode(self.folder.path / part, books, self.inner, self.progress)
            self.folder.record(part, key, asdict(sums))
            return sums

        return sum(in_parallel(write, list(self.files), self.outer, self.stop), Sums())


def _scaled(sums: Sums, share: float, kept_bytes: int) -> Sums:
    """What a sample came to, as if it were all."""
    bits = sums.bits * share
    return Sums(sums.squared_error * share, bits, kept_bytes + int(bits / 8))
