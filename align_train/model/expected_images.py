"""The images that a tower's makers trained it on: size, resizing, mean and deviation.

timm's models say it in their `pretrained_cfg`, Hugging Face's in `preprocessor_config.json`. Both
come down to the settings of `model` that are named here. What our transform cannot do is an error;
nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align_train.errors import UserError, shown
from align_train.model.settings import Settings

# What a model's settings and its images have in common, beside both sizes.
PREPARATION = ("resize", "interpolation", "image_mean", "image_std")

_INTERPOLATIONS = ("bilinear", "bicubic")
_BY_PILLOWS_NUMBER = {2: "bilinear", 3: "bicubic"}

_TIMM_RESIZES = {"center": "timm", "squash": "squash"}


@dataclass(frozen=True)
class ExpectedImages:
    """How images must be prepared for a tower.

    Attributes:
        image_size: Pixels, the side of the crop.
        resize_size: Pixels before the crop; see `Views`.
        resize: See `Views`.
        interpolation: See `Views`.
        image_mean: Of each channel, 0 to 1.
        image_std: Of each channel.
    """

    image_size: int
    resize_size: int
    resize: str
    interpolation: str
    image_mean: Sequence[float]
    image_std: Sequence[float]

    def resize_size_for(self, image_size: int) -> int:
        """Returns `resize_size` for another size of the crop, in the same proportion."""
        if image_size == self.image_size:
            return self.resize_size
        # Rounded down, the image must not become smaller than its crop.
        return max(image_size, image_size * self.resize_size // self.image_size)


def spell_images(node: Settings) -> str:
    """Says in words how a model's images are prepared.

    Args:
        node: The model's settings, both sizes among them.
    """
    size = node["image_size"]
    whole = node["resize_size"]
    how = "squashed to" if node.get("resize") in (None, "squash") else "the shorter side resized to"
    text = f"{how} {whole} pixels, cropped to {size}, {node.get('interpolation') or 'bilinear'}"

    mean = node.get("image_mean")
    std = node.get("image_std")
    if mean is None and std is None:
        return f"{text}, x / 127.5 - 1"
    return f"{text}, mean {_spelled(mean)}, deviation {_spelled(std)}"


def _spelled(values: Sequence[float] | None) -> str:
    return "0.5" if values is None else " ".join(f"{value:g}" for value in values)


def of_timm(config: Settings, source: str) -> ExpectedImages:
    """Reads a configuration of timm's.

    Args:
        config: As `timm.data.resolve_data_config` gives it.
        source: The model, for errors.

    Raises:
        UserError: Our transform cannot do that.
    """
    _, height, width = config["input_size"]
    # Rounded down as timm does it, so that crops agree to the pixel.
    resize_size = math.floor(width / config["crop_pct"])
    resize = _TIMM_RESIZES.get(config["crop_mode"])
    if height != width or resize_size < width or resize is None:
        raise UserError(
            f"{source}: expects {height} x {width} pixels, crop_pct={config['crop_pct']}, "
            f"crop_mode={shown(config['crop_mode'])}; our transform cuts squares out of larger "
            f"images (crop_mode center or squash)"
        )
    return ExpectedImages(
        image_size=width,
        resize_size=resize_size,
        resize=resize,
        interpolation=_interpolation(config["interpolation"], source),
        image_mean=_channels(config["mean"], source),
        image_std=_channels(config["std"], source),
    )


def of_processor(settings: Settings, source: str) -> ExpectedImages:
    """Reads the settings of an image processor of Hugging Face's.

    Args:
        settings: The content of `preprocessor_config.json`.
        source: The file, for errors.

    Raises:
        UserError: Our transform cannot do that, or a size is missing.
    """
    # Our transform always does the first two and never the third: pixels would differ unnoticed.
    for name, wanted in {"do_resize": True, "do_rescale": True, "include_top": False}.items():
        if settings.get(name, wanted) != wanted:
            raise UserError(
                f"{source}: {name} is {shown(settings[name])}; our transform can only be {wanted} "
                f"there"
            )

    try:
        resize, resize_size = _resized(settings)
        image_size = resize_size
        # Without a crop, only squashing gives a square.
        if settings.get("do_center_crop"):
            image_size = _side(settings["crop_size"])
        elif resize != "squash":
            raise ValueError("no crop")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{source}: size and crop_size are not squares, or are missing; "
            f"expected equal height and width, or a shortest_edge and a crop"
        ) from None

    resample = settings.get("resample", 2)
    mean, std = _normalisation(settings, source)
    return ExpectedImages(
        image_size=image_size,
        resize_size=resize_size,
        resize=resize,
        interpolation=_interpolation(_BY_PILLOWS_NUMBER.get(resample, resample), source),
        image_mean=mean,
        image_std=std,
    )


def _resized(settings: Settings) -> tuple[str, int]:
    """How images are resized, and to which size."""
    size = settings["size"]
    kinds = ("image_processor_type", "feature_extractor_type")
    is_clip = any("CLIP" in str(settings.get(kind)) for kind in kinds)
    # Older files have a bare number, which CLIP's processor takes for the shorter side.
    if isinstance(size, int) and is_clip:
        return "hugging_face", size
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return "hugging_face", int(size["shortest_edge"])
    return "squash", _side(size)


def _side(size: Mapping[str, int] | int) -> int:
    if isinstance(size, int):
        return size
    if size["height"] != size["width"]:
        raise ValueError("not a square")
    return int(size["height"])


def _normalisation(settings: Settings, source: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of their two steps in one: x * factor - offset, then (x - mean) / std."""
    try:
        # The value of a full pixel after their first step, which is 1 in ours.
        whole = 255 * float(settings.get("rescale_factor", 1 / 255))
        offset = 1.0 if settings.get("rescale_offset") else 0.0
        mean: Sequence[float] = (0.0, 0.0, 0.0)
        std: Sequence[float] = (1.0, 1.0, 1.0)
        if settings.get("do_normalize", "image_mean" in settings):
            mean = _channels(settings["image_mean"], source)
            std = _channels(settings["image_std"], source)
        # As exact as the numbers are: 1 / 127.5 becomes 0.5 again.
        means = [round((offset + value) / whole, 9) for value in mean]
        stds = [round(value / whole, 9) for value in std]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(
            f"{source}: rescale_factor, image_mean or image_std is no number, or is missing; "
            f"add them"
        ) from None
    return means, stds


def _channels(values: object, source: str) -> list[float]:
    if isinstance(values, Sequence) and len(values) == 3:
        return [float(value) for value in values]
    raise UserError(
        f"{source}: the mean or deviation is {shown(values)}; expected three numbers, "
        f"of red, green and blue"
    )


def _interpolation(name: object, source: str) -> str:
    if name not in _INTERPOLATIONS:
        raise UserError(
            f"{source}: expects interpolation {shown(name)}; our transform can do "
            f"{' and '.join(_INTERPOLATIONS)}"
        )
    return str(name)
