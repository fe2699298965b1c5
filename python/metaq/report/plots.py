"""The plots of runs and sweeps, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from torch import Tensor

from metaq.report.drawing import AFTER, BEFORE, INK, MUTED, SECOND, label_powers, render

Epoch = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""

_CURVE_INCHES, _HISTOGRAM_INCHES, _TRADE_INCHES = (4.2, 2.8), (3.4, 2.1), (8.4, 4.2)
_BINS = 61  # odd, so that one bin lies around the middle
_MOST_STEMS = 64  # levels up to which each is drawn on its own
_FLOOR = 0.5  # lower end of the counts' logarithmic axis: a single weight still shows
_FEW_EPOCHS = 30  # up to which each has a mark of its own


def loss_curves(epochs: Sequence[Epoch]) -> str:
    """Training and validation loss in nats over the epochs of both stages, on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        for key, color, label in (("loss", AFTER, "training"), ("validation_loss", SECOND, "validation")):
            losses = np.array([epoch[key] for epoch in epochs], np.float64)
            _plot(axes, np.where(losses > 0, losses, np.nan), color, label)  # what has no logarithm leaves a gap
        label_powers(axes.yaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:.3g}")
        axes.set_ylabel("cross-entropy (nats, log scale)")
        axes.legend()
        _mark_stages(axes, epochs)

    first, last = epochs[0]["validation_loss"], epochs[-1]["validation_loss"]
    return render(draw, _CURVE_INCHES, f"Loss over the epochs: validation from {first:.3g} to {last:.3g} nats.")


def accuracy_curve(epochs: Sequence[Epoch], chosen: int) -> str:
    """Top-1 accuracy on the validation split over the epochs; ``chosen`` is the position of the file's epoch."""
    accuracies = [epoch["validation_accuracy"] for epoch in epochs]

    def draw(axes: Axes) -> None:
        _plot(axes, accuracies, SECOND)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylabel("validation top-1 (%)")
        _mark_chosen(axes, chosen, accuracies[chosen], f"{accuracies[chosen]:.2%}")
        _mark_stages(axes, epochs)

    return render(draw, _CURVE_INCHES, f"Validation accuracy over the epochs: {accuracies[chosen]:.2%} in the file's.")


def size_curve(epochs: Sequence[Epoch], chosen: int, float_bytes: int) -> str:
    """Size of the file that each epoch would give, in bytes on a logarithmic axis, beside the float32 weights' size."""
    sizes = [epoch.get("file_bytes", np.nan) for epoch in epochs]

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.axhline(float_bytes, color=MUTED, linestyle="--", linewidth=1)
        where = axes.get_yaxis_transform()  # from the left edge to the right, and bytes
        axes.text(1, float_bytes / 1.1, f"float32: {float_bytes:,}", ha="right", va="top", transform=where)
        _plot(axes, sizes, AFTER)
        label_powers(axes.yaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:,.0f}")
        axes.set_ylabel("file size (bytes, log scale)")
        _mark_chosen(axes, chosen, sizes[chosen], f"{sizes[chosen]:,}")
        _mark_stages(axes, epochs)

    return render(draw, _CURVE_INCHES, f"File size over the epochs: {sizes[chosen]:,} bytes in the file's.")


