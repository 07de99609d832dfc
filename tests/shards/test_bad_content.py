"""Every kind of bad content that a web crawl holds.

The loader neither crashes nor hangs, runs no code from it, fills every batch and counts each bad
pair.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.row import Shard
from align_train.shards.shard import ShardReader
from align_train.stream.decode import Views
from align_train.stream.loader import TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.pieces import TrainingPieces
from align_train.stream.tokenizer import Tokenizer
from tests.support.images import encoded

TXT = CaptionSource.parse("txt")


GOOD, BATCH, LANES = 24, 8, 2


Members = list[tuple[str, bytes]]


def photo(index: int = 0, side: int = 48) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def good_pairs(first: int = 0, count: int = GOOD) -> Members:
    members = []
    for index in range(first, first + count):
        members += [
            (f"{index:04d}.jpg", encoded(photo(index), "JPEG")),
            (f"{index:04d}.txt", f"text {index}".encode()),
        ]
    return members


def write_tar(path: Path, members: Members, *, format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def epoch(
    shards: list[Path], pairs: list[int], demo: Path, *, workers: int = 0
) -> tuple[list[str], list[str], dict[str, str]]:
    """Reads one epoch of shards with these counts of pairs.

    Returns the keys and the captions that came, and the reason for each bad key.
    """
    manifest = Manifest(
        tuple(Shard(str(p), n, p.stat().st_size) for p, n in zip(shards, pairs, strict=True)),
        "test",
    )
    pieces = TrainingPieces(
        pairs=Pairs(manifest=manifest, caption=TXT, views=Views(image_size=24, resize_size=28)),
        order=Order(counts=manifest.counts, seed=0, lanes=LANES, window=1000),
        vocabulary=Tokenizer(str(demo / "tokenizer"), max_tokens=16),
        batch_size=BATCH,
    )
    loader = TrainingLoader(pieces=pieces, slots=range(BATCH), workers=workers)
    steps = -(-sum(pairs) // BATCH)
    keys, captions = [], []
    for _ in range(steps):
        batch = next(loader)
        assert batch.images.shape == (BATCH, 24, 24, 3) and len(batch) == BATCH
        keys += batch.keys
        captions += batch.captions
    loader.close()
    # The last batch reaches into the next epoch if the pairs do not divide evenly into batches.
    return keys, captions, {bad.key: bad.reason for bad in loader.bad_pairs}


def jpeg_with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", exif=exif)


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 30,000 x 30,000 pixels."""

    def block(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", rows) + block(b"IEND", b"")
    )


