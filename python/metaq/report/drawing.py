"""How plots look: inline SVG in the colours of the page's CSS variables, the same bytes for the same data."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# What matplotlib draws with, and the variables of page.html.j2 that take their place.
INK, MUTED, GRID, BEFORE, AFTER, SECOND = "#1d2430", "#5f6a7a", "#dfe3e9", "#aab4c2", "#1f5fd0", "#c2570c"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BEFORE: "before", AFTER: "after", SECOND: "second"}

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def label_powers(axis: Axis, locator: LogLocator, text: Callable[[float], str]) -> None:
    """Ticks on a logarithmic axis, their values written out."""
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def render(draw: Callable[[Axes], None], inches: tuple[float, float], label: str) -> str:
    """An ``<svg>`` element with ``label`` as its accessible name."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": label})
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(buffer.getvalue(), label)


def _inline(document: str, label: str) -> str:
    """What a page needs of an SVG document: no prologue, its own font and colours, positions to 0.01 points."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r'<style.*?</style>|font-family: [^;]*; | id="[\w.]*_\d+"|<g/>', "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag.group()), svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
