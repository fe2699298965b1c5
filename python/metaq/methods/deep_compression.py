"""Deep Compression: prune and retrain, share values, fine-tune the shared values.

Three steps, after the paper. Prune: of each parameter's w the share `keep` of largest magnitude stays, the others are 0
from then on; retrain; repeat with a smaller share. Share: k-means on what is left, from levels that are spread linearly
over its range, spread by its density, or drawn from it. Fine-tune: the loss as a function of the levels v has

    ∂L/∂v_b = Σ_(i in cluster b) ∂L/∂w_i,

since all weights of a cluster are the same number. The fourth step, Huffman codes of values and gaps, is the paper's
file; `metaq.report.published_size` counts its size, and the coders of `metaq.coding` take its place.
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

from metaq.assign import nearest
from metaq.codebook import TableCodebook
from metaq.errors import InputError
from metaq.methods.base import BoundMethod, Method, check_fields, gradient_of
from metaq.methods.schedule import known_length, steps_at
from metaq.methods.training import UNKNOWN_TRAINING, Training
from metaq.solvers.kmeans1d import lloyd

_MOST_LEVELS = 1 << 12


class Initialization(Enum):
    """Where the levels of k-means start from: spread over the weights' range, by their density, or drawn from them."""

    LINEAR = "linear"
    DENSITY = "density"
    RANDOM = "random"


@dataclass(frozen=True)
class DeepCompression(Method):
    """Configuration of Deep Compression.

    The last phase of training (`Compressor.begin_last_phase`) is the one in which the shared values are tuned.

    Attributes:
        keep: patterns of parameter names (``*`` and ``?``) to the share of weights that are not pruned; the first
            pattern that fits decides. Parameters that no pattern fits stay in floating point.
        levels: patterns to the number of shared values, zero not counted; one has to fit each parameter of ``keep``.
        rounds: how often weights are pruned: round r of R keeps the share ``keep^(r/R)``.
        start: when the first round comes, as a share of the training: a network that starts at random has to learn
            first; 0 for one that is trained.
        round_share: from one round to the next, as a share of the training.
        initialization: the first levels of k-means.
        seed: of the random initialization.
    """

    keep: dict[str, float] = field(default_factory=lambda: {"*weight": 0.1})
    levels: dict[str, int] = field(default_factory=lambda: {"*": 32})
    rounds: int = 4
    start: float = 0.25
    round_share: float = 0.1
    initialization: Initialization = Initialization.LINEAR
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("keep", all(0 < share <= 1 for share in self.keep.values()), "shares above 0 and at most 1"),
            ("levels", all(1 <= k <= _MOST_LEVELS for k in self.levels.values()), f"1 to {_MOST_LEVELS}"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("start", 0 <= self.start < 1, "at least 0 and less than 1"),
            ("round_share", 0 < self.round_share <= 1, "more than 0 and at most 1"),
        )

    def bind(
        self, parameters: Mapping[str, torch.nn.Parameter], training: Training = UNKNOWN_TRAINING
    ) -> BoundDeepCompression:
        """Deep Compression at work on these parameters.

        Raises:
            InputError: a pattern fits nothing, or the training's length is unknown.
        """
        return BoundDeepCompression(self, parameters, training)


