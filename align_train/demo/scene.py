"""What is in the demo's images: a coloured shape, or two or three alike, on a textured background.

8 colours x 8 shapes make 64 classes. A `Scene` says everything about an image, in fractions of its
side. So it can be drawn at any size (`draw.py`), and put into words (`phrases.py`). Objects
have a radius of 16-40 % of the side (of the circle around them), are turned a little, and lie
anywhere in the image. Their colour varies in hue and brightness, and no two backgrounds are alike.

Scenes are drawn from the standard library's `random.Random`, whose numbers do not change between
versions. The order of the draws is part of the demo: with another one all images would change.

Price: 0.02 ms a scene.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from itertools import product
from random import Random

Colour = tuple[int, int, int]
Range = tuple[float, float]

# Hue in degrees, saturation, value. Orange and yellow stay bright: dark orange is brown, dark
# yellow olive.
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
# Muted, so that a background is never taken for an object.
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

_PAIRS = tuple(product(range(len(COLOURS)), range(len(SHAPES))))

# The index of each class's colour, and of its shape.
ATTRIBUTES: dict[str, list[int]] = {
    "colour": [colour for colour, _ in _PAIRS],
    "shape": [shape for _, shape in _PAIRS],
}

SMALLEST = 0.16  # radius of an object, in sides of the image
LARGEST = 0.40
# The largest radius by the number of objects: more would not fit without touching.
_LARGEST_OF = {1: LARGEST, 2: 0.24, 3: 0.20}
_COUNT_WEIGHTS = {1: 0.8, 2: 0.14, 3: 0.06}
_GAP = 1.05  # least distance of two objects' centres, in sums of their radii
_TURN = math.radians(15)
_TRIES = 30  # to place an object, before the scene does without it


@dataclass(frozen=True)
class Background:
    """Two muted colours and the texture that mixes them.

    Attributes:
        texture: One of `TEXTURES`.
        first: RGB.
        second: RGB.
        cells: Periods of the texture that fit into a side.
        angle: The texture's direction in radians.
        phase: In periods.
        grain: Most that noise adds to a pixel, of 255.
        seed: Decides what is random about the pixels.
    """

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
    """One object.

    Attributes:
        x: Its centre, in sides of the image, to the right.
        y: Down.
        radius: In sides of the image.
        turn: Clockwise, in radians.
    """

    x: float
    y: float
    radius: float
    turn: float


@dataclass(frozen=True)
class Scene:
    """Everything about an image. Its objects differ in place and size only.

    Attributes:
        colour: One of `COLOURS`.
        shape: One of `SHAPES`.
        fill: The objects' RGB.
        items: The objects.
        background: What is behind them.
    """

    colour: str
    shape: str
    fill: Colour
    items: tuple[Item, ...]
    background: Background

    @property
    def count(self) -> int:
        """The number of objects."""
        return len(self.items)

    @property
    def label(self) -> int:
        """The index of the scene's class in `class_names()`."""
        return COLOURS.index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)


def class_names() -> list[str]:
    """Returns `red circle`, `red square`, …: class c is colour c // 8 and shape c % 8."""
    return [f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]


def sample_scene(random: Random, *, label: int | None = None) -> Scene:
    """Draws a scene.

    Args:
        random: Decides all of it.
        label: The scene's class; None: any, all alike.
    """
    if label is None:
        label = random.randrange(len(COLOURS) * len(SHAPES))
    colour = COLOURS[label // len(SHAPES)]
    shape = SHAPES[label % len(SHAPES)]

    count = random.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))[0]
    # In this order: see the module's docstring.
    fill = _sample_colour(random, *_COLOURS[colour])
    items = _sample_items(random, count)
    background = _sample_background(random)
    return Scene(colour=colour, shape=shape, fill=fill, items=items, background=background)


def _sample_colour(random: Random, hue: Range, saturation: Range, value: Range) -> Colour:
    # Hues below 0 wrap around: red lies on both sides of 0.
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


def _sample_items(random: Random, count: int) -> tuple[Item, ...]:
    """Places up to `count` objects, apart from each other; fewer if they do not fit."""
    items: list[Item] = []
    for _ in range(count):
        for _ in range(_TRIES):
            radius = random.uniform(SMALLEST, _LARGEST_OF[count])
            x = random.uniform(radius, 1 - radius)
            y = random.uniform(radius, 1 - radius)
            # The turn is drawn only for an object that stays.
            if all(_are_apart(other, x, y, radius) for other in items):
                items.append(Item(x, y, radius, random.uniform(-_TURN, _TURN)))
                break
    return tuple(items)


def _are_apart(other: Item, x: float, y: float, radius: float) -> bool:
    return math.hypot(x - other.x, y - other.y) > _GAP * (radius + other.radius)
