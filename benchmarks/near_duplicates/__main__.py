"""The perceptual hash on altered copies of 51 photos among other images, at several distances.

    python -m benchmarks.near_duplicates [--data ../shared/data]

The photos are the evaluation images. Each has copies as the web has them: rescaled to a half and to
200 pixels, recompressed at JPEG quality 60 and 20, made grey, brightened, cropped by 1, 2, 5 and
10 % of each side.

*Recall* is the share of copies that the rule drops. A *false positive* is an image that is no copy
and is dropped: every photo and copy against the 50 other photos, and 3,090 drawn emoji against all
photos. Chance: among random hashes, of whose 64 bits half are set as in all of these, the share
that is near one given hash. Distances are Hamming's.

Price: a minute on one core.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of
from data.filter.hashes import perceptual_hash

DISTANCES = (0, 2, 4, 6, 8, 10, 12)
BITS = 64  # of a hash, of which half are set

Hashes = NDArray[np.uint64]
Distances = NDArray[np.int64]


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scaled(image: Image.Image, longest: float) -> Image.Image:
    """Rescales an image; its longer side becomes `longest` pixels."""
    ratio = longest / max(image.size)
    width = max(1, round(image.width * ratio))
    height = max(1, round(image.height * ratio))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Takes a share of the width off at the left and right, of the height at top and bottom."""
    x = round(image.width * share)
    y = round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def copies_of(photo: Image.Image) -> dict[str, bytes]:
    """Returns the altered copies of a photo by the names of the alterations."""
    longest = max(photo.size)
    brightness = ImageEnhance.Brightness(photo)
    copies = {
        "rescaled to a half": jpeg(scaled(photo, longest / 2)),
        "rescaled to 200 pixels": jpeg(scaled(photo, 200)),
        "recompressed, quality 60": jpeg(photo, 60),
        "recompressed, quality 20": jpeg(photo, 20),
        "grey": jpeg(photo.convert("L")),
        "brightened by a fifth": jpeg(brightness.enhance(1.2)),
    }

    for percent in (1, 2, 5, 10):
        name = f"cropped by {percent} % a side"
        copies[name] = jpeg(cropped(photo, percent / 100))
    return copies


def hashes(images: list[bytes]) -> Hashes:
    """Hashes the images that can be read."""
    texts = [perceptual_hash(image) for image in images]
    return np.array([int(text, 16) for text in texts if text], dtype=np.uint64)


def distances(some: Hashes, others: Hashes) -> Distances:
    """Counts the bits that differ: `[some, others]`."""
    different = some[:, None] ^ others[None, :]
    bits: Distances = np.bitwise_count(different).astype(np.int64)
    return bits


def chance(most: int) -> float:
    """Returns the share of random hashes within `most` bits of a given one."""
    # As many bits are cleared as set, since half of them stay set.
    half = BITS // 2
    near = sum(comb(half, bits) ** 2 for bits in range(most // 2 + 1))
    return near / comb(BITS, half)


def shares(bits: Distances) -> list[float]:
    """Returns the share of distances that are at most each of `DISTANCES`."""
    return [float((bits <= most).mean()) for most in DISTANCES]


def counts(bits: Distances) -> list[int]:
    """Counts the distances that are at most each of `DISTANCES`."""
    return [int((bits <= most).sum()) for most in DISTANCES]


def line(name: str, values: Sequence[float], form: str) -> str:
    cells = " | ".join(form.format(value) for value in values)
    return f"| {name} | {cells} |"


def main() -> None:
    parser = parser_of("near_duplicates", __doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=REPOSITORY.parent / "shared" / "data",
        help="a folder with photos/*.jpg and emoji/*/*.png",
    )
    data = parser.parse_args().data

    photos = read_all(data / "photos", "*.jpg")
    emoji = read_all(data / "emoji", "*/*.png")
    copies: dict[str, list[bytes]] = {}
    for photo in photos:
        image = Image.open(io.BytesIO(photo)).convert("RGB")
        for name, copy in copies_of(image).items():
            copies.setdefault(name, []).append(copy)

    print(
        f"{len(photos)} evaluation photos, {len(photos) * len(copies)} altered copies, "
        f"{len(emoji)} emoji\n"
    )
    print(line("recall, at a distance of at most", DISTANCES, "{}"))
    print("|---|" + "--:|" * len(DISTANCES))
    report(photos, copies, emoji)
    by_chance = [chance(most) for most in DISTANCES]
    print(line("chance, of a random hash and one photo", by_chance, "{:.0e}"))


def read_all(folder: Path, pattern: str) -> list[bytes]:
    """Reads the files of a folder in the order of their names."""
    return [path.read_bytes() for path in sorted(folder.glob(pattern))]


def report(photos: list[bytes], copies: dict[str, list[bytes]], emoji: list[bytes]) -> None:
    """Prints recall and false positives.

    Args:
        photos: The evaluation images.
        copies: Copies of all photos, in their order, by the name of the alteration.
        emoji: Images that are no copies.
    """
    evaluation = hashes(photos)
    to_photos = {}
    for name, altered in copies.items():
        to_photos[name] = distances(hashes(altered), evaluation)

    # A copy comes from the photo of the same index.
    own = np.eye(len(photos), dtype=bool)
    for name, bits in to_photos.items():
        print(line(name, shares(bits[own]), "{:.0%}"))
    all_copies = np.concatenate([bits[own] for bits in to_photos.values()])
    print(line("all copies", shares(all_copies), "{:.1%}"))

    nearest = []
    for bits in (distances(evaluation, evaluation), *to_photos.values()):
        others = np.where(own, BITS, bits)
        nearest.append(others.min(axis=1))
    false = np.concatenate(nearest)
    of_emoji = distances(hashes(emoji), evaluation).min(axis=1)
    print(line(f"{len(false)} photos and copies, near another photo", counts(false), "{}"))
    print(line(f"{len(emoji)} emoji, near a photo", counts(of_emoji), "{}"))


if __name__ == "__main__":
    main()
