"""Images of every kind are decoded upright, as RGB, at the size of the view."""

from __future__ import annotations

import io
import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_train.stream import bad_image
from align_train.stream.decode import View, Views, decode, decode_centre, snapped
from tests.support.commands import REPOSITORY

WHOLE = View(0, 0, 1, 1)


PHOTOS = REPOSITORY.parent / "shared" / "data" / "photos"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_red() -> Image.Image:
    """Left half red, right half blue, 64 × 48."""
    image = Image.new("RGB", (64, 48), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 32, 48))
    return image


def assert_half_red(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels[:, :7].astype(int) - [255, 0, 0]).max() < 30
    assert np.abs(pixels[:, 9:].astype(int) - [0, 0, 255]).max() < 30


@pytest.mark.parametrize(
    "data",
    [
        encoded(half_red(), "JPEG", quality=95, subsampling=0),
        encoded(half_red(), "PNG"),
        encoded(half_red(), "WEBP", lossless=True),
        encoded(half_red().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        encoded(half_red().convert("RGBA"), "PNG"),
        encoded(half_red().convert("CMYK"), "JPEG", quality=95),
    ],
)
def test_every_kind_of_image_is_decoded(data: bytes) -> None:
    assert_half_red(decode(data, WHOLE, 16))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90° clockwise to see it upright
    lying = half_red().transpose(Image.Transpose.ROTATE_90)
    assert_half_red(decode(encoded(lying, "JPEG", quality=95, subsampling=0, exif=exif), WHOLE, 16))


def test_grey_images_of_8_and_16_bits_decode_alike() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    wide = decode(encoded(Image.fromarray(ramp), "PNG"), WHOLE, 64)
    narrow = decode(
        encoded(Image.fromarray((ramp / 257).round().astype(np.uint8)), "PNG"), WHOLE, 64
    )
    assert np.abs(wide.astype(int) - narrow).max() <= 1
    assert (wide[..., 0] == wide[..., 2]).all()
    assert wide.max() > 250


def test_transparent_pixels_become_white() -> None:
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert (decode(encoded(clear, "PNG"), WHOLE, 8) == 255).all()
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (decode(encoded(palette, "PNG", transparency=0), WHOLE, 8) == 255).all()


def test_errors_say_why_an_image_is_bad() -> None:
    jpeg = encoded(half_red(), "JPEG")
    for data, reason in [
        (b"", "not an image of a known kind"),
        (b"<html>not found</html>", "not an image of a known kind"),
        (jpeg[: len(jpeg) // 2], "broken|truncated"),
        (encoded(half_red(), "PNG")[:60], "broken|truncated|not a"),
        (encoded(half_red(), "EPS"), "not an image of a known kind"),
    ]:
        with pytest.raises(ValueError, match=reason):
            decode(data, WHOLE, 16)


def test_an_orientation_that_is_no_number_is_ignored() -> None:
    """Orientation 6 is stored as bytes here, and Pillow returns those bytes."""
    entry = struct.pack("<HHI4s", 0x0112, 7, 1, b"\x06")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    plain = encoded(half_red(), "JPEG")
    odd = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert isinstance(Image.open(io.BytesIO(odd)).getexif()[0x0112], bytes)
    assert np.array_equal(decode(odd, WHOLE, 16), decode(plain, WHOLE, 16))


def test_decompression_bombs_are_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_image, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(encoded(half_red(), "PNG"), WHOLE, 16)


def test_an_image_of_one_pixel_is_decoded() -> None:
    assert (
        decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), WHOLE, 16) == [9, 8, 7]
    ).all()


def test_the_centre_view_is_the_resize_and_crop_of_the_paper() -> None:
    """Pillow resizes to 346 and crops 289 at the centre; the pixels differ only by rounding."""
    noise = Random(0)
    rough = Image.frombytes("RGB", (40, 30), noise.randbytes(3600)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    views = Views(image_size=289, resize_size=346)
    ours = decode_centre(encoded(rough, "PNG"), views).astype(int)
    plain = rough.resize((346, 346), Image.Resampling.BILINEAR).crop((28, 28, 317, 317))
    difference = np.abs(ours - np.asarray(plain).astype(int))
    assert difference.max() <= 2


def test_views_depend_on_the_seed_alone_and_stay_inside_the_image() -> None:
    for views in (
        Views(image_size=289, resize_size=346),
        Views(image_size=64, resize_size=64, least_scale=0.2),
    ):
        for seed in range(200):
            view = views.draw(Random(seed))
            assert view == views.draw(Random(seed))
            assert 0 <= view.left < view.right <= 1 + 1e-9
            assert 0 <= view.top < view.bottom <= 1 + 1e-9


@pytest.mark.skipif(
    not PHOTOS.exists(), reason="real photos lie beside the project, where they are"
)
def test_scaled_decode_keeps_40_db_on_real_photos() -> None:
    """A scaled JPEG decode plus a resize is compared with a full decode and a resize in float."""
    for path in sorted(PHOTOS.glob("*.jpg"))[:25]:
        fast = decode(path.read_bytes(), WHOLE, 100).astype(float)
        image = Image.open(path).convert("RGB")
        factor, corners = snapped(WHOLE, 100, image.height, image.width)
        assert factor > 1
        left, top, right, bottom = (corner * factor for corner in corners)
        planes = [
            np.asarray(
                Image.fromarray(plane).resize(
                    (100, 100), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
                )
            )
            for plane in np.moveaxis(np.asarray(image).astype(np.float32), -1, 0)
        ]
        error = ((fast - np.stack(planes, -1)) ** 2).mean()
        assert 10 * np.log10(255**2 / error) >= 40, path.name


@given(
    sides=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    size=st.integers(1, 400),
    seed=st.integers(0, 2**32),
    least=st.sampled_from([0.1, 1.0]),
)
def test_a_snapped_view_lies_inside_and_within_a_pixel_of_the_view(
    sides: tuple[int, int], size: int, seed: int, least: float
) -> None:
    height, width = sides
    view = Views(image_size=size, resize_size=size + size // 5, least_scale=least).draw(
        Random(seed)
    )
    factor, (left, top, right, bottom) = snapped(view, size, height, width)
    assert 0 <= left < right <= max(1, width // factor) and 0 <= top < bottom <= max(
        1, height // factor
    )
    for found, wanted, side in (
        (left, view.left, width),
        (right, view.right, width),
        (top, view.top, height),
    ):
        assert abs(found * factor - wanted * side) <= 2 * factor
    if factor > 1:
        assert min(right - left, bottom - top) >= size


def test_the_fast_and_the_general_decoder_agree() -> None:
    """A JPEG and a PNG of its pixels give the same views within rounding.

    The views lie on whole pixels.
    """
    rough = Image.frombytes("RGB", (40, 30), Random(0).randbytes(3600)).resize(
        (400, 300), Image.Resampling.BICUBIC
    )
    jpeg = encoded(rough, "JPEG", quality=95)
    same = encoded(Image.open(io.BytesIO(jpeg)).convert("RGB"), "PNG")
    for view in (WHOLE, View(0.25, 0.1, 0.75, 0.9), View(0.25, 0.1, 0.75, 0.9, mirrored=True)):
        assert np.abs(decode(jpeg, view, 200).astype(int) - decode(same, view, 200)).max() <= 4

    # Either way knows both interpolations.
    cubic = [decode(data, WHOLE, 200, interpolation="bicubic").astype(int) for data in (jpeg, same)]
    assert np.abs(cubic[0] - cubic[1]).max() <= 2
    assert np.abs(cubic[0] - decode(jpeg, WHOLE, 200)).max() > 4
