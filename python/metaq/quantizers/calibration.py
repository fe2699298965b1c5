"""What data says of a model's weights: how much each matters, and how those of a layer make up for each other.

The Fisher information of a weight w is the mean of ``(∂ log p(y | x) / ∂w)²``, y drawn from the model's own
prediction, so that no labels are needed. Moving the weights by δ changes the prediction by about ``½ Σ F δ²`` nats of
KL divergence. For a layer that multiplies inputs x by W, whose outputs have the gradients g, it is taken as a product
(Kronecker-factored, Martens and Grosse 2015; for convolutions Grosse and Martens 2016):

    F[i, j] = G[i] A[j, j],    A = mean over samples of Σ x xᵀ over positions,

and G[i] A is the Hessian of row i (`metaq.quantizers.second_order`). G[i] is such that ``Σ_j F[i, j]`` is what it is:
the mean over samples of the squared gradient of row i. Deviation: G is not the mean of g_i² over samples and positions,
which takes gradients at the positions of a sample for independent. In networks that add up positions, as those for
images do at their end, they are not. Where outputs are no logits, F is the Gauss-Newton matrix of half their squared
error: gradients are then those of ``Σ ±output``, of signs that are drawn.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import FormatError, InputError, first_line
from metaq.progress import Progress
from metaq.quantizers import calibration_file
from metaq.quantizers.gradients import Gradients, Loss
from metaq.quantizers.layers import MatrixView, Weights
from metaq.quantizers.moments import SharedSums
from metaq.quantizers.observation import Observation, batch_bytes, run, sample_count, still
from metaq.quantizers.padding import token_mask

_log = logging.getLogger(__name__)
_NAMES_SHOWN = 5  # of weights that a message is about


@dataclass(frozen=True)
class Calibration:
    """What is known of each calibrated weight, by name: second moments of its inputs and its rows' gradients.

    Attributes:
        views: how each weight is a set of matrices, in the order in which they ran.
        inputs: A of each group, float32, of shape (groups, columns, columns). Weights that are multiplied by the same
            inputs have the same tensor. Weights that are only looked up in, such as embeddings, have none.
        rows: G, float32, of shape (groups * rows,), at least 0; ones, if no gradients were taken. Of rows that are
            looked up, the mean over columns; of tables that are multiplied by, too, of the product alone.
        counts: of tables, how often each row was looked up, int64, of shape (rows,).
        lookups: of tables, the mean over samples of Σ g gᵀ over what was looked up, g its gradients, float32, of shape
            (1, columns, columns); as if each were of length 1 in every direction, if no gradients were taken.
        expected: of tables that logits are products with, as the head of a language model that shares the embedding's,
            how often each row is predicted to come next in all samples together, float32, of shape (rows,).
        positions: how many inputs each group has seen, int64, of shape (groups,).
        unseen: of weights that are multiplied, what energy every input has besides what was seen of it, as a share of
            their mean energy (`metaq.quantizers.second_order.feedback`), float32, of shape ().
        optimism: of the same, how many times as much errors cost on inputs that are not in the data
            (`metaq.quantizers.second_order.optimism`), float32, of shape ().
        samples: how many the data had.
        missing: names of parameters of two dimensions or more that multiplied nothing, or not as whole matrices.
    """

    views: dict[str, MatrixView]
    inputs: dict[str, Tensor]
    rows: dict[str, Tensor]
    counts: dict[str, Tensor]
    lookups: dict[str, Tensor]
    expected: dict[str, Tensor]
    positions: dict[str, Tensor]
    unseen: dict[str, Tensor]
    optimism: dict[str, Tensor]
    samples: int
    missing: tuple[str, ...] = ()

    def importance(self, name: str) -> Tensor:
        """F of a weight, float32, of shape (groups * rows, columns)."""
        view, rows = self.views[name], self.rows[name]
        if name not in self.inputs:
            return (rows * self.counts[name] / self.samples)[:, None].expand(-1, view.columns)
        squares = self.inputs[name].diagonal(dim1=1, dim2=2)
        found = (rows.reshape(view.groups, -1, 1) * squares[:, None]).flatten(0, 1)
        if name in self.counts:  # it is looked up in, too
            shares = self.counts[name] / self.counts[name].sum()
            found += shares[:, None] * self.lookups[name][0].diagonal()
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a safetensors file, whole or not at all.

        Raises:
            InputError: the place cannot be written.
        """
        tensors = {kind: getattr(self, kind) for kind in calibration_file.KINDS}
        views = {name: asdict(view) for name, view in self.views.items()}
        fields = {"views": views, "samples": self.samples, "missing": list(self.missing)}
        calibration_file.write(path, tensors, fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read.
            FormatError: it is damaged, or no calibration.
        """
        tensors, fields = calibration_file.read(path)
        try:
            views = {
                name: MatrixView(**entry | {"shape": tuple(entry["shape"])}) for name, entry in fields["views"].items()
            }
            found = cls(views, **tensors, samples=fields["samples"], missing=tuple(fields["missing"]))
            found._check()
        except Exception as error:  # of any kind, since the fields may be any JSON
            raise FormatError(
                f"{path}: expected a calibration, found one that is damaged: {first_line(error)}"
            ) from None
        return found

    def _check(self) -> None:
        """Raises ValueError unless all tensors are what the views say."""
        if type(self.samples) is not int or self.samples < 1 or not all(isinstance(name, str) for name in self.missing):
            raise ValueError("samples or missing names that are none")
        for name, view in self.views.items():
            sizes, count = (view.groups, view.rows, view.columns, *view.shape), view.groups * view.rows
            is_one = all(type(size) is int and size > 0 for size in sizes) and view.name == name
            if not is_one or type(view.is_transposed) is not bool or count * view.columns != math.prod(view.shape):
                raise ValueError(f"a view of {name!r} that is none")
            inputs = (view.groups, view.columns, view.columns)
            _check_tensor(f"inputs of {name!r}", self.inputs.get(name), inputs)
            _check_tensor(f"counts of {name!r}", self.counts.get(name), (view.rows,), torch.int64)
            _check_tensor(f"lookups of {name!r}", self.lookups.get(name), (1, view.columns, view.columns))
            if (name in self.counts) != (name in self.lookups):
                raise ValueError(f"counts or lookups of {name!r} without the other")
            _check_tensor(f"expected of {name!r}", self.expected.get(name), (view.rows,))
            _check_tensor(f"rows of {name!r}", self.rows[name], (count,))
            _check_tensor(f"positions of {name!r}", self.positions[name], (view.groups,), torch.int64)
            for kind, shares in (("unseen", self.unseen), ("optimism", self.optimism)):
                _check_tensor(f"{kind} of {name!r}", shares.get(name), ())
                if (name in self.inputs) != (name in shares):
                    raise ValueError(f"inputs or {kind} of {name!r} without the other")
            if name not in self.inputs and name not in self.counts:
                raise ValueError(f"neither inputs nor counts of {name!r}")


def _check_tensor(what: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    if tensor is None:
        return
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{what} that are not finite, or not of {dtype} and of shape {shape}")


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    gradients: bool = True,
    limit: int | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Run a model on some data, to have its weights quantized by what matters to its predictions.

    Padding does not count: where a batch has an ``attention_mask`` of shape (samples, positions), what is at its zeros
    is left out of inputs, lookups and outputs that have these dimensions first, apart or as one. Where a model has put
    inputs into another order, as for experts, and in convolutions, padding still counts.

    Every parameter that multiplies something is calibrated: of `torch.nn.Linear`, convolutions, attention, experts,
    embeddings, and of modules that are called otherwise. The model runs in evaluation mode, and is left as it was,
    gradients included.

    Args:
        model: any; its outputs are logits or others (`Loss`).
        batches: of inputs, on the model's device: a tensor, a tuple that begins with one, or a dictionary of keyword
            arguments. A few hundred samples do.
        gradients: whether to find G, which takes a backward pass.
        limit: how many batches to take; all, if not given.
        loss: what gradients are of; if not given, it follows from what the model gives.
        seed: of the predictions drawn.

    Raises:
        InputError: no batch, a batch that the model does not take, no weight that multiplies anything, activations that
            are not finite, or outputs that the loss does not take.

    Example:
        >>> calibration = calibrate(nn.Linear(3, 2), [torch.ones(4, 3), torch.ones(4, 3)])
        >>> calibration.inputs["weight"].shape
        torch.Size([1, 3, 3])
    """
    check_batches(batches)
    progress = progress or Progress()
    weights = Weights(model.named_parameters())
    if not weights.parameters:
        raise InputError("calibrate: expected a model with weights of two dimensions or more, found none")
    sums, found = SharedSums(), Gradients(weights, loss, seed) if gradients else None
    samples = 0
    progress.begin("calibrating")
    with still(model), found.of_weights(model) if found else torch.no_grad():
        for index, batch in enumerate(islice(batches, limit)):
            is_token = token_mask(batch, index)
            listener = sums.listener(is_token)
            with Observation(weights, found.listener(listener) if found else listener):
                output = run(model, batch, index)
            if found:
                found.take(output, is_token)
            samples += sample_count(batch)
            progress.advance(batch_bytes(batch), 0)
    if samples == 0:
        raise InputError("calibrate: expected at least one batch of samples, found none")
    return _result(weights, sums, found, samples)


def check_batches(batches: Iterable[Any]) -> None:
    """Raise InputError for one batch in the place of several, which would be taken apart."""
    if isinstance(batches, Tensor | Mapping):
        raise InputError(f"batches: expected several, such as [batch], found one {type(batches).__name__}")


def report_missing(names: Iterable[str], where: str) -> None:
    """Say which weights are left out."""
    missing = list(names)
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN])
        more = f" and {len(missing) - _NAMES_SHOWN} more" if len(missing) > _NAMES_SHOWN else ""
        _log.warning("%s: expected every weight to multiply inputs, found none for %s%s", where, shown, more)


