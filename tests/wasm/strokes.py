"""How a pen would draw a picture of a digit: along the middle of its lines."""

import numpy as np

# The eight neighbours of a pixel, around it.
AROUND = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]


def thinned(ink):
    """The middle of lines, a pixel wide, by Zhang and Suen, "A fast parallel algorithm for thinning ..." (1984)."""
    ink = np.pad(ink, 1).astype(int)
    while True:
        before = ink.copy()
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            near = np.stack([np.roll(ink, (-y, -x), (0, 1)) for y, x in AROUND])
            count = near.sum(0)
            crossings = ((near == 0) & (np.roll(near, -1, 0) == 1)).sum(0)
            is_open = (near[list(first)].prod(0) == 0) & (near[list(second)].prod(0) == 0)
            ink[(ink == 1) & (count >= 2) & (count <= 6) & (crossings == 1) & is_open] = 0
        if np.array_equal(ink, before):
            return ink[1:-1, 1:-1].astype(bool)


def strokes_of(image):
    """Lists of points (row, column) of a picture of bytes; each begins at a line drawn before, if it touches one."""
    left = {(int(y), int(x)) for y, x in np.argwhere(thinned(image > 100))}
    drawn = set()
    strokes = []
    while left:

        def neighbours(point, among):
            return [step for y, x in AROUND if (step := (point[0] + y, point[1] + x)) in among]

        def is_start(point):
            return len(neighbours(point, left)) != 1, point

        point = min(left, key=is_start)
        stroke = neighbours(point, drawn)[:1]
        while point is not None:
            left.discard(point)
            drawn.add(point)
            stroke.append(point)
            ahead = neighbours(point, left)
            point = ahead[0] if ahead else None
        stroke += neighbours(stroke[-1], drawn - set(stroke[-3:]))[:1]
        strokes.append(stroke)
    return strokes
