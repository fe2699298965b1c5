"""The plot of a task: size against what its networks are measured by, runs beside published points."""

from __future__ import annotations

import math
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from metaq.report.drawing import AFTER, BEFORE, INK, MUTED, SECOND, label_powers, render
from metaq.report.labels import Label, place_labels
from metaq.report.measures import ACCURACY
from metaq.report.printable import printable
from metaq.report.published import original_remark
from metaq.report.tasks import Task

_INCHES = (8.4, 4.6)
_LEAST_RANGE = 10.0  # of sizes, from the left edge to the right, so that there are ticks between
_SIZE_MARGIN, _MEASURE_MARGIN = 0.12, 0.15  # what is free on each side, as shares of what is not


def size_plot(task: Task) -> str:
    """Bytes on a logarithmic axis against the task's measure, as SVG: runs, published points and the float network."""

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        _set_limits(axes, task)
        float_text = _draw_float(axes, task)
        _draw_points(axes, task)
        label_powers(axes.xaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:,.0f}")
        if task.measure is ACCURACY:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.set_xlabel("file size (bytes, log scale)")
        axes.set_ylabel(task.measure.title)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
        means = [(group.file_bytes.mean, group.after.mean) for group in task.groups]
        place_labels(axes, _labels(task), _points(task) + means, [float_text])

    runs, published = len(task.results), len(task.published)
    what = f"file size against {task.measure.title}, {runs} runs and {published} published points"
    with warnings.catch_warnings():
        # The reader's own font draws the texts; that of matplotlib, which measures them, may lack a character.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        return render(draw, _INCHES, f"{printable(task.title)}: {what}.")


def _points(task: Task) -> list[tuple[float, float]]:
    runs = [(float(result.file_bytes), result.after) for result in task.results]
    return runs + [(float(point.size_bytes), point.accuracy) for point in task.published]


def _set_limits(axes: Axes, task: Task) -> None:
    sizes = [math.log(size_bytes) for size_bytes, _ in _points(task)]
    values = [value for _, value in _points(task)] + [result.before for result in task.results]
    middle, half = (min(sizes) + max(sizes)) / 2, (max(sizes) - min(sizes)) / 2
    half = max(half * (1 + 2 * _SIZE_MARGIN), math.log(_LEAST_RANGE) / 2)
    axes.set_xlim(math.exp(middle - half), math.exp(middle + half))
    margin = _MEASURE_MARGIN * (max(values) - min(values)) or max(0.01 * max(values), 1e-6)
    axes.set_ylim(min(values) - margin, max(values) + margin)


def _draw_float(axes: Axes, task: Task) -> Text:
    """The line of the float networks, or of the best of them and a band to the others; returns its text."""
    values = sorted((result.before for result in task.results), reverse=task.measure.larger_is_better)
    best, worst = values[0], values[-1]
    axes.axhspan(min(best, worst), max(best, worst), color=BEFORE, alpha=0.25, linewidth=0)
    axes.axhline(best, color=MUTED, linestyle="--", linewidth=1)
    measured = task.measure.text(best)
    if best != worst:
        measured = f"{task.measure.text(worst)} to {measured}"
    text = f"float32, {task.results[0].float32_bytes:,} bytes: {measured}"
    where = axes.get_yaxis_transform()  # from the left edge to the right, and the measure
    return axes.annotate(text, (0, best), (4, 3), where, "offset points", color=MUTED, fontsize=8.5)


def _draw_points(axes: Axes, task: Task) -> None:
    if task.published:
        remark = original_remark(task.data)
        label = f"published, {remark}" if remark else "published"
        found = [point.size_bytes for point in task.published], [point.accuracy for point in task.published]
        axes.plot(*found, "D", color=SECOND, markersize=5, label=label)
    runs = [result.file_bytes for result in task.results], [result.after for result in task.results]
    axes.plot(*runs, "o", color=AFTER, markersize=5.5, label="runs of metaq")
    for number, group in enumerate(task.groups):
        size, measured = group.file_bytes, group.after
        legend = "mean of seeds and one deviation" if number == 0 else None
        look: Any = {"fmt": "none", "ecolor": INK, "elinewidth": 1, "capsize": 3, "label": legend}
        axes.errorbar(size.mean, measured.mean, measured.deviation, size.deviation, **look)


def _labels(task: Task) -> list[Label]:
    """Groups of seeds at their means, single runs and published points, from the left to the right."""
    grouped = {id(result) for group in task.groups for result in group.results}
    single = [result for result in task.results if id(result) not in grouped]
    labels = [Label(group.file_bytes.mean, group.after.mean, group.recipe, AFTER) for group in task.groups]
    labels += [Label(result.file_bytes, result.after, result.recipe, AFTER) for result in single]
    labels += [Label(point.size_bytes, point.accuracy, point.method, SECOND) for point in task.published]
    return sorted(labels, key=lambda label: label.x)