def _result(weights: Weights, sums: SharedSums, found: Gradients | None, samples: int) -> Calibration:
    views = {name: view for name, view in sums.sharing.views.items() if name not in weights.used_differently}
    missing = tuple(name for name in weights.parameters if name not in views)
    if not views:
        raise InputError("calibrate: expected a model that multiplies inputs by its weights, found none that does")
    report_missing(missing, "calibrate")
    moments = {owner: (entry.products / samples).float().cpu() for owner, entry in sums.sums.items()}
    owners = sums.sharing.owners
    inputs = {name: moments[owners[name]] for name in views if name in owners}
    counts = {name: sums.counts[name] for name in views if name in sums.counts}
    lookups = {
        name: (found.lookups(views[name]) if found else torch.eye(views[name].columns) * total.sum()).float()[None]
        / samples
        for name, total in counts.items()
    }
    predicted = {name: found.expected(views[name]) for name in counts} if found else {}
    expected = {name: total.float() for name, total in predicted.items() if total is not None}
    positions = {name: sums.positions(name) for name in views}
    shares = {owner: torch.tensor(entry.unseen) for owner, entry in sums.sums.items()}
    ratios = {owner: torch.tensor(entry.optimism) for owner, entry in sums.sums.items()}
    unseen = {name: shares[owners[name]] for name in inputs}
    optimism = {name: ratios[owners[name]] for name in inputs}
    rows = {
        name: found.rows(view, sums) if found else torch.ones(view.groups * view.rows) for name, view in views.items()
    }
    return Calibration(views, inputs, rows, counts, lookups, expected, positions, unseen, optimism, samples, missing)
