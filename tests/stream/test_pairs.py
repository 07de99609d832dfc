"""The stream replaces bad pairs, gives equal contents equal ids and draws captions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.decode import Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.loader import TrainingLoader
from align_train.stream.pairs import Pairs
from align_train.stream.pieces import TrainingPieces
from tests.support.images import plain_image
from tests.support.shards import TXT, made, pieces_of


def test_a_bad_pair_is_replaced_by_its_neighbour_and_reported(tmp_path: Path, demo: Path) -> None:
    pairs = [
        (f"{index:02d}", {"png": plain_image((index, 0, 0)), "txt": f"{index}".encode()})
        for index in range(8)
    ]
    pairs[3] = ("03", {"png": b"no image", "txt": b"3"})
    pairs[5] = ("05", {"png": plain_image((5, 0, 0)), "txt": b"  "})
    write_shard(tmp_path / "0.tar", pairs)
    loader = TrainingLoader(pieces=pieces_of(tmp_path, demo), slots=range(8), workers=0)
    batch = next(loader)
    assert sorted(batch.captions) == ["0", "1", "2", "4", "4", "6", "6", "7"]
    assert batch.keys == [f"0/0{caption}" for caption in batch.captions]
    assert {(bad.key, bad.step) for bad in loader.bad_pairs} == {("0/03", 1), ("0/05", 1)}
    assert {bad.reason for bad in loader.bad_pairs} == {
        "not an image of a known kind",
        "no text in txt",
    }


def test_equal_images_and_texts_have_equal_ids_across_a_batch(tmp_path: Path, demo: Path) -> None:
    shown, said = [0, 1, 2, 0, 4, 5, 2, 7], ["a", "b", "c", "d", "e", "b", "g", "a"]
    contents = [
        {"png": plain_image((colour, 0, 0)), "txt": text.encode()}
        for colour, text in zip(shown, said, strict=True)
    ]
    write_shard(
        tmp_path / "0.tar", [(str(index), content) for index, content in enumerate(contents)]
    )
    pieces = pieces_of(tmp_path, demo, content_ids=True)
    batch = next(TrainingLoader(pieces=pieces, slots=range(8), workers=0))
    indices = [int(key.rpartition("/")[2]) for key in batch.keys]
    assert sorted(indices) == list(range(8))
    assert batch.content_ids is not None
    for ids, contents_of in zip(batch.content_ids, (shown, said), strict=True):
        for one, first in zip(ids.tolist(), indices, strict=True):
            for other, second in zip(ids.tolist(), indices, strict=True):
                assert (one == other) == (contents_of[first] == contents_of[second])  # type: ignore[index]


def test_texts_that_no_tokenizer_accepts_are_refused() -> None:
    source = CaptionSource.parse("json:captions")
    assert source.read(rb'{"captions": ["half \ud800", "whole"]}') == ["whole"]
    for member in (rb'{"captions": "half \ud800"}', b"[" * 200_000):
        with pytest.raises(ValueError, match=r"no text|nested too deeply"):
            source.read(member)


def test_a_shard_without_a_single_good_pair_stops_the_run(tmp_path: Path, demo: Path) -> None:
    write_shard(
        tmp_path / "0.tar", [(f"{index}", {"png": b"?", "txt": b"text"}) for index in range(8)]
    )
    with pytest.raises(UserError, match=r"0\.tar: no good pair in it"):
        made(pieces_of(tmp_path, demo), 0, range(4))


def captions_of_epochs(pieces: TrainingPieces, steps: int) -> list[str]:
    batches = [made(pieces, step, range(8)) for step in range(steps)]
    return [caption for batch in batches for caption in batch.captions]


def test_each_visit_draws_one_of_several_captions(tmp_path: Path, demo: Path) -> None:
    texts = json.dumps({"captions": ["first", "second", "third"]}).encode()
    write_shard(
        tmp_path / "0.tar",
        [(f"{index}", {"png": plain_image((9, 9, 9)), "json": texts}) for index in range(8)],
    )
    source = CaptionSource.parse("json:captions")
    alike = captions_of_epochs(pieces_of(tmp_path, demo, caption=source), 60)
    assert alike == captions_of_epochs(pieces_of(tmp_path, demo, caption=source), 60)
    assert all(120 < count < 200 for count in Counter(alike).values())
    mostly = Counter(
        captions_of_epochs(pieces_of(tmp_path, demo, caption=source, first_caption=0.9), 60)
    )
    assert 410 < mostly["first"] < 455 and mostly["second"] > 5 and mostly["third"] > 5


def test_a_limit_keeps_the_first_held_out_pairs(demo: Path) -> None:
    manifest = resolve(str(demo / "held_out"), caption=TXT)
    pairs = Pairs(manifest=manifest, caption=TXT, views=Views(image_size=16, resize_size=20))
    whole, first = HeldOutPairs(pairs=pairs), HeldOutPairs(pairs=pairs, limit=5)
    assert (len(whole), len(first)) == (64, 5)
    assert first.about() == whole.about()[:5]
    assert np.array_equal(first[4], whole[4])


def test_each_visit_draws_one_of_several_places(tmp_path: Path, demo: Path) -> None:
    record = json.dumps({"alt": ["alt 1", "alt 2"]}).encode()
    pairs = []
    for index in range(8):
        members = {"png": plain_image((9, 9, 9)), "txt": b"text", "json": record}
        # One pair in four has no text in one of the places: it takes the other.
        if index % 4 == 3:
            members["json" if index == 3 else "txt"] = b"{}" if index == 3 else b" "
        pairs.append((f"{index}", members))
    write_shard(tmp_path / "0.tar", pairs)

    def drawn(*weights: float) -> Counter[str]:
        source = CaptionSource.parse(["txt", "json:alt"], weights or None)
        pieces = pieces_of(tmp_path, demo, caption=source)
        captions = captions_of_epochs(pieces, 60)
        assert captions == captions_of_epochs(pieces, 60)
        return Counter(captions)

    # Of 480 visits, 60 are of each pair; of six pairs both places can be drawn.
    alike, weighted = drawn(), drawn(1, 3)
    assert 60 + 140 < alike["text"] < 60 + 220
    assert 60 + 60 < weighted["text"] < 60 + 120
    for counts in (alike, weighted):
        assert counts.total() == 480
        assert 0.8 < counts["alt 1"] / counts["alt 2"] < 1.25


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")]])
def test_weights_that_do_not_fit_the_places_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"data\.caption_weights=.*a number above 0 for each item"):
        CaptionSource.parse(["txt", "json:alt"], weights)
