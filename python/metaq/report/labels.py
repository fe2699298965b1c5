"""Labels of a plot's points, put where they cover neither points nor each other, as far as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from metaq.report.drawing import MUTED
from metaq.report.printable import printable

_MARK_POINTS = 4.0  # half the width of what a mark covers, in typographical points
_FONT_POINTS = 8.5
_MOST_CHARACTERS = 40
_OUTSIDE = 10  # how much worse it is to lie outside the plot than on something
_RINGS = 6  # how many distances from its point a label is tried at
_NEAR_POINTS = 5.0  # the least of them
_FAR_POINTS = 11.0  # what each is more than the one before
_LEAD_POINTS = 12.0  # from this distance on a line leads from the label to its point


@dataclass(frozen=True)
class Label:
    """A text for a point in the plot's own coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(
    axes: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]], texts: Sequence[Text]
) -> None:
    """Draw the labels; the plot's limits and all else that takes room in it must be there.

    Args:
        labels: from the one that is to be placed first to the one that takes the room that is left.
        points: what labels should not cover.
        texts: of the plot, which they should not cover either.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes of a plot are in a figure"
    figure.draw_without_rendering()  # so that the axes have their place
    pixels = figure.dpi / 72
    centres = np.array([axes.transData.transform(point) for point in points]).reshape(-1, 2)
    marks = _around(centres, np.full(2, _MARK_POINTS * pixels))
    boxes = np.concatenate([marks, *(np.array([text.get_window_extent().extents]) for text in texts)])
    for label in labels:
        half = _half_size(axes, label)
        offsets = pixels * _offsets(half / pixels)
        places = _around(axes.transData.transform((label.x, label.y)) + offsets, half)
        costs = _costs(places, boxes, np.array([axes.bbox.extents]))
        best = int(np.argmin(costs))  # of those that cost the same, the nearest
        boxes = np.concatenate([boxes, places[best : best + 1]])
        is_far = (np.abs(offsets[best]) - half).max() > _LEAD_POINTS * pixels
        lead = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3} if is_far else None
        axes.annotate(xy=(label.x, label.y), xytext=tuple(offsets[best] / pixels), arrowprops=lead, **_look(label))


def _half_size(axes: Axes, label: Label) -> np.ndarray:
    """Half the width and half the height of a label, in pixels."""
    note = axes.annotate(xy=(label.x, label.y), xytext=(0, 0), **_look(label))
    box = note.get_window_extent()
    note.remove()
    return np.array([box.width, box.height]) / 2


def _look(label: Label) -> dict[str, Any]:
    text = printable(label.text)
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\N{HORIZONTAL ELLIPSIS}"
    places = {"textcoords": "offset points", "ha": "center", "va": "center"}
    return {"text": text, "parse_math": False, "color": label.color, "fontsize": _FONT_POINTS, **places}


def _offsets(half: np.ndarray) -> np.ndarray:
    """Where the middle of a label of that half size may lie from its point, nearest first: (n, 2), in points."""
    offsets = []
    for ring in range(_RINGS):
        right, up = half + _NEAR_POINTS + ring * _FAR_POINTS
        offsets += [(right, 0), (-right, 0), (0, up), (0, -up)]
        offsets += [(across, down) for down in (up, -up) for across in (half[0], -half[0], right, -right)]
    return np.array(offsets)


def _around(centres: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Boxes of one half size: (n, 4), left, lower, right and upper edges."""
    return np.concatenate([centres - half, centres + half], axis=1)


def _costs(places: np.ndarray, boxes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Of each place, how much of it lies on boxes, or outside of the room, in square pixels."""
    areas = _common_areas(places, places).diagonal()
    outside = areas - _common_areas(places, room)[:, 0]
    costs: np.ndarray = _common_areas(places, boxes).sum(axis=1) + _OUTSIDE * outside
    return costs


def _common_areas(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m), of each of some boxes with each of others."""
    lower = np.maximum(some[:, None, :2], others[None, :, :2])
    upper = np.minimum(some[:, None, 2:], others[None, :, 2:])
    areas: np.ndarray = np.clip(upper - lower, 0, None).prod(axis=2)
    return areas
