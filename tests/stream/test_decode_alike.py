"""Training and evaluation see the same image of every file, or both refuse it."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_train.stream.bad_image import BadImage
from align_train.stream.decode import View, Views, decode, decode_centre
from tests.support.kinds import (
    JPEGS,
    KINDS,
    ORIENTATION,
    OTHERS,
    Pixels,
    damaged,
    ramp,
    turned,
    with_broken_metadata,
    with_segment,
)

SIZE = 24

# What is evaluated, and the view of training that shows the same.
VIEWS = (
    (Views(image_size=SIZE, resize_size=SIZE), View(0, 0, 1, 1)),
    (Views(image_size=SIZE, resize_size=30), View(0.1, 0.1, 0.9, 0.9)),
)

SIDES = st.tuples(st.integers(40, 400), st.integers(40, 400))
RANDOM = st.integers(0, 2**32).map(Random)
many = settings(deadline=None, max_examples=150)

# In levels, on average. A ramp has 215 of them: a pixel of 24 beside costs 6, another side up some
# 50. The two ways of resizing round differently. A plain JPEG is cut at whole pixels: half a pixel
# of 32, the fewest that a view has, is 3.4.
ROUNDED = 0.7
SNAPPED = ROUNDED + 3.4
LOSSY = 4  # to the ramp itself, of a codec or a palette
ANOTHER = 20  # of damaged images: no ramps any more, with sharp edges


def trained(data: bytes, view: View) -> Pixels | str:
    """The pixels, or the reason why there are none."""
    try:
        return decode(data, view, SIZE)
    except BadImage as error:
        return str(error)


def evaluated(data: bytes, views: Views) -> Pixels | str:
    try:
        return decode_centre(data, views)
    except BadImage as error:
        return str(error)


def distance(one: Pixels | str, other: Pixels | str) -> float:
    """The mean difference in levels; none if both are refused, endless if one is."""
    if isinstance(one, str) or isinstance(other, str):
        return 0 if isinstance(one, str) and isinstance(other, str) else float("inf")
    return float(np.abs(one.astype(int) - other).mean())


def shown(image: Image.Image, view: View, kind: str) -> Pixels:
    """The pixels that a file of some kind should give."""
    width, height = image.size
    box = (view.left * width, view.top * height, view.right * width, view.bottom * height)
    resized = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    if "grey" in kind or "16 bits" in kind:
        resized = resized.convert("L").convert("RGB")
    return np.asarray(resized)


@many
@given(
    kind=st.sampled_from([kind for kind in KINDS if kind != "PNG, 1 bit"]),
    sides=SIDES,
    orientation=st.integers(1, 8),
    by_xmp=st.booleans(),
)
def test_the_same_side_is_up(
    kind: str, sides: tuple[int, int], orientation: int, by_xmp: bool
) -> None:
    image = ramp(*sides)
    data = turned(kind, image, orientation, by_xmp=by_xmp)
    snapped = kind in JPEGS and (by_xmp and orientation == 1)
    for views, view in VIEWS:
        train, evaluate = trained(data, view), evaluated(data, views)
        assert distance(train, evaluate) <= (SNAPPED if snapped else ROUNDED)
        assert distance(evaluate, shown(image, view, kind)) <= LOSSY


@pytest.mark.parametrize("before", [b"\xff", b"\xff\xff\xff", b"\xff\xd0", b"\xff\x01", b"\0\0"])
@pytest.mark.parametrize("orientation", [2, 6])
def test_an_orientation_behind_odd_bytes_counts_for_both_or_for_none(
    before: bytes, orientation: int
) -> None:
    data = turned("baseline", ramp(90, 60), orientation, by_xmp=False)
    odd = data[:2] + before + data[2:]
    for views, view in VIEWS:
        assert distance(trained(odd, view), evaluated(odd, views)) <= ROUNDED


@pytest.mark.parametrize("kind", [5, 10, 11, 12])  # fractions and floats, as TIFF numbers its types
@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("sides", [(90, 60), (301, 401), (700, 900)])
def test_an_orientation_that_is_no_integer_turns_nothing(
    kind: int, orientation: int, sides: tuple[int, int]
) -> None:
    image = ramp(*sides)
    value = {
        5: struct.pack(">II", orientation, 1),
        10: struct.pack(">ii", orientation, 1),
        11: struct.pack(">f", orientation),
        12: struct.pack(">d", orientation),
    }[kind]
    tags = b"MM\0*" + struct.pack(">IHHHI", 8, 1, ORIENTATION, kind, 1)
    if len(value) > 4:
        tags += struct.pack(">I", 26) + b"\0\0\0\0"
    data = with_segment(KINDS["baseline"](image), 0xE1, b"Exif\0\0" + tags + value + b"\0" * 4)
    for views, view in VIEWS:
        train, evaluate = trained(data, view), evaluated(data, views)
        assert distance(train, evaluate) <= SNAPPED
        assert distance(evaluate, shown(image, view, "baseline")) <= LOSSY


@pytest.mark.parametrize("kind", KINDS)
def test_files_without_a_word_about_their_side_are_seen_alike(kind: str) -> None:
    for sides in ((40, 300), (213, 57), (400, 399)):
        data = KINDS[kind](ramp(*sides))
        for views, view in VIEWS:
            train, evaluate = trained(data, view), evaluated(data, views)
            assert not isinstance(train, str)
            assert distance(train, evaluate) <= (SNAPPED if kind in JPEGS else ROUNDED)


@many
@given(kind=st.sampled_from([kind for kind in KINDS if kind not in OTHERS]), random=RANDOM)
def test_metadata_that_cannot_be_read_cost_nothing(kind: str, random: Random) -> None:
    sound = KINDS[kind](ramp(90, 60))
    broken = with_broken_metadata(kind, sound, random)
    assert broken != sound
    for views, view in VIEWS:
        assert distance(evaluated(broken, views), evaluated(sound, views)) == 0
        snapped = kind in JPEGS  # EXIF, even that, takes a JPEG another way
        assert distance(trained(broken, view), trained(sound, view)) <= SNAPPED * snapped


@many
@given(kind=st.sampled_from([*JPEGS]), sides=SIDES, random=RANDOM)
def test_stray_bytes_that_every_viewer_skips_cost_nothing(
    kind: str, sides: tuple[int, int], random: Random
) -> None:
    sound = KINDS[kind](ramp(*sides))
    noise = bytes(random.choices(range(255), k=random.randint(1, 300)))
    places = [len(sound) - 2, len(sound), sound.index(b"\xff\xdb")]
    at = random.choice(places)  # before the end, behind it, or between segments
    stray = sound[:at] + noise + sound[at:]
    for views, view in VIEWS:
        assert distance(evaluated(stray, views), evaluated(sound, views)) == 0
        assert distance(trained(stray, view), trained(sound, view)) <= SNAPPED


@many
@given(kind=st.sampled_from([*KINDS]), random=RANDOM)
def test_a_damaged_file_is_refused_by_both_or_by_none(kind: str, random: Random) -> None:
    data = damaged(KINDS[kind](ramp(90, 60)), random)
    for views, view in VIEWS:
        train, evaluate = trained(data, view), evaluated(data, views)
        assert distance(train, evaluate) <= ANOTHER
        if isinstance(train, str):
            assert "\n" not in train and len(train) < 200


@pytest.mark.parametrize("kind", ["baseline", "progressive", "PNG", "WebP", "TIFF, packed", "CMYK"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_a_file_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    data = KINDS[kind](ramp(200, 160))
    cut = data[: int(share * len(data))]
    for views, view in VIEWS:
        assert isinstance(trained(cut, view), str) and isinstance(evaluated(cut, views), str)
