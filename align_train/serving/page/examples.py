"""Images to begin with: some of the collection, or else of the demo, and labels that fit them."""

from __future__ import annotations

from random import Random

import numpy as np

from align_train.demo.draw import draw
from align_train.demo.scene import COLOURS, SHAPES, sample_scene
from align_train.errors import UserError, shown
from align_train.serving.page.picker import Example, image_url, jpeg_url
from align_train.serving.searched import Searched
from align_train.serving.service import Service

_SIDE = 160  # pixels
_SEED = 5
_DRAWN = (
    ("red", "heart"),
    ("blue", "star"),
    ("yellow", "circle"),
    ("green", "cross"),
    ("white", "ring"),
    ("purple", "triangle"),
)
_FEW = 6  # of a collection
_LONGEST = 80  # characters of a caption


def examples_for(service: Service) -> tuple[list[Example], list[str]]:
    """Finds images to begin with.

    Args:
        service: Has the collection, or none.

    Returns:
        The images, and labels that fit them.
    """
    found: list[Example] = []
    if service.searched is not None:
        found = _of_collection(service.searched)
    # A collection's shards may be gone: then none of its images can be shown.
    examples = found or _drawn()
    return examples, list(dict.fromkeys(example.name for example in examples))


def _of_collection(searched: Searched) -> list[Example]:
    """Some images from all over the collection, under their captions or keys."""
    indices = np.linspace(0, len(searched) - 1, min(_FEW, len(searched))).astype(int)
    examples = []
    for index in indices.tolist():
        about = searched.collection.about(index)
        name = shown(" ".join((about["texts"] or [about["key"]])[0].split()), _LONGEST)
        try:
            examples.append(Example(name, jpeg_url(searched.image(index))))
        except UserError:
            # An image that cannot be read is in the collection all the same.
            continue
    return examples


def _drawn() -> list[Example]:
    """Some of the demo's images, under their classes."""
    examples = []
    for colour, shape in _DRAWN:
        # As `sample_scene` takes a class apart again.
        label = COLOURS.index(colour) * len(SHAPES) + SHAPES.index(shape)
        scene = sample_scene(Random(f"{_SEED}/{colour}/{shape}"), label=label)
        examples.append(Example(f"{colour} {shape}", image_url(draw(scene, _SIDE))))
    return examples
