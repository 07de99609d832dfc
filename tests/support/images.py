from __future__ import annotations

import io
from random import Random

from PIL import Image

from align_train.demo.draw import draw
from align_train.demo.scene import sample_scene


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(label: int, seed: int = 0) -> Image.Image:
    return draw(sample_scene(Random(seed), label=label), 40)


def plain_image(colour: tuple[int, int, int], kind: str = "PNG", side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()
