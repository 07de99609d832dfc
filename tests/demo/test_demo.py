"""The demo's drawn pairs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from align_train.demo import make_demo, phrases
from align_train.demo.scene import Scene, sample_scene
from align_train.errors import UserError


def digest(folder: Path) -> dict[str, str]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".tar", ".json")
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# Of the fixture `demo`, which tests/conftest.py makes.
SMALL_DEMO: dict[str, Any] = {
    "pairs": 512,
    "held_out": 64,
    "noise": 0.25,
    "size": 40,
    "seed": 0,
    "pairs_per_shard": 128,
    "vocabulary": 300,
}


def test_the_demo_has_the_same_bytes_each_time(demo: Path, tmp_path: Path) -> None:
    make_demo(folder=str(tmp_path / "again"), **SMALL_DEMO)
    assert digest(tmp_path / "again") == digest(demo)
    make_demo(folder=str(tmp_path / "other"), **SMALL_DEMO | {"seed": 1})
    assert not set(digest(tmp_path / "other").values()) & {
        v for k, v in digest(demo).items() if k.endswith(".tar")
    }


def test_a_folder_with_other_contents_is_refused_and_kept(demo: Path, tmp_path: Path) -> None:
    before = digest(demo)
    with pytest.raises(UserError, match="was made with pairs=512"):
        make_demo(folder=str(demo), **SMALL_DEMO | {"pairs": 513})
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and holds no demo"):
        make_demo(folder=str(tmp_path), **SMALL_DEMO)
    assert (tmp_path / "mine.txt").exists() and digest(demo) == before


def test_the_share_of_noisy_texts_holds_and_clean_texts_name_their_class() -> None:
    def tells(scene: Scene, text: str) -> bool:
        colours = (scene.colour, *phrases._COLOUR_SYNONYMS[scene.colour])
        shapes = (scene.shape, *phrases._SHAPE_SYNONYMS[scene.shape])
        return any(word in text.lower() for word in colours) and any(
            word in text.lower() for word in shapes
        )

    random = Random(0)
    scenes = [sample_scene(random) for _ in range(4000)]
    assert {scene.label for scene in scenes} == set(range(64))
    assert all(tells(scene, phrases.clean_caption(scene, random)) for scene in scenes)
    for noise in (0.0, 0.25, 1.0):
        silent = np.mean(
            [not tells(scene, phrases.caption(scene, random, noise=noise)) for scene in scenes]
        )
        assert 0.9 * noise <= silent <= 1.05 * noise  # a caption cut short may still tell both
