"""The settings of `data.repeats`, and all that can be wrong with them before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError, shown, shown_names
from align_train.index.scores import SCORES, Scores
from align_train.index.settings import SETTINGS_NAME, Settings

from ..packing.beside import check_place
from ..tables.paths import check_storage_options

ALL_COMPARED = 65_536  # images; as many or fewer are one cell


@dataclass
class RepeatsSettings:
    """`conf/commands/repeats.yaml` explains each key and has the defaults."""

    source: str
    to: str
    threshold: float
    scores: str | None
    score: str
    cells: int | None
    probes: int
    storage_options: Any  # a mapping or None


def check(settings: RepeatsSettings) -> None:
    """Checks the settings before anything large is read.

    Args:
        settings: The command's settings.

    Raises:
        UserError: A number is out of range, or a folder is not as expected.
    """
    # `not <` refuses NaN too.
    if not 0 < settings.threshold < 1:
        raise UserError(
            f"threshold={settings.threshold}: expected a cosine above 0 and below 1, e.g. 0.95"
        )
    for name, number in (("cells", settings.cells), ("probes", settings.probes)):
        if number is not None and number < 1:
            raise UserError(f"{name}={number}: expected at least 1")

    check_storage_options(settings.storage_options)

    if Settings.read(_file(settings.source, SETTINGS_NAME, "source", "embed")).plain:
        raise UserError(
            f"source={settings.source}: was made of a folder of image files, which no manifest "
            f"lists; make shards of it with align-train pack, and embed these"
        )
    if settings.scores is not None:
        header = Scores.open(_file(settings.scores, SCORES, "scores", "score").parent).header
        if settings.score not in header.columns:
            raise UserError(
                f"score={shown(settings.score)}: no such column; {settings.scores} has "
                f"{shown_names(header.columns)}"
            )

    check_place(settings.to, Path(settings.to).expanduser())


def cells_of(settings: RepeatsSettings, images: int) -> int:
    """How many cells the images are sorted into.

    Args:
        settings: The command's settings.
        images: The images that could be decoded.
    """
    if settings.cells is not None:
        return max(1, min(settings.cells, images))
    # As much work to find the cells of all images as to compare them within the cells.
    return 1 if images <= ALL_COMPARED else round(images**0.5)


def _file(given: str, name: str, key: str, command: str) -> Path:
    """The file that says what a folder holds."""
    path = Path(given).expanduser() / name
    if not path.is_file():
        raise UserError(
            f"{key}={shown(given)}: no {name} there; make it with align-train {command} "
            f"model=… shards=… to={shown(given)}"
        )
    return path
