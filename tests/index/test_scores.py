"""Scores are read back as they were written, and a folder of other scores is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.index.identity import Identity
from align_train.index.scored_shards import NamedShard, scored_places
from align_train.index.scores import Scores
from align_train.index.scores_header import Column, ScoresHeader

IDENTITY = Identity("w", "t", 32, 36, 16, {}, [[1.0, 0.0]])
HEADER = ScoresHeader(
    model="m",
    identity=IDENTITY,
    source="shards",
    manifest="i",
    shards=["a.tar", "b.tar", "c.tar"],
    counts=[3, 0, 1],
    sizes=[30, 10, 20],
    columns={"similarity": Column(-1, 1, "cosine"), "odd name": Column(0, 9, "x")},
    caption=["txt", "json:alt"],
    image=None,
    keys=None,
)


def write(scores: Scores) -> None:
    for shard, keys in enumerate(([b"10", b"9", b"\xff\xfe"], [], [b""])):
        values = np.array([0.25, np.nan, -1.0][: len(keys)], dtype=np.float32)
        scores.write(shard, keys, {"similarity": values, "odd name": -values})


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = Scores.begin(tmp_path / "s", HEADER)
    write(written)
    before = [path.read_bytes() for path in sorted((tmp_path / "s").iterdir())]

    scores = Scores.open(tmp_path / "s")
    assert scores.header == HEADER and len(scores) == 4
    keys, values = scores.read(0)
    assert keys.tolist() == [b"10", b"9", b"\xff\xfe"]
    assert np.array_equal(
        values["similarity"], np.array([0.25, np.nan, -1], dtype=np.float32), equal_nan=True
    )
    assert np.array_equal(
        values["odd name"], np.array([-0.25, np.nan, 1], dtype=np.float32), equal_nan=True
    )
    assert scores.read(1)[0].shape == (0,)
    assert scores.read(2)[0].tolist() == [b""]

    write(written)
    assert [path.read_bytes() for path in sorted((tmp_path / "s").iterdir())] == before


def test_a_folder_is_gone_on_in_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write(Scores.begin(folder, HEADER))
    assert Scores.begin(folder, HEADER).has(2)

    columns = {"similarity": Column(-1, 1, "cosine with the first text")}
    for change, words in (
        ({"identity": replace(IDENTITY, weights="x")}, r"another model \(other weights\)"),
        ({"manifest": "x"}, "other shards"),
        ({"caption": "txt"}, "another caption"),
        ({"image": "rgb.png"}, "another image=…"),
        ({"keys": "last_dot"}, "another keys=…"),
        ({"columns": columns}, "other scores"),
    ):
        with pytest.raises(UserError, match=f"was begun with {words}"):
            Scores.begin(folder, replace(HEADER, **change))

    (folder / "00001.npz").unlink()
    with pytest.raises(UserError, match="1 of 3 shards are not scored yet"):
        Scores.open(folder)
    with pytest.raises(UserError, match="exists and holds no scores"):
        Scores.begin(tmp_path, HEADER)
    with pytest.raises(UserError, match=r"no scores\.json there; make it with"):
        Scores.open(tmp_path)


def test_shards_are_known_by_name_and_size(tmp_path: Path) -> None:
    names = ["a.tar", "b.tar"]
    header = replace(HEADER, counts=[1, 1], shards=names, sizes=[3, 2])
    scores = Scores.begin(tmp_path / "s", header)
    a, b = map(NamedShard, names, [3, 2])
    assert scored_places(scores, [a, b]) == [0, 1]
    assert scored_places(scores, [NamedShard("c.tar", 1), b, a]) == [None, 1, 0]

    with pytest.raises(
        UserError, match=r"b\.tar of the source has 5 bytes, the one that .* had 2:"
    ):
        scored_places(scores, [NamedShard("b.tar", 5)])
    with pytest.raises(UserError, match=r"several shards of the source have one name, a\.tar"):
        scored_places(scores, [a, b, a])


def test_settings_of_other_types_are_refused(tmp_path: Path) -> None:
    write(Scores.begin(tmp_path / "s", HEADER))
    file = tmp_path / "s" / "scores.json"
    written = json.loads(file.read_text())
    of_column = {"least": -1, "most": 1, "says": "x"}
    changes: tuple[dict[str, Any], ...] = (
        {"caption": 5},
        {"caption": []},
        {"source": [5]},
        {"counts": [-1, 0, 1]},
        {"counts": [10**30, 0, 1]},
        {"shards": ["a.tar"]},
        {"columns": {}},
        {"columns": {"key": of_column}},
        {"columns": {"x": of_column | {"most": -1}}},
        {"columns": {"x": of_column | {"least": float("nan")}}},
        {"columns": {"x": of_column | {"says": 5}}},
        {"other": 1},
    )
    for change in changes:
        file.write_text(json.dumps(written | change))
        with pytest.raises(UserError, match=r"scores\.json: cannot be read .* score again"):
            Scores.open(tmp_path / "s")


@pytest.mark.parametrize("damage", ["no zip", "an object", "half", "another count"])
def test_a_broken_file_is_one_line_and_never_unpickled(damage: str, tmp_path: Path) -> None:
    scores = Scores.begin(tmp_path / "s", HEADER)
    write(scores)
    file = tmp_path / "s" / "00000.npz"
    whole = file.read_bytes()
    if damage == "no zip":
        file.write_bytes(b"\x80\x04no array")
    elif damage == "half":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "an object":
        rows = np.array([print] * 3, dtype=object)
        arrays: dict[str, Any] = {"similarity": rows, "odd name": rows}
        np.savez(file, key=rows, **arrays)
    else:
        file.write_bytes((tmp_path / "s" / "00002.npz").read_bytes())

    with pytest.raises(UserError, match=r"00000\.npz: .*; remove it and run the same") as caught:
        scores.read(0)
    assert "\n" not in str(caught.value)
