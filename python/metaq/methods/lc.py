"""LC (learning-compression): training under the constraint that the weights are compressed ones.

Notation, after the paper: w the weights, Θ what their compressed form consists of (levels and assignments), Δ(Θ) the
compressed weights, m the multipliers (the paper's λ, which here is a strength), μ the penalty's weight.

    min L(w)  s.t.  w = Δ(Θ)

    L step:  min over w of  L(w) + (μ/2) ‖w - Δ(Θ) - m/μ‖^2      the caller's optimizer, for a share of the training
    C step:  min over Θ of  ‖w - m/μ - Δ(Θ)‖^2                   exact, see `lc_schemes`
             m ← m - μ (w - Δ(Θ)),  μ ← a μ

Before the first L step the network may train freely, as long as `LC.start` says; its Δ(Θ) are fitted all the same, as
often. With a size as the aim (`metaq.methods.Sized`) all weights lie on one grid (`lc_grid`), whose step and
assignment every C step chooses so that the file has that size.

The model trains with w in training mode; in evaluation mode, and in the file, it has Δ(Θ).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from metaq.assign import nearest
from metaq.codebook import Codebook, TableCodebook, UniformCodebook
from metaq.errors import InputError
from metaq.methods.base import Method, check_fields, gradient_of
from metaq.methods.lc_grid import SizedGrid
from metaq.methods.lc_schemes import Scheme, parse
from metaq.methods.schedule import known_length
from metaq.methods.size_control import Sizable
from metaq.methods.training import UNKNOWN_TRAINING, Training

_SHARED = "shared "  # before the name of a scheme: one codebook for all parameters of the pattern
_FLOAT = "float"  # in place of a scheme: the pattern's parameters stay as they are
_FIRST_SHARE = 0.1  # of the loss's gradient is the penalty's where μ is found
_FALLBACK_MU = 2.0**-10
_LAST_PHASE_SHARE = 0.05  # of the training, where nothing is left to train in it
_FITS = 6  # projections and measurements for the last size
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

    Without any training, `Compressor.compress` gives direct compression: one C step on the given weights. The
    training's length must be known.

    Attributes:
        schemes: patterns of parameter names (``*`` and ``?``) to names of schemes, as `lc_schemes` lists them. The
            first pattern that fits a parameter decides. "shared " before a scheme gives all parameters of the pattern
            one codebook. "float" keeps them in floating point, and so stay parameters that no pattern fits.
        algorithm: how w is held to Δ(Θ).
        mu: the first μ; 0 for the one at which the penalty's gradient is `_FIRST_SHARE` of the loss's.
        growth: the factor a of μ from one L step to the next.
        l_steps: how many L steps there are in the whole training, all of one length.
        start: the share of the training before the first of them counts, in which the network trains freely; 0 for a
            network that is trained.
        tolerance: LC stops where ``‖w - Δ(Θ)‖ <= tolerance · ‖Δ(Θ)‖``.
    """

    schemes: dict[str, str] = field(default_factory=lambda: {"*weight": "kmeans:4"})
    algorithm: Algorithm = Algorithm.AUGMENTED
    mu: float = 0.0
    growth: float = 1.3
    l_steps: int = 30
    start: float = 0.25
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("schemes", bool(self.schemes), "at least one"),
            ("mu", 0 <= self.mu < math.inf, "a finite number of at least 0"),
            ("growth", 1 <= self.growth < math.inf, "a finite number of at least 1"),
            ("l_steps", self.l_steps >= 1, "at least 1"),
            ("start", 0 <= self.start < 1, "at least 0 and less than 1"),
            ("tolerance", 0 <= self.tolerance < 1, "at least 0 and less than 1"),
        )
        for scheme in self.schemes.values():
            if scheme != _FLOAT:
                parse(scheme.removeprefix(_SHARED))

    def bind(self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING) -> BoundLC:
        """LC at work on these parameters, which it has compressed directly.

        Raises:
            InputError: a pattern fits nothing, or the training's length is unknown.
        """
        return BoundLC(self, parameters, training)


@dataclass
class _Group:
    """Parameters with one codebook, their scheme, and the levels from which its next projection starts."""

    scheme: Scheme
    names: list[str]
    levels: Tensor | None = None


