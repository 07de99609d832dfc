"""A folder per class gives every image of every class, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from align_train.shards.cache import ShardCache
from align_train.stream.decode import Views
from align_train.stream.sets import EvaluationSets, FolderPerClass
from tests.support.images import encoded, picture

KINDS = {
    "a.jpg": "JPEG",
    "b.jfif": "JPEG",
    "c.PNG": "PNG",
    "d.gif": "GIF",
    "e.tif": "TIFF",
    "f": "WEBP",
    "g.bmp": "BMP",
    "h.bin": "AVIF",
}


@pytest.fixture
def of() -> EvaluationSets:
    """Sets without a vocabulary, which a folder of images does not ask for."""
    sets = EvaluationSets.__new__(EvaluationSets)
    sets.views = Views(image_size=24, resize_size=28)
    sets.cache = ShardCache()
    return sets


def test_images_of_every_kind_and_behind_links_are_evaluated(
    tmp_path: Path, of: EvaluationSets, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "z.png").write_bytes(encoded(picture(1), "PNG"))
    root = tmp_path / "classes"
    for name in ("red", "blue"):
        (root / name).mkdir(parents=True)
        (root / name / "more").symlink_to(shared)
        (root / name / "loop").symlink_to(root / name)
        for file, kind in KINDS.items():
            (root / name / file).write_bytes(encoded(picture(2), kind))
        (root / name / "._a.jpg").write_bytes(b"\0\5\x16\7")
        (root / name / "index.html").write_text("<html>")
    (root / "linked").symlink_to(shared)
    (root / "__MACOSX").mkdir()
    (root / "._red").mkdir()

    found = FolderPerClass(path=str(root)).open(of)
    names = [texts for texts, _ in found.about()]
    assert names == [["blue"]] * 9 + [["linked"]] + [["red"]] * 9

    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "2 linked folders that were walked before" in line
    assert "4 files of another system" in line and "2 files without an image" in line

    # One way to decode: the kinds without loss give the same pixels.
    by_file = {path.name: found[index] for index, path in enumerate(found.files[:9])}
    for lossless in ("e.tif", "g.bmp"):
        assert np.array_equal(by_file[lossless], by_file["c.PNG"])
    assert all(pixels.shape == (24, 24, 3) for pixels in by_file.values())


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("hidden", "1 hidden (first {0}/.green), 1 file of another system "),
        ("broken link", "1 broken link (first {0}/green)"),
        ("loose images", "2 files beside the class folders (first {0}/a.png)"),
    ],
)
def test_what_is_no_class_folder_is_said(
    kind: str, says: str, tmp_path: Path, of: EvaluationSets, capsys: pytest.CaptureFixture[str]
) -> None:
    image = encoded(picture(1), "PNG")
    root = tmp_path / "in"
    (root / "red").mkdir(parents=True)
    (root / "red" / "a.png").write_bytes(image)

    if kind == "hidden":
        for name in (".green", "__MACOSX"):
            (root / name).mkdir()
            (root / name / "a.png").write_bytes(image)
    elif kind == "broken link":
        (root / "green").symlink_to(tmp_path / "nowhere")
    else:
        (root / "a.png").write_bytes(image)
        (root / "b.png").write_bytes(image)

    found = FolderPerClass(path=str(root)).open(of)
    assert [texts for texts, _ in found.about()] == [["red"]]

    line = capsys.readouterr().err
    start, _, end = says.partition("{0}")
    assert line.count("\n") == 1 and start in line and end in line, line
