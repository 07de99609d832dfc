"""The corpora: small whole files that the project makes itself, and real ones where they lie."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from functools import cache
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

from align_train.demo.draw import draw
from align_train.demo.scene import sample_scene
from tests.fuzz.mutate import Corpus, mend_png, mend_tar
from tests.support.commands import SHARED_DATA
from tests.support.images import encoded

_MOST_REAL = 4
_LARGEST_REAL = 80_000  # bytes

_SIDES = ((33, 21), (48, 48), (64, 40))

_JSON_WORDS = tuple(
    word.encode()
    for word in (
        *'{}[],:"',
        "null",
        "true",
        "NaN",
        "-Infinity",
        "1e999",
        "-1",
        "1.5",
        "9" * 30,
        "9" * 5000,
        '""',
        '"\\ud800"',
        '"\\u0000"',
        '"a": ',
        '"shard": "',
        '"pairs": ',
        '"bytes": ',
        '"at": ',
        '"of": ',
        '"kept": "',
        '"captions": ',
        "[" * 2000,
        '{"a":' * 2000,
        "\n",
        "\r",
        "\u2028",
        "\ufeff",
    )
)


def _pictures() -> list[Image.Image]:
    drawn = []
    for index, (width, height) in enumerate(_SIDES):
        picture = draw(sample_scene(Random(index), label=index), 64)
        drawn.append(picture.resize((width, height)))
    return drawn


def _real(folder: str, ending: str) -> list[bytes]:
    """Some small real files."""
    found = sorted((SHARED_DATA / folder).glob(f"*.{ending}"))
    small = [path for path in found if path.stat().st_size < _LARGEST_REAL]
    return [path.read_bytes() for path in small[:_MOST_REAL]]


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return exif.tobytes()


def _photos() -> list[Image.Image]:
    """A large photo, shrunk: detail that drawn pictures lack."""
    return [
        Image.open(io.BytesIO(path.read_bytes())).convert("RGB").resize((96, 72))
        for path in sorted((SHARED_DATA / "photos").glob("*.jpg"))[:3]
    ]


@cache
def jpeg() -> Corpus:
    """JPEGs: plain, progressive, grey, CMYK, turned, with colour profile and restarts."""
    made = []
    for index, picture in enumerate([*_pictures(), *_photos()]):
        made += [
            encoded(picture, "JPEG", quality=85),
            encoded(picture, "JPEG", progressive=True, exif=_exif(1 + index % 8)),
            encoded(picture.convert("L"), "JPEG", icc_profile=b"profile" * 9),
            encoded(picture.convert("CMYK"), "JPEG", comment=b"by nobody"),
            encoded(picture, "JPEG", subsampling=0, restart_marker_rows=1),
        ]
    words = [b"\xff" + bytes([marker]) for marker in range(0xC0, 0x100)]
    return Corpus("jpeg", [*made, *_real("photos", "jpg")], words)


@cache
def png() -> Corpus:
    """PNGs of all modes, interlaced, animated, with texts, EXIF and transparency."""
    made = []
    for index, picture in enumerate(_pictures()):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Title", "a text " * 5)
        texts.add_itxt("Title", "ein Text", "de", "Titel", zip=True)
        texts.add_text("Comment", "packed", zip=True)
        wide = Image.fromarray(
            np.arange(picture.width * picture.height, dtype=np.uint16).reshape(
                picture.height, picture.width
            )
        )
        made += [
            encoded(picture, "PNG", pnginfo=texts),
            encoded(picture.convert("RGBA"), "PNG", exif=_exif(1 + index % 8)),
            encoded(picture.convert("P"), "PNG", transparency=3),
            encoded(picture.convert("LA"), "PNG", icc_profile=b"profile" * 9),
            encoded(picture.convert("1"), "PNG"),
            encoded(wide, "PNG"),
            encoded(picture, "PNG", save_all=True, append_images=_pictures()[:1]),
        ]
    words = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL"]
    words += [b"fdAT", b"zTXt", b"iTXt", b"gAMA", b"sRGB", b"pHYs"]
    return Corpus("png", [*made, *_real("emoji/noto", "png")], words, mend_png)


@cache
def webp() -> Corpus:
    """WebPs: lossy, lossless, with alpha, animated, with EXIF."""
    made = []
    for index, picture in enumerate([*_pictures(), *_photos()]):
        clear = picture.convert("RGBA")
        clear.putalpha(128)
        made += [
            encoded(picture, "WEBP", quality=80),
            encoded(picture, "WEBP", lossless=True, exif=_exif(1 + index % 8)),
            encoded(clear, "WEBP", quality=60),
            encoded(picture, "WEBP", save_all=True, append_images=[clear], duration=50),
        ]
    words = [b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF"]
    return Corpus("webp", made, [*words, b"ICCP", b"XMP "])


@cache
def others() -> Corpus:
    """One or two files of each other kind of image."""
    first, second, third = _pictures()
    made = [
        encoded(first, "GIF"),
        encoded(second.convert("P"), "GIF", save_all=True, append_images=[third.convert("P")]),
        encoded(first, "BMP"),
        encoded(second.convert("P"), "BMP"),
        encoded(first, "TIFF"),
        encoded(second, "TIFF", compression="tiff_lzw"),
        encoded(third, "TIFF", compression="tiff_deflate", exif=_exif(6)),
        encoded(third, "TIFF", compression="jpeg"),
        encoded(third.convert("CMYK"), "TIFF"),
        encoded(first.convert("1"), "TIFF", compression="group4"),
        encoded(first, "PPM"),
        encoded(second.convert("L"), "PPM"),
        encoded(first, "AVIF"),
        encoded(second, "JPEG2000"),
        encoded(third, "ICO"),
    ]
    return Corpus("others", made, [b"MM\0*", b"II*\0", b"BM", b"P6 ", b"GIF89a", b"ftypavif"])


def _members() -> Iterator[tuple[str, bytes]]:
    for index, picture in enumerate(_pictures()):
        yield f"00/{index:03}.jpg", encoded(picture, "JPEG")
        yield f"00/{index:03}.txt", f"a text {index}".encode()
        yield f"00/{index:03}.json", json.dumps({"captions": ["one", "two"]}).encode()


@cache
def tar() -> Corpus:
    """Tars of each format, with links, folders, sparse and long names, and what macOS adds."""
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for odd in (False, True):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=form) as archive:
                for name, content in _members():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                if odd:
                    _add_odd(archive, form)
            made.append(file.getvalue())

    words = [
        b"ustar\0" + b"00",
        b"ustar  \0",
        b"././@LongLink",
        b"PaxHeader",
        b"GNU.sparse.map=0,1",
    ]
    words += [b"30 mtime=1e999\n", b"19 size=-1\n", b"12 path=\0\n", b"9 size=x\n"]
    words += [b"25 GNU.sparse.size=99999\n", b"28 GNU.sparse.numblocks=99\n"]
    return Corpus("tar", made, words, mend_tar)


def _add_odd(archive: tarfile.TarFile, form: int) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo(f"odd/{kind.decode()}.jpg")
        member.type = kind
        member.linkname = "00/000.jpg"
        archive.addfile(member)

    long_name = "x" * (90 if form == tarfile.USTAR_FORMAT else 300)
    for name in (long_name, "._000.jpg", "__MACOSX/a", "ÄÖ/日本.jpg", "no ending"):
        member = tarfile.TarInfo(name)
        member.size = 3
        if form == tarfile.PAX_FORMAT:
            member.pax_headers = {"comment": "x" * 40, "mtime": "1.5"}
        archive.addfile(member, io.BytesIO(b"abc"))


@cache
def settings() -> Corpus:
    """Lines of overrides, each as on a command line."""
    lines = (
        "batch_size=32\nnorm_group=8\nmodel=tiny\nname=run",
        "optimizer.lr=2e-3\noptimizer=lamb\nscheduler.warmup_steps=10",
        "model=tiny\nmodel.image_tower.drop_path=0.2\nmodel.image_size=64",
        "data=webdataset\ndata.shards=[a,b]\ndata.caption=json:captions\ndata.tokenizer=x",
        "eval=[demo,knn]\nlogger=wandb\ntrainer=cpu\ntrainer.devices=2",
        "+data.storage_options={anon:true,key:'x y'}\nlogger=null\nloss=sigmoid",
        "precision=bf16\nstrategy=fsdp\nmax_steps=100000\nseed=0",
    )
    words = [word.encode() for word in ("=", "+", "~", "++", "@", ".", ",", "null", "true", "1e3")]
    words += [word.encode() for word in ("${name}", "${oc.env:HOME}", "${", "}", "{a:1}", "[1,2]")]
    words += [word.encode() for word in ("'", '"', "\\", " ", "\n", "\t", "猫", "_target_", "???")]
    words += [
        word.encode() for word in ("model", "data", "eval", "optimizer", "hydra", "-1", "9" * 99)
    ]
    return Corpus("settings", [line.encode() for line in lines], words)


@cache
def manifest() -> Corpus:
    """Manifests, with and without selections."""
    plain = [{"shard": f"{index:05}.tar", "pairs": 9, "bytes": 10240} for index in range(3)]
    chosen = [{**row, "of": 12, "at": 2, "kept": "0123456789abcdef"} for row in plain]
    far = [{**row, "shard": f"https://host/{row['shard']}"} for row in plain]
    made = []
    for rows in (plain, chosen, far):
        made.append("".join(json.dumps(row) + "\n" for row in rows).encode())
    return Corpus("manifest", made, _JSON_WORDS)


@cache
def caption() -> Corpus:
    """Members with texts: plain ones, and JSON with one or several."""
    texts = ["a dog on a beach", "\ufeffa text of Notepad\r\n", "猫とネコ\u200b", "x" * 9000]
    records: list[object] = [
        {"captions": ["one", None, "two", 3, ["x"], "\ud800"]},
        {"captions": "one", "more": {"deep": [1, 2.5, None, {}]}},
        ["no", "object"],
    ]
    made = [text.encode() for text in texts]
    made += [json.dumps(record).encode() for record in records]
    made += [json.dumps(records[0]).encode("utf-16")]
    return Corpus("caption", made, _JSON_WORDS)