class BoundDeepCompression(BoundMethod):
    """Deep Compression's state for one model: masks, and in the last phase the cluster of every weight."""

    def __init__(
        self, config: DeepCompression, parameters: Mapping[str, torch.nn.Parameter], training: Training
    ) -> None:
        self.shares = {name: share for name in parameters if (share := _first_fit(config.keep, name)) is not None}
        counts = {name: _first_fit(config.levels, name) for name in self.shares}
        for name, count in counts.items():
            if count is None:
                raise InputError(f"DeepCompression levels: expected a pattern that fits {name!r}, found none")
        if not counts:
            raise InputError(f"DeepCompression keep: expected a pattern that fits a parameter, found {config.keep}")
        self.counts = {name: int(count or 0) for name, count in counts.items()}
        super().__init__({name: parameters[name] for name in self.shares}, training)
        self.quantizes_any_weights = False
        self.config = config
        length = known_length(self.training_steps, "DeepCompression start and round_share")
        self.first_step = steps_at(config.start, length)
        self.round_steps = max(1, steps_at(config.round_share, length))
        self.training_step = self.rounds_done = 0
        self.masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()}
        self.clusters: dict[str, Tensor] | None = None  # int64, numbered from 1; 0 for what is pruned
        self._clusters_now: dict[str, Tensor] | None = None  # of the latent weights, where sharing is still to come
        self.update_weights()

    @torch.no_grad()
    def update_weights(self) -> None:
        """Prune where it is due. Pruned weights become 0 and, in the last phase, those of a cluster their mean."""
        due = min(self.config.rounds, 1 + (self.training_step - self.first_step) // self.round_steps)
        if self.rounds_done < due and self.clusters is None:
            self.rounds_done = due
            self._prune()
        for name, parameter in self.parameters.items():
            if self.clusters is None:
                parameter.mul_(self.masks[name])
            else:
                parameter.copy_(_cluster_means(parameter, self.clusters[name]))

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Pruned weights get no gradient; in the last phase each weight gets its level's, the sum of its cluster's."""
        self.training_step += 1
        for name, parameter in self.parameters.items():
            gradient = gradient_of(parameter)
            if self.clusters is None:
                gradient.mul_(self.masks[name])
            else:
                gradient.copy_(_cluster_sums(gradient, self.clusters[name]))

    def on_last_phase(self) -> None:
        """Prune what is still to be pruned, then share values."""
        self.training_step = max(self.training_step, self.first_step + self.config.rounds * self.round_steps)
        self.on_forward(True)
        self.clusters = self._cluster()

    def restore_weights(self) -> None:
        """Put the latent weights back; from here on they may change, and their clusters with them."""
        super().restore_weights()
        self._clusters_now = None

    def quantize_parameter(self, name: str, weights: Tensor) -> tuple[TableCodebook, Tensor]:
        """The means of the clusters as a table, zero among them where a weight is pruned.

        Before the last phase the clusters are those that sharing would give now.
        """
        if self.clusters is None and self._clusters_now is None:
            self._clusters_now = self._cluster()
        clusters = self.clusters or self._clusters_now
        assert clusters is not None
        means = _cluster_means(weights, clusters[name]).cpu()
        codebook = TableCodebook.around_zero(torch.unique(means))
        return codebook, nearest(means, codebook)

    def state_dict(self) -> dict[str, Any]:
        """What cannot be had from parameters and optimizer."""
        return super().state_dict() | {
            "training_step": self.training_step,
            "rounds_done": self.rounds_done,
            "masks": self.masks,
            "clusters": self.clusters,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self._clusters_now = None
        self.training_step, self.rounds_done = state["training_step"], state["rounds_done"]
        self.masks, self.clusters = self.on_device(state["masks"]), self.on_device(state["clusters"])

    def _prune(self) -> None:
        for name, parameter in self.parameters.items():
            share = self.shares[name] ** (self.rounds_done / self.config.rounds)
            kept = parameter.abs().reshape(-1).topk(math.ceil(share * parameter.numel())).indices
            mask = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
            mask[kept] = True
            self.masks[name] = mask.view_as(parameter)

    def _cluster(self) -> dict[str, Tensor]:
        """k-means of each parameter's non-zero weights."""
        generator = torch.Generator().manual_seed(self.config.seed)
        found = {}
        for name in self.parameters:
            kept = self.masks[name]
            values = self.latent_weights(name)[kept].to("cpu", torch.float64)
            start = initial_levels(values, self.counts[name], self.config.initialization, generator)
            found[name] = torch.zeros_like(kept, dtype=torch.int64)
            found[name][kept] = lloyd(values, start).indices.to(kept.device) + 1
        return found


def initial_levels(values: Tensor, count: int, initialization: Initialization, generator: torch.Generator) -> Tensor:
    """The levels from which k-means starts: float64 (count,) for float64 ``values`` (n,), n at least 1."""
    if initialization is Initialization.LINEAR:
        return torch.linspace(float(values.min()), float(values.max()), count, dtype=torch.float64)
    if initialization is Initialization.DENSITY:
        places = torch.linspace(0, len(values) - 1, count, dtype=torch.float64).round().to(torch.int64)
    else:
        places = torch.randperm(len(values), generator=generator)[:count]
    return values.sort().values[places]


def _cluster_sums(values: Tensor, clusters: Tensor) -> Tensor:
    """Each entry's sum over its cluster, 0 where pruned, in the shape of the clusters."""
    sums = torch.zeros(int(clusters.max()) + 1, dtype=torch.float64, device=values.device)
    sums.index_add_(0, clusters.reshape(-1), values.reshape(-1).to(torch.float64))
    sums[0] = 0
    return sums[clusters].to(values.dtype)


def _cluster_means(values: Tensor, clusters: Tensor) -> Tensor:
    """Each entry's mean over its cluster, 0 where pruned."""
    sums, sizes = _cluster_sums(values.double(), clusters), _cluster_sums(torch.ones_like(values).double(), clusters)
    return (sums / sizes.clamp(min=1)).to(values.dtype) + 0.0


def _first_fit(patterns: Mapping[str, float], name: str) -> float | None:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)
