"""The ways in which a model is quantized by its data, and how a target is met on the best of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from metaq.checkpoints.calibrated_checkpoint import CalibratedCheckpoint
from metaq.checkpoints.search import Quantity, target_of
from metaq.checkpoints.step_search import NEAR
from metaq.checkpoints.weight_problems import MatrixProblem
from metaq.compressed_model import CodedTensor
from metaq.errors import InputError
from metaq.progress import Progress
from metaq.quantizers import second_order
from metaq.quantizers.layers import MatrixView
from metaq.quantizers.observation import still
from metaq.quantizers.recalibration import correct_statistics
from metaq.quantizers.refitting import References
from metaq.quantizers.sequential import Moments, SequentialOptions, quantize_sequentially

_ROUNDS, _PATIENCE = 8, 3  # of quantization: at most, and until anything below the target will do
_SPARE = 1e-3  # of a target: norms that are fitted afterwards may take a few bytes more
_STRIDE = 1.0  # octaves at most between rounds: where the finest steps miss a target from below, others do no better


class Way(StrEnum):
    """On which inputs weights are quantized, and at which outputs they aim.

    AT_ONCE: on those in the model as it was.
    IN_ORDER: block by block, on those that come out of the weights quantized before, at what they give for these.
    AIMED: in order, too, at the outputs in the model as it was.
    """

    AT_ONCE = "at once"
    IN_ORDER = "in order"
    AIMED = "aimed"


@dataclass(frozen=True)
class Ways:
    """A model, its data, and what is known of its weights.

    Attributes:
        model: as it was; it is not changed.
    """

    checkpoint: CalibratedCheckpoint
    model: nn.Module
    batches: list[Any]
    progress: Progress

    def quantize_to_target(self, sigmas: dict[str, float]) -> tuple[nn.Module, dict[str, CodedTensor]]:
        """A quantized copy and its weights, again with other steps while what comes of it misses the target.

        The way is taken that brings the model's outputs nearest to what they were, since none is best for all models.

        Args:
            sigmas: steps to begin with, as `CalibratedCheckpoint.find_steps` gives them.

        Raises:
            InputError: no steps meet the target.
        """
        target, fixed = target_of(self.checkpoint.config), set(self.checkpoint.config.tensor_bits)
        count = sum(tensor.numel() for tensor in self.checkpoint.weights.values())
        free = [name for name in sigmas if self.checkpoint.config.bits_pattern(name) not in fixed]
        found = {way: self.quantize(sigmas, way) for way in Way}
        references = References(self.model, self.batches)
        with still(self.model):
            way = min(Way, key=lambda way: _distance(found[way][0], references))
        quantized, coded = found[way]
        for tried in range(_ROUNDS):
            chosen = {name: tensor for name, tensor in coded.items() if name in free}
            if not chosen:
                return quantized, coded
            value = self.checkpoint.measure(coded if target.quantity is Quantity.SIZE else chosen, target)
            ratio = value / target.value
            if ratio <= 1 - _SPARE and (ratio >= 1 - 2 * NEAR or tried >= _PATIENCE or value == 0):
                return quantized, coded
            aim = 1 - NEAR / 2 * (1 + tried / 2)
            if target.quantity is Quantity.ERROR:
                octaves = 0.5 * math.log2(aim / ratio)
            else:
                bits = value * 8 / count if target.quantity is Quantity.SIZE else value
                octaves = bits * (1 - aim / ratio)
            factor = 2 ** min(max(octaves, -_STRIDE), _STRIDE)
            sigmas = sigmas | {name: sigmas[name] * factor for name in free}
            quantized, coded = self.quantize(sigmas, way)
        found_value = f"{value:.6g} in {_ROUNDS} rounds"
        expected = f"steps that lead to {target.value:.6g}"
        raise InputError(f"{target.name}: expected {expected}, found {found_value}; ask for another")

    def quantize(self, sigmas: Mapping[str, float], way: Way) -> tuple[nn.Module, dict[str, CodedTensor]]:
        """A copy of the model with these steps, whose batch normalisation has been corrected, and its weights."""
        quantized = copy.deepcopy(self.model)
        if way is Way.AT_ONCE:
            coded = self.checkpoint.quantize(sigmas)
            state = quantized.state_dict()
            for name, tensor in coded.items():
                state[name].copy_(tensor.decompress())
        else:
            coded = self._quantize_in_order(quantized, sigmas, is_aimed=way is Way.AIMED)
        correct_statistics(quantized, self.model, self.batches)
        return quantized, coded

    def _quantize_in_order(
        self, quantized: nn.Module, sigmas: Mapping[str, float], is_aimed: bool
    ) -> dict[str, CodedTensor]:
        coded: dict[str, CodedTensor] = {}
        names = dict(quantized.named_parameters(remove_duplicate=False))

        def quantize(name: str, view: MatrixView, matrices: Tensor, moments: Moments) -> Tensor | None:
            problem = self.checkpoint.problems.get(name)
            if problem is None or name not in sigmas:
                return None
            weight = names[name]
            aimed = weight.detach().cpu()
            if isinstance(problem, MatrixProblem) and moments.inputs is not None:
                problem = problem.on(moments.inputs, moments.positions, moments.unseen)
                if moments.cross is not None:
                    known = moments.inputs, moments.cross, moments.positions, moments.unseen
                    target = second_order.aim(matrices, *known)
                    aimed = view.weight(target).to(weight.dtype)
            coded[name] = problem.quantize(aimed, sigmas[name])
            return view.matrices(coded[name].decompress()).to(matrices.device)

        options = SequentialOptions(cross=is_aimed)
        quantize_sequentially(quantized, self.batches, quantize, options=options, progress=self.progress)
        return coded | self.checkpoint.quantize({name: sigma for name, sigma in sigmas.items() if name not in coded})


def _distance(quantized: nn.Module, references: References) -> float:
    with still(quantized):
        return references.mean_distance(quantized)
