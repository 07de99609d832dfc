"""The places that commands write to, checked twice: before torch is imported, and at the work."""

from __future__ import annotations

from pathlib import Path

from align_train.errors import UserError
from align_train.files import check_writable

_SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")

FIX = "give to=…, a folder that you can write"


def check_new_folder(to: str) -> Path:
    """Checks the folder that `export` makes.

    Args:
        to: The setting.

    Returns:
        The folder.

    Raises:
        UserError: It is a file, has files, or cannot be written.
    """
    folder = Path(to).expanduser().absolute()
    # An empty folder will do: the export is renamed into its place.
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"to={to}: exists already; choose a new folder")
    check_writable(folder, "give to=…, a new folder in one that you can write")
    return folder


def check_collection_folder(to: str, *, writes: bool = False) -> Path:
    """Checks the folder of a collection of embeddings.

    A collection that is done may be a colleague's: nothing is written to it.

    Args:
        to: The setting.
        writes: Whether embeddings are still to be written.

    Returns:
        The folder.

    Raises:
        UserError: It is to be written, and cannot be.
    """
    folder = Path(to).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"to={to}: a file; {FIX}")
    if writes or not folder.is_dir():
        # The name stands for any file in it: a trial is made in the folder itself.
        check_writable(folder / "collection", FIX)
    return folder


def check_results_folder(folder: Path) -> None:
    """Checks the folder of an evaluation's results; UserError: it cannot be written."""
    check_writable(folder / "results.json", FIX)


def check_sheet(to: str) -> Path:
    """Checks the image that `search` draws.

    Args:
        to: The setting.

    Returns:
        Its path.

    Raises:
        UserError: It has another name than an image, or cannot be written.
    """
    sheet = Path(to).expanduser()
    if sheet.suffix.lower() not in _SHEET_SUFFIXES or sheet.is_dir():
        raise UserError(f"to={to}: expected an image's path that ends in .png or .jpg")
    check_writable(sheet.absolute(), "give to=…, an image in a folder that you can write")
    return sheet
