"""The drawn sets of the benchmark: their images, labels and captions, and German names."""

from __future__ import annotations

from random import Random

from PIL import Image

from align_train.demo.draw import draw
from align_train.demo.phrases import clean_caption
from align_train.demo.scene import COLOURS, SHAPES, Scene, class_names, sample_scene

SIDE = 54
PROMPTS = ["a photo of a {c}", "a {c}", "stock image of a {c}, {c}"]

# By CLIP_benchmark's names, from which its command guesses the task of retrieval.
NAMED = "cifar10"
SETS = {
    NAMED: "classification",
    "vtab/three": "classification",
    "voc2007_multilabel": "multilabel",
    "flickr8k": "retrieval",
}

LANGUAGE = "de"
GERMAN_COLOURS = ("rot", "orange", "gelb", "grün", "blau", "lila", "weiß", "schwarz")
CLASSES = 10
GERMAN_PROMPTS = ["ein Bild von {c}", "{c}"]

IMAGES = 400  # images of a set


def label_of(index: int) -> int:
    """The demo's class for class `index` of a set: another colour, or another shape.

    No two of them are alike: of equal classes CLIP_benchmark leaves to chance which it finds.
    """
    return index * 7 % 64


def german(index: int) -> str:
    """The name of class `index`, its colour in German."""
    label = label_of(index)
    return f"{GERMAN_COLOURS[label // 8]} {SHAPES[label % 8]}"


def scene(index: int, label: int) -> Scene:
    """The scene of image `index`."""
    return sample_scene(Random(index), label=label)


def names(classes: int) -> list[str]:
    """The names of a set's classes."""
    return [class_names()[label_of(index)] for index in range(classes)]


def classified(classes: int) -> list[tuple[Image.Image, int]]:
    """Images with the number of their class; some classes have more than others."""
    rows = []
    for index in range(IMAGES):
        label = index * index % 17 % classes
        rows.append((draw(scene(index, label_of(label)), SIDE), label))
    return rows


def with_colours() -> list[tuple[Image.Image, list[int]]]:
    """Images with two labels each, as zeros and ones: their colour, and their shape."""
    rows = []
    for index in range(IMAGES):
        label = index * 7 % 64
        vector = [0] * len(COLOURS + SHAPES)
        vector[label // 8] = 1
        vector[len(COLOURS) + label % 8] = 1
        rows.append((draw(scene(index, label), SIDE), vector))
    return rows


def captioned() -> list[tuple[Image.Image, list[str]]]:
    """Images with five captions each, no two alike, for the same reason."""
    rows = []
    for index in range(IMAGES):
        drawn = scene(index, index * 5 % 64)
        captions = []
        for place in range(5):
            captions.append(f"{clean_caption(drawn, Random(place))}, {index} {place}")
        rows.append((draw(drawn, SIDE), captions))
    return rows
