"""The demo's pictures: a coloured shape, or two or three alike, on a textured background, drawn from a description.

What: 8 colours x 8 shapes = 64 classes. A `Scene` says everything about a picture in fractions of its side, so one scene can
be drawn at any size and captioned in words (`phrases.py`). Objects are 16-40 % of the side in radius (of the circle around
them), turned a little, anywhere in the picture; their colour varies in hue and brightness, and no two backgrounds are alike.

How: `sample_scene` draws a scene from the standard library's `random.Random`, whose numbers do not change between versions.
A background is one field of numbers in [0, 1] that mixes two muted colours; the objects are polygons in a mask drawn at
three times the size and averaged down, which smooths their edges.

Cost: about 0.3 ms a picture at 64 px on one core, 0.02 ms of it for the scene.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Range = tuple[float, float]
Field = NDArray[np.float32]
Point = tuple[float, float]

# Hue in degrees, saturation, value. Orange and yellow stay bright: dark orange is brown, dark yellow olive.
_COLOURS: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-6, 5), (0.85, 1.0), (0.65, 0.95)),
    "orange": ((25, 33), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((52, 60), (0.75, 1.0), (0.88, 1.0)),
    "green": ((108, 145), (0.6, 1.0), (0.42, 0.8)),
    "blue": ((210, 232), (0.7, 1.0), (0.6, 1.0)),
    "purple": ((272, 290), (0.6, 0.95), (0.5, 0.85)),
    "white": ((0, 360), (0.0, 0.05), (0.94, 1.0)),
    "black": ((0, 360), (0.0, 0.4), (0.0, 0.12)),
}
_BACKGROUND: tuple[Range, Range, Range] = ((0, 360), (0.0, 0.3), (0.35, 0.8))

COLOURS: tuple[str, ...] = tuple(_COLOURS)
SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "ring",
    "crescent",
)
TEXTURES: tuple[str, ...] = ("noise", "stripes", "checks", "gradient", "blobs", "dots")

# For each class, which colour and which shape it is.
ATTRIBUTES: dict[str, list[int]] = {
    "colour": [colour for colour in range(len(COLOURS)) for _ in SHAPES],
    "shape": [shape for _ in COLOURS for shape in range(len(SHAPES))],
}

SMALLEST, LARGEST = 0.16, 0.40  # radius of an object, in sides of the picture
_LARGEST_OF = {
    1: LARGEST,
    2: 0.24,
    3: 0.20,
}  # by how many there are, so that they fit without touching
_COUNT_WEIGHTS = {1: 0.8, 2: 0.14, 3: 0.06}
_GAP = 1.05  # between the circles around two objects
_TURN = math.radians(15)
_TRIES = 30
_OVERSAMPLE = 3


@dataclass(frozen=True)
class Background:
    """Two muted colours and the texture that mixes them; cells: how many of its periods fit into a side."""

    texture: str
    first: Colour
    second: Colour
    cells: float
    angle: float
    phase: float
    grain: float
    seed: int


@dataclass(frozen=True)
class Item:
    """One object: centre and radius in sides of the picture (x to the right, y down), turned clockwise in radians."""

    x: float
    y: float
    radius: float
    turn: float


@dataclass(frozen=True)
class Scene:
    """All there is to know about a picture. The objects are alike in colour and shape and differ in place and size."""

    colour: str
    shape: str
    fill: Colour
    items: tuple[Item, ...]
    background: Background

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def label(self) -> int:
        """The number of the scene's class in `class_names()`."""
        return COLOURS.index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)


