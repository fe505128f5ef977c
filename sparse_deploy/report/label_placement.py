# SPDX-License-Identifier: Apache-2.0
"""Places labels near points without overlaps: each label takes the cheapest of fixed positions, in a few rounds."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase

from sparse_deploy.report.svg import FAINT, INK

_FONT_SIZE = 9.0
_MARKER_SIZE = 16.0  # pixels kept free around a point
_DIRECTIONS = tuple(math.radians(degrees) for degrees in (90, 270, 0, 180, 45, 135, 315, 225, 70, 110, 250, 290))
_DISTANCES = (14.0, 28.0, 44.0, 62.0, 84.0)  # pixels from the point to the label's nearest edge
_LEADER_FROM = 20.0
_LEADER_STEPS = 8
_ROUNDS = 3  # more rounds rarely change a position


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Self:
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def overlap(self, other: "_Box") -> float:
        """Shared area in square pixels."""
        if self.right <= other.left or other.right <= self.left or self.top <= other.bottom or other.top <= self.bottom:
            return 0.0  # the usual case
        width = min(self.right, other.right) - max(self.left, other.left)
        return width * (min(self.top, other.top) - max(self.bottom, other.bottom))

    def outside(self, frame: "_Box") -> float:
        """Area outside ``frame``, in square pixels."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


class _Place(NamedTuple):
    """A possible position of a label, and the line to its point as small boxes (none if it is close)."""

    label: _Box
    distance: float
    leader: tuple[_Box, ...]

    @property
    def boxes(self) -> tuple[_Box, ...]:
        return (self.label, *self.leader)


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]], avoid: Iterable[Artist] = ()
) -> None:
    """Write each label near its point, at the position with the smallest overlap with labels, points and the frame.

    Args:
        figure: the figure, complete except for these labels.
        axes: axes of the points, with final limits.
        labels: text and data coordinates of each point.
        avoid: artists that no label should cover.
    """
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = _Box(*axes.get_window_extent(renderer).extents)
    anchors = [(float(x), float(y)) for x, y in (axes.transData.transform(label[1:]) for label in labels)]
    fixed = [_padded(artist.get_window_extent(renderer)) for artist in avoid]
    points = [_Box.around(x, y, _MARKER_SIZE, _MARKER_SIZE) for x, y in anchors]
    choices = [
        _places(*anchor, *_text_size(axes, renderer, text))
        for (text, _, _), anchor in zip(labels, anchors, strict=True)
    ]
    settled = _settle(choices, points, fixed, frame)
    for (text, x, y), anchor, place in zip(labels, anchors, settled, strict=True):
        _write(figure, axes, text, (x, y), anchor, place)


def _settle(
    choices: Sequence[Sequence[_Place]], points: Sequence[_Box], fixed: Sequence[_Box], frame: _Box
) -> list[_Place]:
    """Move each label to its cheapest position, given all other labels, for a few rounds."""
    chosen: list[_Place | None] = [None] * len(choices)
    for _ in range(_ROUNDS):
        for index, places in enumerate(choices):
            others = [box for i, place in enumerate(chosen) if place and i != index for box in place.boxes]
            foreign = [point for i, point in enumerate(points) if i != index]
            chosen[index] = min(places, key=lambda place: _cost(place, points, foreign, [*others, *fixed], frame))
    return [place for place in chosen if place]


def _cost(place: _Place, points: Sequence[_Box], foreign: Sequence[_Box], taken: Sequence[_Box], frame: _Box) -> float:
    covered = sum(place.label.overlap(box) for box in (*points, *taken))
    # A leader over another point or label is as misleading as a covered label.
    crossed = sum(part.overlap(box) for part in place.leader for box in (*foreign, *taken))
    return 4 * covered + 4 * crossed + 4 * place.label.outside(frame) + place.distance / 10


def _places(x: float, y: float, width: float, height: float) -> list[_Place]:
    places = []
    for distance in _DISTANCES:
        for angle in _DIRECTIONS:
            middle_x = x + math.cos(angle) * (distance + width / 2)
            middle_y = y + math.sin(angle) * (distance + height / 2)
            label = _Box.around(middle_x, middle_y, width, height)
            places.append(_Place(label, distance, _leader(x, y, label) if distance > _LEADER_FROM else ()))
    return places


def _leader(x: float, y: float, label: _Box) -> tuple[_Box, ...]:
    end_x, end_y = min(max(x, label.left), label.right), min(max(y, label.bottom), label.top)
    steps = [step / _LEADER_STEPS for step in range(1, _LEADER_STEPS)]
    return tuple(_Box.around(x + (end_x - x) * t, y + (end_y - y) * t, 5, 5) for t in steps)


def _write(
    figure: Figure, axes: Axes, text: str, position: tuple[float, float], anchor: tuple[float, float], place: _Place
) -> None:
    scale = 72.0 / figure.dpi
    middle = place.label.centre
    line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 5}
    axes.annotate(
        text, position, xytext=((middle[0] - anchor[0]) * scale, (middle[1] - anchor[1]) * scale),
        textcoords="offset points", fontsize=_FONT_SIZE, color=INK, ha="center", va="center", zorder=4,
        arrowprops=line if place.leader else None,
    )  # fmt: skip


def _text_size(axes: Axes, renderer: RendererBase, text: str) -> tuple[float, float]:
    note = axes.annotate(text, (0, 0), xycoords="axes fraction", fontsize=_FONT_SIZE)
    extent = note.get_window_extent(renderer)
    note.remove()
    return extent.width + 4, extent.height + 2


def _padded(extent: BboxBase) -> _Box:
    # A horizontal line has no height, so no label would overlap it.
    return _Box(extent.x0 - 2, extent.y0 - 2, extent.x1 + 2, extent.y1 + 2)