def pareto_front(trials: Sequence[Mapping[str, Any]], chosen: int | None) -> str:
    """File size in bytes, on a logarithmic axis, against held-out error: a sweep's trials, and their front as a line.

    Args:
        trials: rows of ``sweep.json``; those without bytes are left out.
        chosen: the number of the trial to draw a ring around.
    """
    drawn = [trial for trial in trials if trial["file_bytes"] is not None]
    front = sorted((t for t in drawn if t["is_on_front"]), key=lambda t: t["file_bytes"])

    def points(state: str) -> tuple[list[int], list[float]]:
        of_state = [t for t in drawn if t["state"] == state]
        return [t["file_bytes"] for t in of_state], [t["held_out_error"] for t in of_state]

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.plot(*points("pruned"), "x", color=BEFORE, markersize=5, label="pruned, at its last epoch")
        axes.plot(*points("finished"), "o", color=BEFORE, markersize=5, label="finished")
        sizes, errors = [t["file_bytes"] for t in front], [t["held_out_error"] for t in front]
        axes.plot(sizes, errors, "o-", color=AFTER, markersize=5, linewidth=1.5, drawstyle="steps-post", label="front")
        for trial in front:
            where = trial["file_bytes"], trial["held_out_error"]
            axes.annotate(str(trial["trial"]), where, (4, 4), textcoords="offset points")
            if trial["trial"] == chosen:
                axes.plot(*where, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, label="chosen")
        label_powers(axes.xaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.margins(0.08)
        axes.set_xlabel("file size (bytes, log scale)")
        axes.set_ylabel("held-out error (%)")
        axes.legend()

    return render(
        draw, _TRADE_INCHES, f"File size against held-out error of {len(drawn)} trials, {len(front)} on the front."
    )


def weight_histogram(name: str, before: Tensor, after: Tensor) -> str:
    """One tensor's weights: the float network's in bins, the file's level by level, on a logarithmic axis of counts.

    Args:
        before, after: floating point, any shape, the same number of weights, at least one.
    """
    weights, quantized = (part.to(torch.float64).reshape(-1).numpy() for part in (before, after))
    levels, counts = np.unique(quantized, return_counts=True)
    edges = np.histogram_bin_edges(np.concatenate([weights, levels]), _BINS)
    binned = np.histogram(weights, edges)[0]

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.stairs(np.maximum(binned, _FLOOR), edges, baseline=_FLOOR, fill=True, color=BEFORE)
        if levels.size <= _MOST_STEMS:
            # One line with gaps, since a line for each level would make the page large.
            gaps = np.full_like(levels, np.nan)
            heights = np.stack([np.full_like(levels, _FLOOR), counts, gaps], axis=1)
            positions = np.stack([levels, levels, gaps], axis=1)
            axes.plot(positions.ravel(), heights.ravel(), color=AFTER, linewidth=2, solid_capstyle="butt")
        else:
            heights = np.maximum(np.histogram(quantized, edges)[0], _FLOOR)
            axes.stairs(heights, edges, baseline=None, color=AFTER, linewidth=1.5)
        axes.set_ylim(_FLOOR, max(10, 2 * binned.max(), 2 * counts.max()))
        label_powers(axes.yaxis, LogLocator(numticks=5), lambda value: f"{value:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("weight")
        axes.set_ylabel("count (log scale)")

    label = f"Weights of {name}: before, from {weights.min():.3g} to {weights.max():.3g};"
    label += f" after, on {levels.size} levels from {levels[0]:.3g} to {levels[-1]:.3g}."
    return render(draw, _HISTOGRAM_INCHES, label)


def _plot(axes: Axes, values: Sequence[float] | np.ndarray, color: str, label: str | None = None) -> None:
    """A curve over epochs counted from 1."""
    marker = "o" if len(values) <= _FEW_EPOCHS else None
    axes.plot(range(1, len(values) + 1), values, color=color, label=label, marker=marker, markersize=3, linewidth=1.5)


def _mark_chosen(axes: Axes, chosen: int, value: float, text: str) -> None:
    """A ring around the epoch whose weights are the file's, with its value."""
    axes.plot([chosen + 1], [value], "o", markersize=8, markerfacecolor="none", markeredgecolor=INK)
    axes.annotate(text, (chosen + 1, value), (0, 9), textcoords="offset points", ha="right", va="bottom")


def _mark_stages(axes: Axes, epochs: Sequence[Epoch]) -> None:
    """The line between the float stage and the compressing one, and the axis that both share."""
    boundary = sum(epoch["stage"] == "float" for epoch in epochs) + 0.5
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.margins(y=0.1)
    axes.axvline(boundary, color=MUTED, linewidth=1)
    where = axes.get_xaxis_transform()  # epochs, and from the bottom to the top
    axes.text(boundary, 1.01, "float\N{NO-BREAK SPACE}", color=MUTED, ha="right", va="bottom", transform=where)
    axes.text(boundary, 1.01, "\N{NO-BREAK SPACE}compress", color=MUTED, ha="left", va="bottom", transform=where)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch, both stages counted")