def jpeg_bomb() -> bytes:
    """A real JPEG whose header was changed to claim 30,000 x 30,000 pixels."""
    data = encoded(photo(), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", 30_000, 30_000) + data[start + 4 :]


def _with_sampling(factors: int) -> bytes:
    """A JPEG whose first component has a sampling that simplejpeg does not know."""
    data = bytearray(encoded(photo(side=64), "JPEG", subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = factors
    return bytes(data)


def _floats() -> bytes:
    return encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF")


# Name -> the pair's image, its extension, and the reason that must be reported. None: the pair is
# usable.
IMAGES: dict[str, tuple[bytes, str, str | None]] = {
    "half a JPEG": (encoded(photo(), "JPEG")[:900], "jpg", "broken image"),
    "HTML saved as .jpg": (
        b"<!DOCTYPE html><html><body>404</body></html>",
        "jpg",
        "not an image of a known kind",
    ),
    "zero bytes": (b"", "jpg", "not an image of a known kind"),
    "a PNG bomb": (bomb(), "png", "decompression bomb"),
    "a JPEG bomb": (jpeg_bomb(), "jpg", "decompression bomb"),
    "half a PNG": (encoded(photo(), "PNG")[:900], "png", "broken image"),
    "a GIF": (encoded(photo(), "GIF"), "jpg", None),
    "a TIFF of floats": (_floats(), "tif", "its pixels are floats"),
    "a JPEG named .jfif": (encoded(photo(), "JPEG"), "jfif", None),
    "a TIFF": (encoded(photo(), "TIFF"), "tif", None),
    "an AVIF without an ending that says so": (encoded(photo(), "AVIF"), "bin", None),
    "1 x 1": (encoded(Image.new("RGB", (1, 1)), "JPEG"), "jpg", None),
    "1 x 3000": (encoded(Image.new("RGB", (1, 3000)), "JPEG"), "jpg", None),
    "CMYK": (encoded(photo().convert("CMYK"), "JPEG"), "jpg", None),
    "4:4:1 chroma": (_with_sampling(0x14), "jpg", None),
    "grey JPEG": (encoded(photo().convert("L"), "JPEG"), "jpg", None),
    "16 bits": (encoded(Image.fromarray(np.full((48, 48), 40_000, np.uint16)), "PNG"), "png", None),
    "animated WebP": (
        encoded(photo(), "WEBP", save_all=True, append_images=[photo(1)]),
        "webp",
        None,
    ),
    "animated PNG": (encoded(photo(), "PNG", save_all=True, append_images=[photo(1)]), "png", None),
    "palette with alpha": (encoded(photo().convert("P"), "PNG", transparency=0), "png", None),
    "EXIF-rotated": (jpeg_with_orientation(6), "jpg", None),
    "a PNG named .jpg": (encoded(photo(), "PNG"), "jpg", None),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_odd_image_is_used_or_reported_with_its_reason(
    case: str, tmp_path: Path, demo: Path
) -> None:
    data, extension, reason = IMAGES[case]
    write_tar(
        tmp_path / "a.tar", [*good_pairs(), ("odd." + extension, data), ("odd.txt", b"an odd one")]
    )
    keys, _, bad = epoch([tmp_path / "a.tar"], [GOOD + 1], demo)
    assert len(set(keys)) >= GOOD
    if reason is None:
        assert "a/odd" in keys and not bad
    else:
        assert list(bad) == ["a/odd"] and reason in bad["a/odd"]


TEXTS: dict[str, tuple[bytes | None, str | None]] = {
    "missing": (None, "no member .txt"),
    "empty": (b"", "no text in txt"),
    "blank": (b" \n\t ", "no text in txt"),
    "invalid UTF-8": (b"caf\xe9 \xff", "can't decode byte"),
    "one megabyte": (b"very long text " * 70_000, None),
    "one megabyte without a space": (b"x" * 1_000_000, None),
    "control characters": (b"\x00\x01 an image \x7f", None),
}


@pytest.mark.parametrize("case", TEXTS)
def test_an_odd_text_is_used_or_reported_with_its_reason(
    case: str, tmp_path: Path, demo: Path
) -> None:
    text, reason = TEXTS[case]
    odd: Members = [("odd.jpg", encoded(photo(), "JPEG"))]
    write_tar(
        tmp_path / "a.tar",
        [*good_pairs(), *odd, *([("odd.txt", text)] if text is not None else [])],
    )
    keys, captions, bad = epoch([tmp_path / "a.tar"], [GOOD + 1], demo)
    if reason is None:
        assert "a/odd" in keys and not bad
        # Text that no tower reads is cut before it travels.
        assert max(map(len, captions)) < 100_000
    else:
        assert list(bad) == ["a/odd"] and reason in bad["a/odd"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


def fill(path: Path) -> None:
    """Leaves the file as a cut download does that had reserved its whole length."""
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        middle = tar.getmembers()[GOOD].offset
    path.write_bytes(data[:middle] + bytes(len(data) - middle))


SHARDS: dict[str, Callable[[Path], object]] = {
    "truncated": cut,
    "garbage": lambda path: path.write_bytes(os.urandom(30_000)),
    "zero bytes": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<Error><Code>SlowDown</Code></Error>" * 100),
    "zeros": lambda path: path.write_bytes(bytes(20_480)),
    "filled with zeros from the middle": fill,
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("case", SHARDS)
def test_the_pairs_of_a_bad_shard_are_replaced(
    case: str, workers: int, tmp_path: Path, demo: Path
) -> None:
    """A shard went bad after it was counted; pairs of the next shard replace its pairs."""
    for index in range(3):
        write_tar(tmp_path / f"{index}.tar", good_pairs(100 * index))
    SHARDS[case](tmp_path / "1.tar")
    keys, _, bad = epoch(
        [tmp_path / f"{index}.tar" for index in range(3)], [GOOD] * 3, demo, workers=workers
    )
    whole = {key for key in keys if key.startswith("1/")}
    assert len(keys) == 3 * GOOD and len(bad) == GOOD - len(whole)
    assert all(key.startswith("1/") for key in bad)
    assert (len(whole) > 0) == (case in ("truncated", "filled with zeros from the middle"))
    assert {key for key in keys if not key.startswith("1/")} == {
        f"{s}/{100 * s + n:04d}" for s in (0, 2) for n in range(GOOD)
    }


def test_an_epoch_of_bad_shards_alone_ends_in_one_line(tmp_path: Path, demo: Path) -> None:
    for index in range(2):
        (tmp_path / f"{index}.tar").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"\.tar: no good pair in it nor in the 4 shards that follow "
        r"\(not a readable tar \(empty file\)\)",
    ):
        epoch([tmp_path / "0.tar", tmp_path / "1.tar"], [GOOD, GOOD], demo)


def test_the_second_pair_with_the_same_key_is_bad(tmp_path: Path, demo: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [*good_pairs(), ("0003.jpg", encoded(photo(99), "JPEG")), ("0003.txt", b"another")],
    )
    _, captions, bad = epoch([tmp_path / "a.tar"], [GOOD + 1], demo)
    assert bad == {"a/0003": "a second image under the same key"} and "another" not in captions


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_foreign_and_nested_names_are_read(format: int, tmp_path: Path, demo: Path) -> None:
    names = ["img", "de.ep/er/img", "x" * 220, "日本/ÄÖ", "./dot", "a b", "%2F"]
    odd = [
        (f"{name}.{ext}", data)
        for name in names
        for ext, data in (("jpg", encoded(photo(), "JPEG")), ("txt", b"text"))
    ]
    write_tar(tmp_path / "a.tar", [*good_pairs(), *odd], format=format)
    keys, _, bad = epoch([tmp_path / "a.tar"], [GOOD + len(names)], demo)
    assert {f"a/{name}" for name in names} <= set(keys) and not bad


def test_links_are_not_followed(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded(photo(), "JPEG"))
    write_tar(tmp_path / "a.tar", good_pairs())
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for name, kind, target in (
            ("soft", tarfile.SYMTYPE, str(tmp_path / "secret.jpg")),
            ("hard", tarfile.LNKTYPE, "0000.jpg"),
        ):
            link = tarfile.TarInfo(f"{name}.jpg")
            link.type, link.linkname = kind, target
            tar.addfile(link)
            text = tarfile.TarInfo(f"{name}.txt")
            text.size = 4
            tar.addfile(text, io.BytesIO(b"text"))
    _, _, bad = epoch([tmp_path / "a.tar"], [GOOD + 2], demo)
    assert bad == {
        f"a/{name}": "the member .jpg is a link, not a file" for name in ("soft", "hard")
    }


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_opened(tmp_path: Path, demo: Path) -> None:
    """Every extension is tried that some loader unpickles.

    The pickle lies beside a good pair, and in place of an image and of a text.
    """
    trap = pickle.dumps(_RunsCode(tmp_path / "ran"))
    beside = [
        (f"0000.{extension}", trap)
        for extension in ("pyd", "pickle", "pkl", "pth", "npy", "json", "cls")
    ]
    instead = [
        ("odd.jpg", trap),
        ("odd.txt", b"text"),
        ("odder.jpg", encoded(photo(), "JPEG")),
        ("odder.txt", trap),
    ]
    write_tar(tmp_path / "a.tar", [*good_pairs(), *beside, *instead])
    _, _, bad = epoch([tmp_path / "a.tar"], [GOOD + 2], demo)
    assert set(bad) == {"a/odd", "a/odder"}
    assert not (tmp_path / "ran").exists()
    pickle.loads(trap)
    assert (tmp_path / "ran").exists()  # the trap works


def test_members_out_of_order_are_paired_by_key(tmp_path: Path, demo: Path) -> None:
    members = good_pairs()
    # All texts come first, then all images backwards.
    write_tar(tmp_path / "a.tar", [*members[1::2], *members[::2][::-1]])
    keys, captions, bad = epoch([tmp_path / "a.tar"], [GOOD], demo)
    assert not bad and len(set(keys)) == GOOD
    assert all(
        int(key[-4:]) == int(caption.split()[1])
        for key, caption in zip(keys, captions, strict=True)
    )


def test_texts_without_an_image_are_no_pairs(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [*good_pairs(), ("lone.txt", b"text"), ("README", b"hello"), ("lone.json", b"{}")],
    )
    assert len(ShardReader(tmp_path / "a.tar", TXT)) == GOOD
