"""METaQ (Minimizing Entropy Training and Quantization): a regulariser that is the optimum of an entropy problem.

Notation, after the paper: φ the regulariser, ξ_b the cost of level b, v_b the levels, x_ib the share of weight i on
level b, c_b = Σ_i x_ib, β_i = ∂φ/∂w_i the multiplier of the constraint that holds w_i. Training minimises L(w) + λφ(w).

    φ(w) = min over x  s.t.  v·x_i = w_i,  Σ_b x_ib = 1,  x >= 0,   of

    code length:  Σ_i Σ_b ξ_b x_ib,  also over ξ  s.t.  Σ_b 2^(-ξ_b) <= 1
    counts:       Σ_b c_b log2 c_b
    perspective:  T1 Σ w²/y + T2 Σ y + T3 Σ_b c_b log2 c_b,  the shares without the zero level, with Σ_b x_ib = y_i <= 1

Code length is the default. With x fixed its best ξ are Shannon's, ``-log2(c_b / n)``; with ξ fixed every weight is a
simil-knapsack, whose multiplier is the slope of the lower convex hull of the code lengths at w_i. So training takes ξ
from a histogram of the symbols that would be coded now, and adds λβ to the loss gradient. The published form, counts,
spreads the histogram and makes files larger (docs/methods/metaq.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from metaq.methods.base import BoundMethod, Method
from metaq.methods.metaq.around_mean import BoundAroundMean
from metaq.methods.metaq.config import LevelPlacement, METaQConfiguration
from metaq.methods.metaq.regularized import BoundMETaQ
from metaq.methods.size_control import aimed
from metaq.methods.training import UNKNOWN_TRAINING, Training


@dataclass(frozen=True)
class METaQ(METaQConfiguration, Method):
    """Configuration of METaQ.

    Attributes:
        objective: what φ minimises; `counts` and `perspective` hold the options of two of them.
        strength: λ, the weight of φ in the training loss; for code lengths, per bit. None, with no target either, ends
            at a twelfth of the float32 bytes where the training's length is known; otherwise it is 3e-5, and less by
            the root of their weights for networks of more than 44,426.
        schedule: (share of the training, factor of the strength) in order; linear in between, constant before and
            after. The default lets the strength grow over the first tenth, or leaves it constant where the training's
            length is unknown.
        refresh_every: training steps between two determinations of ξ.
        slopes: how β is read off ξ; the perspective allows only the hull.
        levels: where they are.
        start_error: the steps between levels are the largest at which quantizing the weights that training begins with
            changes them by at most this share of their energy, Σ ‖w - ŵ‖² / Σ ‖w‖², at the same slope for all tensors.
            They double where a tensor's weights come to double. Tensors that begin at zero, or nearly, take theirs from
            where their first updates lead.
        step: instead, distance between levels as a fraction of each tensor's largest magnitude when training begins,
            for good; 0 for none.
        step_learning_rate: about the largest relative change of a learned step in one training step.
        radius: levels on either side of zero; weights beyond are clipped to the last. 0 for as far as weights reach.
        around_mean: the levels, where they are around w̄.
        final: how weights become symbols at the end.
        tolerance: by how much, relatively, the validation loss may rise for a cheaper final quantization.
        target_bytes: size of the whole file to end at; 0 for none. The strength is found and steered there
            (`metaq.methods.size_control`) over a training whose length is known; `strength` and `schedule` are then
            not used, and levels become as fine as the target needs.
        target_ratio: the same as the ratio of the float32 bytes of the parameters to those of the file; 0 for none.
    """

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundMethod:
        """METaQ at work on these parameters, its levels placed by their present values."""
        method = self._bound(parameters, training)
        target = self.size_target(training)
        return aimed(method, target) if target else method

    def bind_frozen(self, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> BoundMethod | None:
        """The same levels as for those that are trained."""
        return self._bound(parameters, training)

    def _bound(self, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> BoundMethod:
        bound = BoundAroundMean if self.levels is LevelPlacement.AROUND_MEAN else BoundMETaQ
        return bound(self, parameters, training)
