"""LC (learning-compression): training under the constraint that the weights are compressed ones.

Notation, after the paper: w the weights, Θ what their compressed form consists of (levels and assignments), Δ(Θ) the
compressed weights, m the multipliers (the paper's λ, which here is a strength), μ the penalty's weight.

    min L(w)  s.t.  w = Δ(Θ)

    L step:  min over w of  L(w) + (μ/2) ‖w - Δ(Θ) - m/μ‖^2      the caller's optimizer, `l_step` training steps
    C step:  min over Θ of  ‖w - m/μ - Δ(Θ)‖^2                   exact, see `lc_schemes`
             m ← m - μ (w - Δ(Θ)),  μ ← a μ

The model trains with w in training mode; in evaluation mode, and in the file, it has Δ(Θ).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from metaq.codebook import Codebook, TableCodebook
from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method, check_fields, gradient_of
from metaq.methods.lc_schemes import Scheme, parse
from metaq.methods.training import UNKNOWN_TRAINING, Training

_SHARED = "shared "  # before the name of a scheme: one codebook for all parameters of the pattern
_FLOAT = "float"  # in place of a scheme: the pattern's parameters stay as they are
_MOST_LEVELS = 1 << 12  # in a file's table; a parameter with more values than that is kept


class Algorithm(Enum):
    """How w is held to Δ(Θ).

    AUGMENTED: multipliers and a penalty hold it.
    PENALTY: the penalty alone holds it; m stays 0.
    ITERATED: nothing holds it; w starts again from Δ(Θ) after each C step (iterated direct compression).
    """

    AUGMENTED = "augmented"
    PENALTY = "penalty"
    ITERATED = "iterated"


@dataclass(frozen=True)
class LC(Method):
    """Configuration of LC.

    Without any training, `Compressor.compress` gives direct compression: one C step on the given weights.

    Attributes:
        schemes: patterns of parameter names (``*`` and ``?``) to names of schemes, as `lc_schemes` lists them. The
            first pattern that fits a parameter decides. "shared " before a scheme gives all parameters of the pattern
            one codebook. "float" keeps them in floating point, and so stay parameters that no pattern fits.
        algorithm: how w is held to Δ(Θ).
        mu: the first μ.
        growth: the factor a of μ from one L step to the next.
        l_step: training steps in an L step.
        tolerance: LC stops where ``‖w - Δ(Θ)‖ <= tolerance · ‖Δ(Θ)‖``.
    """

    schemes: dict[str, str] = field(default_factory=lambda: {"*weight": "kmeans:2"})
    algorithm: Algorithm = Algorithm.AUGMENTED
    mu: float = 1e-3
    growth: float = 1.2
    l_step: int = 500
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("schemes", bool(self.schemes), "at least one"),
            ("mu", 0 < self.mu < math.inf, "a finite number above 0"),
            ("growth", 1 <= self.growth < math.inf, "a finite number of at least 1"),
            ("l_step", self.l_step >= 1, "at least 1"),
            ("tolerance", 0 <= self.tolerance < 1, "at least 0 and less than 1"),
        )
        for scheme in self.schemes.values():
            if scheme != _FLOAT:
                parse(scheme.removeprefix(_SHARED))

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundLC:
        """LC at work on these parameters, which it has compressed directly."""
        return BoundLC(self, parameters, training)


@dataclass
class _Group:
    """Parameters with one codebook, their scheme, and the levels from which its next projection starts."""

    scheme: Scheme
    names: list[str]
    levels: Tensor | None = None


class BoundLC(BoundMethod):
    """LC's state for one model: Δ(Θ), the multipliers, and the present place in the schedule.

    Attributes:
        mu: the penalty's present weight.
        iterations: L steps with their C steps so far.
        distance: ``‖w - Δ(Θ)‖ / ‖Δ(Θ)‖`` at the last C step.
        is_finished: the weights are Δ(Θ), and stay.
    """

    def __init__(self, config: LC, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> None:
        self.groups = _grouped(config.schemes, list(parameters))
        super().__init__({name: parameters[name] for group in self.groups for name in group.names}, training)
        self.quantizes_any_weights = False
        self.config = config
        self.compressed = {name: torch.empty_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.multipliers = {name: torch.zeros_like(value) for name, value in self.compressed.items()}
        self.training_step = self.iterations = 0
        self.is_finished = False
        self._set_mu(config.mu)
        self._project()
        self.distance = self._distance()

    def update_weights(self) -> None:
        """Take the C step where an L step is over."""
        if self.training_step == (self.iterations + 1) * self.config.l_step and not self.is_finished:
            self._c_step()
        if self.is_finished:
            self._replace_weights()  # the optimizer's momentum may have moved them

    def file_weights(self) -> dict[str, Tensor]:
        """The values Δ(Θ) of the parameters that are compressed."""
        return self.compressed

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Add the penalty's gradient, μ (w - Δ(Θ)) - m."""
        self.training_step += 1
        for name, parameter in self.parameters.items():
            gradient = gradient_of(parameter)
            if self.is_finished:
                gradient.zero_()
            elif self.config.algorithm is not Algorithm.ITERATED:
                gradient.add_(parameter - self.compressed[name], alpha=self.mu).sub_(self.multipliers[name])

    def on_last_phase(self) -> None:
        """The weights become Δ(Θ) and stay there; only what is not compressed trains on."""
        self.on_forward(True)
        self._finish()

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """Δ(Θ) as a table of the values that occur in its group; None where these are too many for one."""
        group = next(group for group in self.groups if name in group.names)
        levels = torch.unique(torch.cat([self.compressed[member].reshape(-1) for member in group.names]).cpu())
        if len(levels) > _MOST_LEVELS:
            return None
        codebook = TableCodebook.around_zero(levels)
        places = torch.searchsorted(levels, self.compressed[name].cpu())
        return codebook, (places - codebook.origin).to(torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "training_step": self.training_step,
            "iterations": self.iterations,
            "mu": self.mu,
            "distance": self.distance,
            "is_finished": self.is_finished,
            "compressed": self.compressed,
            "multipliers": self.multipliers,
            "levels": [group.levels for group in self.groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.training_step, self.iterations = state["training_step"], state["iterations"]
        self.distance, self.is_finished = state["distance"], state["is_finished"]
        self._set_mu(state["mu"])
        for name, compressed in self.compressed.items():
            compressed.copy_(state["compressed"][name])
            self.multipliers[name].copy_(state["multipliers"][name])
        for group, levels in zip(self.groups, state["levels"], strict=True):
            group.levels = None if levels is None else levels.cpu()

    @torch.no_grad()
    def _c_step(self) -> None:
        self._project()
        self.iterations += 1
        self.distance = self._distance()
        if self.config.algorithm is Algorithm.ITERATED:
            self._replace_weights()
            return
        if self.config.algorithm is Algorithm.AUGMENTED:
            for name, parameter in self.parameters.items():
                self.multipliers[name].sub_(parameter - self.compressed[name], alpha=self.mu)
        self._set_mu(self.mu * self.config.growth)
        if self.distance <= self.config.tolerance:
            self._finish()

    @torch.no_grad()
    def _project(self) -> None:
        """Δ(Θ) of w - m/μ, group by group."""
        for group in self.groups:
            targets = [self.parameters[name].detach() - self.multipliers[name] / self.mu for name in group.names]
            flat = torch.cat([target.reshape(-1) for target in targets]).to("cpu", torch.float64)
            projection = group.scheme.project(flat, group.levels, self.mu)
            group.levels = projection.levels
            pieces = projection.values.split([target.numel() for target in targets])
            for name, piece in zip(group.names, pieces, strict=True):
                self.compressed[name].copy_(piece.view_as(self.compressed[name]))

    def _distance(self) -> float:
        pairs = [(p.detach().double(), self.compressed[name].double()) for name, p in self.parameters.items()]
        error = sum(float((weights - compressed).square().sum()) for weights, compressed in pairs)
        norm = sum(float(compressed.square().sum()) for _, compressed in pairs)
        return math.sqrt(error / norm) if norm else math.inf if error else 0.0

    def _set_mu(self, mu: float) -> None:
        self.mu = mu
        self.learning_rate_limit = math.inf if self.config.algorithm is Algorithm.ITERATED else 1 / mu

    def _finish(self) -> None:
        self.is_finished = True
        self.learning_rate_limit = math.inf
        self._replace_weights()

    @torch.no_grad()
    def _replace_weights(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.compressed[name])


def _grouped(schemes: Mapping[str, str], names: list[str]) -> list[_Group]:
    """The parameters of each codebook, in the order of patterns and parameters."""
    left, groups = list(names), []
    for pattern, text in schemes.items():
        found = [name for name in left if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(f"LC scheme {text!r}: expected a parameter that fits {pattern!r}, found {', '.join(left)}")
        left = [name for name in left if name not in found]
        if text.startswith(_SHARED):
            groups.append(_Group(parse(text.removeprefix(_SHARED)), found))
        elif text != _FLOAT:
            groups += [_Group(parse(text), [name]) for name in found]
    if not groups:
        raise InputError(f"LC schemes: expected one that compresses, found none for {', '.join(names)}")
    return groups
