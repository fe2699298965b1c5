"""The breakpoint study as a result and as a plot: how often a random hull has how many vertices."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from metaq.errors import InputError
from metaq.files import write_atomically
from metaq.solvers import breakpoints

try:  # here and not in write_plot, so that a study lacks it before its draws and not after
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    raise InputError(f"complexity: expected module {error.name!r}, found none; pip install 'metaq-nn[train]'") from None

_INCHES = (6.4, 4.0)
_BARS, _MOMENTS, _LIKELIHOOD = "#aab4c2", "#1f5fd0", "#c2570c"


def study(levels: int, draws: int, seed: int) -> dict[str, Any]:
    """Draw ``draws`` random ξ on ``levels`` equally spaced levels and describe the vertices of their hulls.

    Returns:
        A dictionary for JSON: the arguments; ``counts``, how many draws had each N_B from 0 to the largest; ``mean``,
        ``variance`` and ``largest`` N_B; and two fits of a Beta distribution to N_B / C, ``moments`` and
        ``likelihood``, each with ``alpha``, ``beta`` and ``log10_tail``, or null when all draws agree.

    Raises:
        InputError: fewer than two levels, or no draws.
    """
    vertices = breakpoints.draw(levels, draws, seed)
    varies = bool((vertices != vertices[0]).any())
    return {
        "levels": levels,
        "draws": draws,
        "seed": seed,
        "counts": vertices.bincount().tolist(),
        "mean": float(vertices.double().mean()),
        "variance": float(vertices.double().var(correction=0)),
        "largest": int(vertices.max()),
        "moments": asdict(breakpoints.fit_by_moments(vertices, levels)) if varies else None,
        "likelihood": asdict(breakpoints.fit_by_likelihood(vertices, levels)) if varies else None,
    }


def write_plot(result: dict[str, Any], path: Path | str) -> None:
    """Write the histogram of a `study` with its fits to ``path``, as SVG, whole or not at all; same result, same bytes.

    Raises:
        InputError: ``path`` cannot be written.
    """
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "metaq complexity", "font.family": "sans-serif"}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=_INCHES, layout="constrained")
        _draw(figure, result)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    write_atomically(Path(path), buffer.getvalue().encode())


def _draw(figure: Figure, result: dict[str, Any]) -> None:
    axes = figure.add_subplot()
    levels, counts = result["levels"], np.array(result["counts"])
    first, last = int(np.flatnonzero(counts)[0]), len(counts) - 1
    vertices = np.arange(max(first - 1, 0), last + 2)
    axes.bar(np.arange(first, last + 1), counts[first:], color=_BARS, label=f"{result['draws']:,} draws")
    for name, color in (("moments", _MOMENTS), ("likelihood", _LIKELIHOOD)):
        if result[name] is not None:
            fit = breakpoints.BetaFit(**result[name])
            label = f"Beta by {name}: P({levels}) = 10^{fit.log10_tail:,.0f}"
            expected = result["draws"] * fit.probability(vertices, levels)
            axes.plot(vertices, expected, "o-", markersize=3, color=color, label=label)
    axes.set_title(f"Hull vertices of random multipliers, {levels} levels", fontsize=11)
    axes.set_xlabel(f"vertices; mean {result['mean']:.2f}, at most {result['largest']}")
    axes.set_ylabel("draws")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(top=1.4 * counts.max())  # room for the legend
    axes.legend(frameon=False, loc="upper right")
