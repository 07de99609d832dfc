"""What the perceptual hash finds: altered copies of 51 photos among other pictures, at several Hamming distances.

    python -m benchmarks.near_duplicates [--data ../shared/data]

The photos are the evaluation pictures. Of each, copies as the web has them: rescaled to a half and to 200 pixels, recompressed
at JPEG quality 60 and 20, made grey, brightened, cropped by 1, 2, 5 and 10 % of each side. *Recall* is the share of copies that
the rule drops; a *false positive* is a picture that is no copy and is dropped: every photo and copy against the 50 other
photos, and 3,090 drawn emoji against all photos. Chance: of random hashes, of whose 64 bits half are set as in all of these,
the share that is near one given hash.

Price: a minute on one core.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.shared.children import TOP
from data.filter.hashes import perceptual_hash

DISTANCES = (0, 2, 4, 6, 8, 10, 12)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scaled(image: Image.Image, longest: float) -> Image.Image:
    ratio = longest / max(image.size)
    return image.resize(
        (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))),
        Image.Resampling.BICUBIC,
    )


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without `share` of the width at the left and right, and of the height at the top and bottom."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


ALTERATIONS: dict[str, Callable[[Image.Image], bytes]] = {
    "rescaled to a half": lambda image: jpeg(scaled(image, max(image.size) / 2)),
    "rescaled to 200 pixels": lambda image: jpeg(scaled(image, 200)),
    "recompressed, quality 60": lambda image: jpeg(image, 60),
    "recompressed, quality 20": lambda image: jpeg(image, 20),
    "grey": lambda image: jpeg(image.convert("L")),
    "brightened by a fifth": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.2)),
    "cropped by 1 % a side": lambda image: jpeg(cropped(image, 0.01)),
    "cropped by 2 % a side": lambda image: jpeg(cropped(image, 0.02)),
    "cropped by 5 % a side": lambda image: jpeg(cropped(image, 0.05)),
    "cropped by 10 % a side": lambda image: jpeg(cropped(image, 0.10)),
}


def hashes(pictures: list[bytes]) -> NDArray[np.uint64]:
    found = [perceptual_hash(picture) for picture in pictures]
    return np.array([int(text, 16) for text in found if text], dtype=np.uint64)


def distances(some: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits that differ, `[some, others]`."""
    bits: NDArray[np.int64] = np.bitwise_count(some[:, None] ^ others[None, :]).astype(np.int64)
    return bits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=TOP.parent / "shared" / "data")
    data = parser.parse_args().data
    photos = [path.read_bytes() for path in sorted((data / "photos").glob("*.jpg"))]
    images = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
    evaluation = hashes(photos)
    copies = {
        name: hashes([alter(image) for image in images]) for name, alter in ALTERATIONS.items()
    }
    emoji = hashes([path.read_bytes() for path in sorted((data / "emoji").glob("*/*.png"))])

    own = np.eye(len(photos), dtype=bool)
    apart = {
        name: distances(found, evaluation) for name, found in {"": evaluation, **copies}.items()
    }
    print(
        f"{len(photos)} evaluation photos, {len(photos) * len(copies)} altered copies, {len(emoji)} emoji\n"
    )
    print("| recall, at a distance of at most | " + " | ".join(map(str, DISTANCES)) + " |")
    print("|---|" + "--:|" * len(DISTANCES))
    for name in copies:
        print(
            _line(name, [float((apart[name][own] <= most).mean()) for most in DISTANCES], "{:.0%}")
        )
    together = np.concatenate([apart[name][own] for name in copies])
    print(_line("all copies", [float((together <= most).mean()) for most in DISTANCES], "{:.1%}"))
    others = np.stack([np.where(own, 64, found).min(axis=1) for found in apart.values()]).ravel()
    nearest = distances(emoji, evaluation).min(axis=1)
    print(
        _line(
            f"{len(others)} photos and copies, near another photo",
            [int((others <= most).sum()) for most in DISTANCES],
            "{}",
        )
    )
    print(
        _line(
            f"{len(emoji)} emoji, near a photo",
            [int((nearest <= most).sum()) for most in DISTANCES],
            "{}",
        )
    )
    near = list(
        itertools.accumulate(math.comb(32, bits) ** 2 for bits in range(max(DISTANCES) // 2 + 1))
    )
    chance = [near[most // 2] / math.comb(64, 32) for most in DISTANCES]
    print(_line("chance, of a random hash and one photo", chance, "{:.0e}"))


def _line(name: str, values: list[float] | list[int], form: str) -> str:
    return f"| {name} | " + " | ".join(form.format(value) for value in values) + " |"


if __name__ == "__main__":
    main()
