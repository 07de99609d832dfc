"""The outlines of the demo's shapes, as polygons in the unit circle; y points down."""

from __future__ import annotations

import math

Point = tuple[float, float]

_CURVE_POINTS = 40  # of a circle, or a heart
_DRAWS = 255  # the ink of an outline that is filled
_CUTS_OUT = 0


def _arc(
    radius: float, start: float, end: float, *, x: float = 0.0, points: int = _CURVE_POINTS
) -> list[Point]:
    """Returns points on a circle around (x, 0), from one angle to another in degrees."""
    outline = []
    for step in range(points):
        angle = math.radians(start + (end - start) * step / (points - 1))
        outline.append((x + radius * math.cos(angle), radius * math.sin(angle)))
    return outline


def _at_angle(radius: float, degrees: float) -> Point:
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle)


def _crescent(*, bite: float = 0.8, offset: float = 0.45) -> list[Point]:
    """Returns the unit disc without a smaller one to its right."""
    # The two circles meet at this x. Along the outer circle, and back along the inner one.
    x = (1 - bite**2 + offset**2) / (2 * offset)
    outer = math.degrees(math.acos(x))
    inner = math.degrees(math.acos((x - offset) / bite))
    return _arc(1, outer, 360 - outer) + _arc(bite, 360 - inner, inner, x=offset)


def _heart() -> list[Point]:
    """Returns x = 16 sin³ t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, centred and scaled."""
    points = []
    for step in range(_CURVE_POINTS):
        t = 2 * math.pi * step / _CURVE_POINTS
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3 * 16 / 17, (-y - 2) / 17))

    longest = max(math.hypot(x, y) for x, y in points)
    return [(x / longest, y / longest) for x, y in points]


def _cross(*, arm: float = 0.3) -> list[Point]:
    tip = math.sqrt(1 - arm**2)
    right = [(tip, -arm), (tip, arm), (arm, arm)]
    down = [(-y, x) for x, y in right]
    left = [(-x, -y) for x, y in right]
    up = [(y, -x) for x, y in right]
    return right + down + left + up


def _polygon(corners: int, *, first: float) -> list[Point]:
    """Returns a regular polygon, its first corner at `first` degrees."""
    return [_at_angle(1, first + 360 / corners * corner) for corner in range(corners)]


def _star(points: int, *, first: float, inner: float) -> list[Point]:
    """Returns a star, its first point at `first` degrees; the corners between lie at `inner`."""
    radii = (1.0, inner)
    return [
        _at_angle(radii[corner % 2], first + 180 / points * corner) for corner in range(2 * points)
    ]


# Each shape as outlines and their ink, drawn one after the other.
OUTLINES: dict[str, list[tuple[list[Point], int]]] = {
    "circle": [(_arc(1, 0, 360), _DRAWS)],
    "square": [(_polygon(4, first=45), _DRAWS)],
    "triangle": [(_polygon(3, first=-90), _DRAWS)],
    "star": [(_star(5, first=-90, inner=0.42), _DRAWS)],
    "cross": [(_cross(), _DRAWS)],
    "heart": [(_heart(), _DRAWS)],
    "ring": [(_arc(1, 0, 360), _DRAWS), (_arc(0.58, 0, 360), _CUTS_OUT)],
    "crescent": [(_crescent(), _DRAWS)],
}
