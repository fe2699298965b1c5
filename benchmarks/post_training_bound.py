"""How far above the rate-distortion bound the layers of a network are at three bits a weight, in bits a weight.

The error of a layer is ``Σ_i δ_i H δ_iᵀ`` over its rows, with H the damped second moments of its inputs. Of Gaussian
weights whose rows have the variances v_i no code takes less than what reverse waterfilling over ``v_i λ_k`` says, λ
being the eigenvalues of H:

    D = Σ min(θ, v_i λ_k),    R = Σ max(0, ½ log2(v_i λ_k / θ))

Ours are bits of the adaptive coder with all scales; those of scalar feedback, which is WaterSIC's, are the ideal
entropy of its symbols, scales not counted. Trained weights are no Gaussian ones, so that the bound is one of the model,
not of the layer.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from post_training_baselines import DAMPING, Layer, side_bits, watersic_layer
from post_training_networks import Network
from torch import Tensor

import metaq
from metaq.quantizers import second_order

BITS = 3.0
ROUNDS = 8
ENDLESS = 1 << 60  # positions, so that moments are taken as they are


def layer_gaps(network: Network, is_done: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """Rows of every layer that is one matrix and is not done: ours, and scalar feedback."""
    calibration = metaq.calibrate(network.model, network.batches, gradients=False)
    weights = dict(network.model.named_parameters())
    for name, view in calibration.views.items():
        if view.groups > 1 or name not in calibration.inputs or name in calibration.counts or is_done(name):
            continue
        layer = Layer(view.matrices(weights[name]), calibration.inputs[name])
        metric = damped(calibration.inputs[name][0])
        variances = component_variances(layer.matrices[0], metric)
        for method, quantize in (("metaq", ours), ("scalar feedback", scalar_feedback)):
            values, bits = quantize(layer)
            gap = bits - bound_bits(variances, error(layer.matrices[0] - values[0], metric))
            yield {"layer": name, "method": method, "weights": values.numel(), "bits": bits, "gap_bits": gap}


def damped(moments: Tensor) -> Tensor:
    """H as both quantizers see it, float64."""
    exact = moments.double()
    return exact + DAMPING * exact.diagonal().mean() * torch.eye(len(exact), dtype=torch.float64)


def error(errors: Tensor, metric: Tensor) -> float:
    """Of a layer, summed over its rows."""
    exact = errors.double()
    return float((exact @ metric * exact).sum())


def component_variances(matrix: Tensor, metric: Tensor) -> Tensor:
    """Variances of the independent components of which a Gaussian layer's outputs are made, flat."""
    rows, eigenvalues = matrix.double().square().mean(1), torch.linalg.eigvalsh(metric)
    return (rows[:, None] * eigenvalues).flatten()


def bound_bits(variances: Tensor, distortion: float) -> float:
    """The least bits for each component, at a distortion of all together."""
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        level = (low + high) / 2
        if float(variances.clamp_max(level).sum()) > distortion:
            high = level
        else:
            low = level
    return float((0.5 * (variances / level).log2()).clamp_min(0).mean())


def ours(layer: Layer) -> tuple[Tensor, float]:
    """Values and bits a weight of our quantizer, near the bits asked for."""
    found = second_order.feedback(layer.moments, torch.tensor([ENDLESS]))
    octave = 0.5 * float((layer.matrices.square().mean() * found.costs).log2().mean()) - BITS + 1
    scaling = second_order.choose_scaling(layer.matrices, found, 2**octave, 1.0)
    for _ in range(ROUNDS):
        quantized = second_order.quantize(layer.matrices, found, 2**octave, 1.0, scaling)
        bits = quantized.bits() / layer.matrices.numel()
        if abs(bits - BITS) < 0.01:
            break
        octave += bits - BITS
    return quantized.values(1), bits


def scalar_feedback(layer: Layer) -> tuple[Tensor, float]:
    """Values and bits a weight of errors fed back between columns and rounding to nearest."""
    rounded = watersic_layer(layer, BITS)
    return rounded.values, (rounded.bits - side_bits(layer)) / layer.matrices.numel()
