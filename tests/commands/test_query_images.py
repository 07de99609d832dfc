"""Images that people give: to `search` by path, and to `align_train.load` as objects of Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import align_train
from align_train.commands.embed import embed
from align_train.commands.search import search
from align_train.config.command_schema import EmbedSettings, SearchSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.shards.shard import ShardReader
from tests.support.images import encoded, picture
from tests.support.kinds import turned, with_chunk, with_segment


def settings(image: str | Path, index: str | Path, folder: Path) -> SearchSettings:
    found = compose_command("search", SearchSettings, f"index={index}", f"to={folder}/found.png")
    found.image = str(image)
    return found


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.jpg")
    return "pipe.jpg"


def _written(folder: Path, data: bytes) -> str:
    (folder / "x.jpg").write_bytes(data)
    return "x.jpg"


JPEG = encoded(picture(0), "JPEG")
UNUSABLE: dict[str, tuple[Callable[[Path], str], str]] = {
    "cut off": (lambda folder: _written(folder, JPEG[:400]), "broken image: "),
    "a page": (lambda folder: _written(folder, b"<html>"), "not an image of a known kind"),
    "nothing": (lambda folder: _written(folder, b""), "not an image of a known kind"),
    "a shard": (lambda folder: _written(folder, bytes(10_240)), "not an image of a known kind"),
    "a bomb": (
        lambda folder: _written(folder, encoded(Image.new("1", (11_000, 10_000)), "PNG")),
        "image of 11000 x 10000 pixels is taken for a decompression bomb",
    ),
    "a header alone": (
        lambda folder: _written(folder, encoded(picture(0), "PNG")[:20] + bytes(99)),
        "broken image: the header of this PNG cannot be read",
    ),
    "a folder": (lambda folder: ".", "a folder or a device, no file"),
    "a pipe": (_pipe, "a folder or a device, no file"),
    "a URL": (lambda folder: "https://example.com/cat.jpg", "a URL; download it"),
    "a zero byte": (lambda folder: "a\0b.jpg", "cannot be read ("),
    "a name too long": (lambda folder: "x" * 300, "cannot be read (File name too long)"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_image_that_cannot_be_searched_for_is_told_in_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the collection is opened, which is not there."""
    make, words = UNUSABLE[case]
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        search(settings(path, "nowhere", tmp_path))
    message = str(caught.value)
    assert message.startswith("image=") and words in message
    assert message.isprintable() and len(message) < 250


@pytest.fixture
def index(trained: Path, demo: Path, tmp_path: Path) -> Path:
    """A collection of 128 images."""
    shards = f"{demo}/train/00000000.tar"
    options = (f"model={trained}", f"shards={shards}", f"to={tmp_path}/index", "workers=0")
    embed(compose_command("embed", EmbedSettings, *options))
    return tmp_path / "index"


def _files(image: Image.Image) -> dict[str, bytes]:
    """The same pixels, however they lie in the file."""
    return {
        "turned by EXIF": turned("PNG", image, 6, by_xmp=False),
        "turned by XMP": turned("PNG", image, 8, by_xmp=True),
        "turned, TIFF": turned("TIFF, packed", image, 5, by_xmp=False),
        "EXIF that is no TIFF": with_chunk(encoded(image, "PNG"), b"eXIf", bytes(8)),
        "no profile": with_chunk(encoded(image, "PNG"), b"iCCP", b"x"),
    }


def test_a_turned_or_odd_image_finds_what_the_upright_one_finds(
    index: Path, tmp_path: Path
) -> None:
    image = picture(5).convert("RGB")
    image.save(tmp_path / "upright.png")
    expected = search(settings(tmp_path / "upright.png", index, tmp_path))

    for name, data in _files(image).items():
        (tmp_path / name).write_bytes(data)
        assert search(settings(tmp_path / name, index, tmp_path)) == expected, name


def test_the_api_sees_images_as_evaluation_does(trained: Path) -> None:
    model = align_train.load(str(trained))
    image = picture(5).convert("RGB")
    expected = model.encode_images([image])

    for name, data in _files(image).items():
        if name != "no profile":  # which Pillow refuses before we see it
            found = model.encode_images([Image.open(io.BytesIO(data))])
            assert torch.equal(found, expected), name


def test_the_api_names_the_image_that_cannot_be_read(trained: Path) -> None:
    model = align_train.load(str(trained))
    good = picture(5)
    stray = with_segment(JPEG[:-2] + bytes(9) + JPEG[-2:], 0xE1, b"Exif\0\0" + bytes(8))
    model.encode_images([good, Image.open(io.BytesIO(stray))])

    floats = Image.new("F", (9, 9))
    for bad, reason in (
        (Image.open(io.BytesIO(JPEG[:-100])), r"images\[1\]: broken image: "),
        (floats, r"images\[1\]: its pixels are floats"),
        (Image.new("1", (11_000, 10_000)), r"images\[1\]: image of 11000 x 10000 pixels"),
    ):
        with pytest.raises(UserError, match=reason):
            model.encode_images([good, bad])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [UserError("0.tar: changed under the run"), OSError(5, "bad disk")]
)
def test_a_shard_that_fails_under_embed_is_no_bad_image(
    error: Exception,
    workers: int,
    trained: Path,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(reader: ShardReader, pair: int) -> bytes:
        raise error

    monkeypatch.setattr(ShardReader, "image", fail)
    shards = f"{demo}/train/00000000.tar"
    options = (f"model={trained}", f"shards={shards}", f"to={tmp_path}/a", f"workers={workers}")
    with pytest.raises(UserError) as caught:
        embed(compose_command("embed", EmbedSettings, *options))
    line = str(caught.value)
    assert "\n" not in line and ("changed under the run" in line or "image 0: cannot" in line)
    assert not (tmp_path / "a" / "00000.npy").exists()
