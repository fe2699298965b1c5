"""Labels of points that lie close together."""

from itertools import combinations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from metaq.report.labels import Label, place_labels

CLOSE = [(0.5 + 0.01 * number, 0.5 + 0.01 * (number % 2)) for number in range(6)]


def placed(points, texts, taken=None):
    """The axes, with a text in a place that is taken, and the boxes of all texts without their lines, in pixels."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    labels = [Label(*point, text, "#000000") for point, text in zip(points, texts, strict=True)]
    place_labels(axes, labels, points, [axes.text(*taken, "some text")] if taken else [])
    figure.draw_without_rendering()
    return axes, [Text.get_window_extent(note) for note in axes.texts]


def test_labels_of_close_points_cover_neither_each_other_nor_points():
    axes, boxes = placed(CLOSE, [f"name-of-point-{number}" for number in range(6)])
    assert len(boxes) == 6
    for one, other in combinations(boxes, 2):
        assert Bbox.intersection(one, other) is None
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(point)) for point in CLOSE)
    assert any(note.arrow_patch for note in axes.texts)  # what is far has a line that leads to its point
    assert not axes.texts[0].arrow_patch


@pytest.mark.parametrize("point", [(0, 0), (1, 1), (0, 1), (1, 0), (0.99, 0.5)])
def test_labels_lie_within_the_plot(point):
    axes, (box,) = placed([point], ["a name of some length"])
    room = axes.bbox
    assert room.x0 <= box.x0 < box.x1 <= room.x1
    assert room.y0 <= box.y0 < box.y1 <= room.y1


def test_what_is_taken_stays_free():
    _, (text, box) = placed([(0.5, 0.5)], ["name"], (0.5, 0.5))
    assert Bbox.intersection(text, box) is None
    _, (free,) = placed([(0.5, 0.5)], ["name"])
    assert Bbox.intersection(text, free) is not None


def test_texts_are_shown_as_they_are():
    axes, _ = placed([(0.5, 0.5), (0.2, 0.2)], ["$x^{$ \x1b[31m", "y" * 100])
    assert [note.get_text() for note in axes.texts] == [r"$x^{$ \x1b[31m", "y" * 40 + "\N{HORIZONTAL ELLIPSIS}"]


def test_more_points_than_there_is_room_for():
    axes, _ = placed([(0.5, 0.5)] * 25, ["name"] * 25)
    assert len(axes.texts) == 25
