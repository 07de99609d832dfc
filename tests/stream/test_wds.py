"""Sets in CLIP_benchmark's layout: what their files say, from every place, and what is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.stream.classes import ClassList
from align_train.stream.decode import Views
from align_train.stream.sets import EvaluationSets
from align_train.stream.wds import WdsSet
from tests.support.hub import NAME, hub
from tests.support.servers import flaky_http
from tests.support.wds_sets import classification, image, multilabel, retrieval, write_set


def sets_in(folder: Path) -> EvaluationSets:
    return EvaluationSets(
        held_out=None,
        caption="txt",
        vocabulary=ClassList(2),
        views=Views(image_size=32, resize_size=36),
        cache=ShardCache(folder=str(folder / "cache"), patience=20, stall=2),
    )


def test_labels_are_numbers_of_lines_also_where_names_are_numbers(tmp_path: Path) -> None:
    """As of clevr_count_all: class 0 is called "3"."""
    folder = classification(tmp_path / "wds_count", [2, 0, 1], classes=["3", "4", "0"], shards=3)
    opened = WdsSet(folder=str(folder)).open(sets_in(tmp_path))
    assert opened.about() == [(["0"], {"class": 2}), (["3"], {"class": 0}), (["4"], {"class": 1})]
    assert opened[2].shape == (32, 32, 3)


def test_captions_are_lines_and_labels_of_several_classes_are_ones(tmp_path: Path) -> None:
    captions = [["one", "", "three \\n here"], ["four"]]
    folder = retrieval(tmp_path / "captions", 2, captions.__getitem__)
    opened = WdsSet(folder=str(folder)).open(sets_in(tmp_path))
    assert [texts for texts, _ in opened.about()] == captions

    several = multilabel(tmp_path / "several", [[0, 2], [1]], 3)
    rows = WdsSet(folder=str(several)).open(sets_in(tmp_path)).about()
    assert [record for _, record in rows] == [{"classes": [0, 2]}, {"classes": [1]}]


@pytest.mark.parametrize("place", ["web", "hub"])
def test_sets_lie_on_the_hub_or_any_server(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classification(tmp_path / "sets" / "wds_one", [0, 1, 1])
    local = WdsSet(folder=f"{tmp_path}/sets/wds_one").open(sets_in(tmp_path))
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)

    of = sets_in(tmp_path)
    if place == "web":
        with flaky_http(tmp_path / "sets", fail=0) as server:
            opened = WdsSet(folder=f"{server.url}/wds_one/").open(of)
            assert opened.about() == local.about()
        return

    with hub(tmp_path / "sets") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        url = f"hf://datasets/{NAME}"
        opened = WdsSet(folder=f"{url}/wds_one").open(of)
        assert opened.about() == local.about()
        assert f"{url}@main" in of.cache.hub.commits
        with pytest.raises(UserError, match=r"no test/nshards\.txt; expected CLIP_benchmark's"):
            WdsSet(folder=f"{url}/wds_two").open(of)


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no such folder; expected CLIP_benchmark's layout"),
        (_without("test/nshards.txt"), "no test/nshards.txt; expected CLIP_benchmark's layout"),
        (_without("classnames.txt"), "no classnames.txt; add it, or give classnames=…"),
        (
            _without("zeroshot_classification_templates.txt"),
            "no zeroshot_classification_templates.txt; add it, or give templates=…",
        ),
        (_with("test/nshards.txt", "two"), "nshards.txt: says 'two'; expected the number of tars"),
        (_with("test/nshards.txt", "3"), "1 of 3 shards are missing, first .*2.tar"),
        (_with("dataset_type.txt", "regression"), "says 'regression'; expected classification,"),
        (_with("classnames.txt", "a\n\nb\n"), "classnames.txt: line 2 is empty; take it out"),
        (
            _with("classnames.txt", "a\nb\n"),
            "an image has the label 2, and there are 2 class names; mend the names",
        ),
        (
            _with("dataset_type.txt", "retrieval"),
            "no pairs: 2 of 4 members are images, .* there are .webp .*; mend dataset_type.txt",
        ),
        (_without("test/1.tar"), "1 of 2 shards are missing"),
    ],
)
def test_a_broken_set_is_told_in_one_line(
    damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    folder = classification(tmp_path / "wds_x", [0, 1, 2, 1])
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        WdsSet(folder=str(folder)).open(sets_in(tmp_path)).about()
    assert "\n" not in str(error.value)


def _pickle() -> bytes:
    written = io.BytesIO()
    np.save(written, np.array([print]), allow_pickle=True)
    return written.getvalue()


@pytest.mark.parametrize(
    ("kind", "member", "words"),
    [
        (None, {}, "s0000001: no member .cls"),
        (None, {"cls": b"cat"}, "the label in cls: 'cat' is no number of a class"),
        ("multilabel", {"npy": _pickle()}, "the labels in npy: no array of numbers"),
        ("multilabel", {"npy": b""}, "the labels in npy: no array of numbers"),
        ("retrieval", {"txt": b""}, "no caption in txt"),
    ],
)
def test_a_bad_label_or_caption_is_told_with_its_image(
    kind: str | None, member: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    vector = io.BytesIO()
    np.save(vector, np.array([1, 0]))
    good = {"cls": b"0", "txt": b"a", "npy": vector.getvalue()}
    members = [image(0, 0) | good, image(1, 1) | member]
    write_set(tmp_path / "x", members, kind=kind, classes=["a", "b"])
    with pytest.raises(UserError, match=words) as error:
        WdsSet(folder=str(tmp_path / "x")).open(sets_in(tmp_path)).about()
    assert "\n" not in str(error.value)


def test_a_language_chooses_names_and_prompts(tmp_path: Path) -> None:
    folder = classification(tmp_path / "wds_x", [0, 1], classes=["dog", "cat"])
    (folder / "classnames_ja.txt").write_text("犬\n猫\n", encoding="utf-8")
    prompts = folder / "zeroshot_classification_templates_ja.txt"
    prompts.write_text("{c}の写真\n", encoding="utf-8")
    (tmp_path / "it.json").write_text('{"x": ["cane", "gatto"], "y": []}')
    (tmp_path / "prompts.txt").write_text("una foto: {}\n")
    of = sets_in(tmp_path)

    def names(language: str | None, **files: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        data = replace(WdsSet(folder=str(folder), language=language), **files)
        found = data.open(of).description
        return found.classes, found.templates[:1]

    assert names("ja") == (("犬", "猫"), ("{c}の写真",))
    english = (("dog", "cat"), ("a photo of a {c}",))
    assert names(None) == names("en") == english
    files = {
        "classnames": f"{tmp_path}/{{language}}.json",
        "templates": f"{tmp_path}/prompts.txt",
    }
    assert names("it", **files) == (("cane", "gatto"), ("una foto: {}",))

    with pytest.raises(
        UserError, match=r"no classnames_fr.txt \(there are .* classnames.txt, classnames_ja.txt\)"
    ):
        names("fr")
    with pytest.raises(UserError, match="says nothing of wds_z; it has x, y"):
        WdsSet(folder=str(folder), name="wds_z", **files, language="it").open(of)
    captions = retrieval(tmp_path / "captions", 1, lambda _: ["one"])
    with pytest.raises(UserError, match="has the one language of its captions"):
        WdsSet(folder=str(captions), language="ja").open(of)