class BoundLC(Sizable):
    """LC's state for one model: Δ(Θ), the multipliers, and the present place in the schedule.

    Attributes:
        mu: the penalty's present weight; 0 until it has been found.
        l_step: training steps in an L step.
        grid: the C step under a size, None where there is none.
        iterations: L steps with their C steps so far.
        distance: ``‖w - Δ(Θ)‖ / ‖Δ(Θ)‖`` at the last C step.
        is_finished: the weights are Δ(Θ), and stay.
    """

    def __init__(self, config: LC, parameters: Mapping[str, torch.nn.Parameter], training: Training) -> None:
        length = known_length(training.steps, "LC l_steps")
        self.groups = _grouped(config.schemes, list(parameters))
        super().__init__({name: parameters[name] for group in self.groups for name in group.names}, training)
        self.given = dict(parameters)
        self.grid: SizedGrid | None = None
        self.is_ending = False  # whether the weights are to become Δ(Θ) when the file is measured next
        self.l_step = max(1, round(length / config.l_steps))
        self.free_iterations = round(config.start * config.l_steps)
        self.quantizes_any_weights = False
        self.config = config
        self.training_step = self.iterations = 0
        self.is_finished = False
        self._set_mu(config.mu)
        self._begin()

    def aim_at(self, target_bytes: int) -> None:
        """End at a file of so many bytes: all parameters are compressed, except those whose scheme is "float"."""
        kept = [pattern for pattern, scheme in self.config.schemes.items() if scheme == _FLOAT]
        is_kept = {name: any(fnmatchcase(name, pattern) for pattern in kept) for name in self.given}
        self.parameters = {name: parameter for name, parameter in self.given.items() if not is_kept[name]}
        self.groups, self.grid = [], SizedGrid(target_bytes)
        self.measure_every = 1
        self.last_phase_share = _LAST_PHASE_SHARE
        self._begin()

    def on_size(self, measure: Callable[[], int]) -> None:
        """With a size as the aim, measure every C step, and at the end project until the size is right."""
        if self.grid is None or self.is_finished:
            return
        self.restore_weights()
        self.update_weights()
        if self.is_ending:
            for _ in range(_FITS):
                self._project()
                is_met = self.grid.is_met_by(measure())
                self.restore_weights()  # the measurement may have put the file's in their place
                if is_met:
                    break
            self._finish()
        elif self.training_step == self.iterations * self.l_step:
            self.grid.is_met_by(measure())

    def update_weights(self) -> None:
        """Take the C step where an L step is over."""
        if self.training_step == (self.iterations + 1) * self.l_step and not self.is_finished:
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
        if self.iterations < self.free_iterations:
            return
        if not self.mu:
            self._set_mu(self._first_mu())
        for name, parameter in self.parameters.items():
            gradient = gradient_of(parameter)
            if self.is_finished:
                gradient.zero_()
            elif self.config.algorithm is not Algorithm.ITERATED:
                gradient.add_(parameter - self.compressed[name], alpha=self.mu).sub_(self.multipliers[name])

    def on_last_phase(self) -> None:
        """The weights become Δ(Θ) and stay there; only what is not compressed trains on."""
        self.on_forward(True)
        if self.grid is None:
            self._finish()
        self.is_ending = True

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[Codebook, Tensor] | None:
        """Δ(Θ) as a table of the values that occur in its group; None where these are too many for one."""
        if self.grid is not None:
            grid = UniformCodebook(self.grid.step)
            return grid, nearest(self.compressed[name].cpu(), grid)
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
            "is_ending": self.is_ending,
            "grid": self.grid and vars(self.grid).copy(),
            "compressed": self.compressed,
            "multipliers": self.multipliers,
            "levels": [group.levels for group in self.groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.training_step, self.iterations = state["training_step"], state["iterations"]
        self.distance, self.is_finished = state["distance"], state["is_finished"]
        self.is_ending = state["is_ending"]
        if self.grid is not None:
            vars(self.grid).update(state["grid"])
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
        if self.iterations <= self.free_iterations:
            return
        if self.config.algorithm is Algorithm.ITERATED:
            self._replace_weights()
            return
        if self.config.algorithm is Algorithm.AUGMENTED:
            for name, parameter in self.parameters.items():
                self.multipliers[name].sub_(parameter - self.compressed[name], alpha=self.mu)
        self._set_mu(self.mu * self.config.growth)
        if self.distance <= self.config.tolerance and self.grid is None:
            self._finish()

    @torch.no_grad()
    def _project(self) -> None:
        """Δ(Θ) of w - m/μ, group by group."""
        if self.grid is not None:
            projections = self.grid.project([self._target(name) for name in self.parameters])
            for compressed, values in zip(self.compressed.values(), projections, strict=True):
                compressed.copy_(values)
        for group in self.groups:
            targets = [self._target(name) for name in group.names]
            flat = torch.cat([target.reshape(-1) for target in targets]).to("cpu", torch.float64)
            projection = group.scheme.project(flat, group.levels, self.mu)
            group.levels = projection.levels
            pieces = projection.values.split([target.numel() for target in targets])
            for name, piece in zip(group.names, pieces, strict=True):
                self.compressed[name].copy_(piece.view_as(self.compressed[name]))

    def _target(self, name: str) -> Tensor:
        """What is projected: w - m/μ, or w while there is no penalty."""
        weights = self.parameters[name].detach()
        return weights - self.multipliers[name] / self.mu if self.mu else weights

    def _first_mu(self) -> float:
        """The μ at which the penalty's gradient is a share of the loss's, or a power of two where one of them is 0."""
        pairs = [(gradient_of(p), p.detach() - self.compressed[name]) for name, p in self.parameters.items()]
        loss = sum(float(gradient.double().square().sum()) for gradient, _ in pairs)
        penalty = sum(float(error.double().square().sum()) for _, error in pairs)
        return _FIRST_SHARE * math.sqrt(loss / penalty) if loss and penalty else _FALLBACK_MU

    def _begin(self) -> None:
        """Compress directly."""
        self.compressed = {name: torch.empty_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.multipliers = {name: torch.zeros_like(value) for name, value in self.compressed.items()}
        self._project()
        self.distance = self._distance()

    def _distance(self) -> float:
        pairs = [(p.detach().double(), self.compressed[name].double()) for name, p in self.parameters.items()]
        error = sum(float((weights - compressed).square().sum()) for weights, compressed in pairs)
        norm = sum(float(compressed.square().sum()) for _, compressed in pairs)
        return math.sqrt(error / norm) if norm else math.inf if error else 0.0

    def _set_mu(self, mu: float) -> None:
        self.mu = mu
        is_held = bool(mu) and self.config.algorithm is not Algorithm.ITERATED
        self.learning_rate_limit = 1 / mu if is_held else math.inf

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
