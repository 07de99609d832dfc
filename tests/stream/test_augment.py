"""The augmentation of an image is drawn from its pair alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from align_train.shards.write import write_shard
from align_train.stream.augment import Augmentation
from tests.support.shards import pieces_of


def test_augmentation_is_drawn_from_the_pair_alone(tmp_path: Path, demo: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    write_shard(
        tmp_path / "0.tar",
        [(f"{index}", {"png": file.getvalue(), "txt": b"text"}) for index in range(8)],
    )
    augmentation = Augmentation(
        transforms=[v2.RandomAffine(degrees=45), v2.ColorJitter(hue=0.4)], size=20
    )
    pairs = pieces_of(tmp_path, demo, augmentation=augmentation).pairs
    before = torch.random.get_rng_state()
    first = pairs.draw(0, 0, seed=5).pixels
    torch.manual_seed(99)
    again = pairs.draw(0, 0, seed=5).pixels
    other = pairs.draw(0, 0, seed=6).pixels
    assert (
        first.shape == (16, 16, 3)
        and np.array_equal(first, again)
        and not np.array_equal(first, other)
    )
    torch.random.set_rng_state(before)
    pairs.draw(0, 0, seed=5)
    # Drawing does not advance torch's global generator.
    assert torch.equal(torch.random.get_rng_state(), before)
