"""The methods of `post_training.py`: from a network and a setting to a quantized copy, and its bytes.

Ours write a file of a size that is asked for and read it back. Of baselines the bytes are those of symbols and scales
alone, without any header; all that is no weight of two dimensions or more is float16.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter

import post_training_baselines as baselines
import torch
from post_training_networks import Network
from torch import Tensor, nn

import metaq
from metaq.compressed_model import CompressedModel
from metaq.quantizers.layers import MatrixView

FIXED_BITS = (2, 3, 4)


@dataclass(frozen=True)
class Quantized:
    """A quantized copy of a network.

    Attributes:
        size_bytes: all that it takes.
        is_file: whether the copy was read back from a file that has this size.
        seconds: of all that made it, calibration included.
    """

    model: nn.Module
    size_bytes: int
    is_file: bool
    seconds: float


class Workbench:
    """A network, and what methods need of it.

    Args:
        kept: a file for its calibration, and one beside it for the seconds that took; None to calibrate anew.
    """

    def __init__(self, network: Network, kept: Path | None = None) -> None:
        self.network, self.model, self.kept = network, network.model, kept
        self.parameters = sum(parameter.numel() for parameter in network.model.parameters())

    @cached_property
    def timed_calibration(self) -> tuple[metaq.Calibration, float]:
        """What all methods that take it share, and the seconds that it took."""
        if self.kept and self.kept.exists():
            return metaq.Calibration.load(self.kept), float(self.kept.with_suffix(".seconds").read_text())
        start = perf_counter()
        found, seconds = metaq.calibrate(self.model, self.network.batches), perf_counter() - start
        if self.kept:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            self.kept.with_suffix(".seconds").write_text(str(seconds))
            found.save(self.kept)
        return found, seconds

    def config(self, rate: float) -> metaq.CompressionConfig:
        """A file of so many bits for each parameter."""
        return metaq.CompressionConfig(size_bytes=int(rate * self.parameters / 8))

    def views(self) -> dict[str, MatrixView]:
        """Every weight of two dimensions and more as matrices, by name; tied ones once."""
        known = self.timed_calibration[0].views
        views = {}
        for name, weight in self.model.named_parameters():
            if weight.ndim >= 2:
                shape, rows = tuple(weight.shape), weight.shape[0]
                plain = MatrixView(name, shape, 1, rows, weight[0].numel(), is_transposed=False)
                views[name] = known.get(name, plain)
        return views

    def other_bits(self) -> int:
        """Of everything else: float16, and whole numbers as they are."""
        weights = {weight.data_ptr() for weight in self.model.parameters() if weight.ndim >= 2}
        others = {t.data_ptr(): t for t in self.model.state_dict().values() if t.data_ptr() not in weights}
        return sum(t.numel() * (16 if t.is_floating_point() else 8 * t.element_size()) for t in others.values())


def with_data(bench: Workbench, rate: float) -> Quantized:
    calibration, seconds = bench.timed_calibration
    start = perf_counter() - seconds
    batches, config = bench.network.batches, bench.config(rate)
    compressed = metaq.compress_calibrated(bench.model, batches, config, calibration=calibration)
    return _read_back(bench, compressed, start)


def by_moments(bench: Workbench, rate: float) -> Quantized:
    calibration, seconds = bench.timed_calibration
    start = perf_counter() - seconds
    compressed = metaq.compress_state_dict(bench.model.state_dict(), bench.config(rate), calibration=calibration)
    return _read_back(bench, compressed, start)


def without_data(bench: Workbench, rate: float) -> Quantized:
    start = perf_counter()
    return _read_back(bench, metaq.compress_state_dict(bench.model.state_dict(), bench.config(rate)), start)


def _read_back(bench: Workbench, compressed: CompressedModel, start: float) -> Quantized:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mtq"
        size_bytes = metaq.save(compressed, path)
        seconds = perf_counter() - start
        model = copy.deepcopy(bench.model)
        metaq.load_into(model, path)
    return Quantized(model, size_bytes, True, seconds)


def baseline(run: baselines.Baseline, is_rate: bool, bench: Workbench, setting: float) -> Quantized:
    """A copy whose weights a baseline has rounded.

    Args:
        is_rate: whether the setting is of whole bits per parameter, not of bits for each symbol.
    """
    calibration, seconds = bench.timed_calibration
    start = perf_counter() - seconds
    model, views = copy.deepcopy(bench.model), bench.views()
    weights = dict(model.named_parameters())
    inputs = {name: tensor for name, tensor in calibration.inputs.items() if name not in calibration.counts}
    layers = [baselines.Layer(view.matrices(weights[name]), inputs.get(name)) for name, view in views.items()]
    others = bench.other_bits()
    with torch.no_grad():
        found = run(layers, setting * bench.parameters - others if is_rate else setting)
        for (name, view), layer in zip(views.items(), found, strict=True):
            weights[name].copy_(view.weight(layer.values))
        _round_others(model)
    bits = sum(layer.bits for layer in found) + others
    return Quantized(model, -int(-bits // 8), False, perf_counter() - start)


def _round_others(model: nn.Module) -> None:
    """Everything that is no weight of a layer to float16."""
    parameters = {parameter.data_ptr() for parameter in model.parameters() if parameter.ndim >= 2}
    tensors: Iterator[Tensor] = (t for t in model.state_dict().values() if t.data_ptr() not in parameters)
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


@dataclass(frozen=True)
class Method:
    """How a network is quantized.

    Attributes:
        run: from a network and a setting to a quantized copy.
        is_rate: whether settings are the network's rates, not bits for each symbol.
    """

    run: Callable[[Workbench, float], Quantized]
    is_rate: bool = True

    def settings(self, network: Network) -> tuple[float, ...]:
        """What is tried of it."""
        return network.rates if self.is_rate else FIXED_BITS


METHODS: dict[str, Method] = {
    "metaq": Method(with_data),
    "metaq-moments": Method(by_moments),
    "metaq-no-data": Method(without_data),
    **{name: Method(partial(baseline, run, True)) for name, run in baselines.WITHIN_BUDGET.items()},
    **{name: Method(partial(baseline, run, False), is_rate=False) for name, run in baselines.FIXED.items()},
}
