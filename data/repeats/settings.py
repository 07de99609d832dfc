"""The settings of `data.repeats`, and all that can be wrong with them before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError, shown, shown_names
from align_train.files import check_writable
from align_train.index.scores import SCORES, Scores
from align_train.index.settings import Settings
from align_train.shards.remote import is_url

COLLECTION = "collection.json"

ALL_COMPARED = 65_536  # images; as many or fewer are one cell
_FIX = "give to=…, a new folder in one that you can write"


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


def check(settings: RepeatsSettings) -> Settings:
    """Checks the settings before anything large is read.

    Args:
        settings: The command's settings.

    Returns:
        The settings that the collection was made with.

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

    if not isinstance(settings.storage_options, Mapping | None):
        raise UserError(
            f"storage_options={shown(settings.storage_options)}: expected settings, e.g. "
            f"{{anon:true}}, or null"
        )

    collection = Settings.read(_file(settings.source, COLLECTION, "source", "embed"))
    if collection.plain:
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

    _check_place(settings)
    return collection


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


def _check_place(settings: RepeatsSettings) -> None:
    if is_url(settings.to):
        raise UserError(
            f"to={shown(settings.to)}: expected a folder here; upload it when it is done"
        )
    to = Path(settings.to).expanduser()
    if to.exists() or to.is_symlink():
        raise UserError(f"to={settings.to} exists; remove it or choose another folder")
    check_writable(to, _FIX)