def class_names() -> list[str]:
    """`red circle`, `red square`, …: class c is colour c // 8 and shape c % 8."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def sample_scene(random: Random, *, label: int | None = None) -> Scene:
    """A scene; of the class `label` where given, else of one drawn uniformly."""
    if label is None:
        label = random.randrange(len(COLOURS) * len(SHAPES))
    colour, shape = COLOURS[label // len(SHAPES)], SHAPES[label % len(SHAPES)]
    count = random.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))[0]
    return Scene(
        colour=colour,
        shape=shape,
        fill=_sample_colour(random, *_COLOURS[colour]),
        items=_place(random, count),
        background=_sample_background(random),
    )


def draw(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB picture of size x size pixels; the same scene always gives the same pixels."""
    background = scene.background
    random = Random(background.seed)
    mix = _field(background, size, random)[..., None]
    first, second = np.array(background.first, np.float32), np.array(background.second, np.float32)
    pixels = first + (second - first) * mix
    pixels += (np.array(scene.fill, np.float32) - pixels) * _mask(scene, size)[..., None]
    grain = np.frombuffer(random.randbytes(size * size), np.uint8).reshape(size, size, 1)
    pixels += (grain.astype(np.float32) - 127.5) * np.float32(background.grain / 127.5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _sample_colour(random: Random, hue: Range, saturation: Range, value: Range) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(
        random.uniform(*hue) / 360 % 1.0, random.uniform(*saturation), random.uniform(*value)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _sample_background(random: Random) -> Background:
    return Background(
        texture=random.choice(TEXTURES),
        first=_sample_colour(random, *_BACKGROUND),
        second=_sample_colour(random, *_BACKGROUND),
        cells=random.uniform(3.0, 9.0),
        angle=random.uniform(0, math.pi),
        phase=random.random(),
        grain=random.uniform(0, 12),
        seed=random.getrandbits(32),
    )


def _place(random: Random, count: int) -> tuple[Item, ...]:
    """Up to `count` objects that lie within the picture and do not touch: fewer where no free place was found."""
    items: list[Item] = []
    for _ in range(count):
        for _ in range(_TRIES):
            radius = random.uniform(SMALLEST, _LARGEST_OF[count])
            x, y = random.uniform(radius, 1 - radius), random.uniform(radius, 1 - radius)
            if all(
                math.hypot(x - other.x, y - other.y) > _GAP * (radius + other.radius)
                for other in items
            ):
                items.append(Item(x, y, radius, random.uniform(-_TURN, _TURN)))
                break
    return tuple(items)


def _field(background: Background, size: int, random: Random) -> Field:
    """The texture as numbers in [0, 1], `[size, size]`."""
    cells = background.cells
    if background.texture == "noise":
        return _clouds(random, round(2 * cells) + 2, size)
    if background.texture == "blobs":
        return _step(3 * (_clouds(random, round(cells) + 1, size) - 0.5), size, cells)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    cosine, sine = math.cos(background.angle), math.sin(background.angle)
    along = axis[None, :] * cosine + axis[:, None] * sine
    if background.texture == "gradient":
        return (along / (abs(cosine) + abs(sine)) + 0.5).astype(np.float32)
    across = axis[:, None] * cosine - axis[None, :] * sine
    turns = 2 * math.pi
    along_wave = np.sin(turns * (cells * along + background.phase))
    if background.texture == "stripes":
        return _step(along_wave, size, cells)
    across_wave = np.sin(turns * (cells * across + background.phase))
    if background.texture == "checks":
        return _step(along_wave * across_wave, size, cells)
    assert background.texture == "dots"
    return _step(along_wave + across_wave - 1, size, cells)


def _clouds(random: Random, cells: int, size: int) -> Field:
    """Smooth noise: a grid of cells x cells random numbers, enlarged."""
    grid = Image.frombytes("L", (cells, cells), random.randbytes(cells * cells))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32) / np.float32(
        255
    )


def _step(wave: Field, size: int, cells: float) -> Field:
    """0 where the wave is negative, 1 where it is positive, with an edge about one pixel wide instead of jagged."""
    slope = size / (2 * math.pi * cells)
    return (0.5 + slope * wave).clip(0, 1).astype(np.float32)


def _mask(scene: Scene, size: int) -> Field:
    """How much of each pixel the objects cover, `[size, size]` in [0, 1]."""
    large = size * _OVERSAMPLE
    mask = Image.new("L", (large, large))
    pen = ImageDraw.Draw(mask)
    for item in scene.items:
        cosine, sine = (
            math.cos(item.turn) * item.radius * large,
            math.sin(item.turn) * item.radius * large,
        )
        for outline, ink in _OUTLINES[scene.shape]:
            pen.polygon(
                [
                    (item.x * large + x * cosine - y * sine, item.y * large + x * sine + y * cosine)
                    for x, y in outline
                ],
                fill=ink,
            )
    return np.asarray(mask.reduce(_OVERSAMPLE), np.float32) / np.float32(255)


def _arc(
    radius: float, start: float, end: float, *, x: float = 0.0, points: int = 40
) -> list[Point]:
    """Points on a circle around (x, 0), from one angle to another in degrees."""
    angles = (math.radians(start + (end - start) * step / (points - 1)) for step in range(points))
    return [(x + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _crescent(*, bite: float = 0.8, offset: float = 0.45) -> list[Point]:
    """The unit disc without a smaller one to its right: along the outer circle, back along the inner."""
    x = (1 - bite**2 + offset**2) / (2 * offset)  # where the two circles meet
    outer, inner = math.degrees(math.acos(x)), math.degrees(math.acos((x - offset) / bite))
    return _arc(1, outer, 360 - outer) + _arc(bite, 360 - inner, inner, x=offset)


def _heart() -> list[Point]:
    """The curve x = 16 sin³ t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, centred, in the unit circle."""
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3 * 16 / 17, (-y - 2) / 17))
    longest = max(math.hypot(x, y) for x, y in points)
    return [(x / longest, y / longest) for x, y in points]


def _cross(*, arm: float = 0.3) -> list[Point]:
    tip = math.sqrt(1 - arm**2)
    quarter = [(tip, -arm), (tip, arm), (arm, arm)]
    return (
        quarter
        + [(-y, x) for x, y in quarter]
        + [(-x, -y) for x, y in quarter]
        + [(y, -x) for x, y in quarter]
    )


def _corners(number: int, *, first: float, inner: float | None = None) -> list[Point]:
    """A regular polygon in the unit circle, its first corner at `first` degrees; a star where `inner` is given."""
    if inner is None:
        return [_arc(1, first + 360 / number * corner, 0, points=2)[0] for corner in range(number)]
    radii = (1.0, inner)
    return [
        _arc(radii[corner % 2], first + 180 / number * corner, 0, points=2)[0]
        for corner in range(2 * number)
    ]


# Each shape in the unit circle, as outlines and their ink: 255 draws, 0 cuts out.
_OUTLINES: dict[str, list[tuple[list[Point], int]]] = {
    "circle": [(_arc(1, 0, 360), 255)],
    "square": [(_corners(4, first=45), 255)],
    "triangle": [(_corners(3, first=-90), 255)],
    "star": [(_corners(5, first=-90, inner=0.42), 255)],
    "cross": [(_cross(), 255)],
    "heart": [(_heart(), 255)],
    "ring": [(_arc(1, 0, 360), 255), (_arc(0.58, 0, 360), 0)],
    "crescent": [(_crescent(), 255)],
}
