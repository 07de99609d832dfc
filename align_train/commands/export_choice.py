"""The settings of `export`, checked before torch is imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from align_train.commands.targets import check_new_folder
from align_train.config.command_schema import ExportSettings
from align_train.errors import UserError, shown
from align_train.pretrained import BEGIN

FOLDERS = ("huggingface", "align_train")
"""The formats of folders that `load` reads."""

ONNX = "onnx"

_LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


def check_export(settings: ExportSettings) -> None:
    """Checks format and place. Nothing is opened, and the hub is not asked.

    Args:
        settings: The command's settings.

    Raises:
        UserError: One of them is wrong, or a library is missing.
    """
    check_format(settings.format, (*FOLDERS, ONNX))
    if settings.format == ONNX:
        check_onnx()
    if settings.to is None and settings.push is None:
        raise UserError("give to=…, a new folder, or push=OWNER/NAME on the Hugging Face hub")
    # A push that was cut has left its folder, and goes on from it.
    if settings.to is not None and not (settings.push and is_export(settings.to)):
        check_new_folder(settings.to)


def check_format(name: str | None, formats: tuple[str, ...] = FOLDERS) -> None:
    """Refuses a format that a command does not write; None: the command chooses.

    Args:
        name: The setting.
        formats: Those that it writes.

    Raises:
        UserError: It is another.
    """
    if name not in (None, *formats):
        raise UserError(f"format={shown(name)}: expected {' or '.join(formats)}, or null")


def check_onnx() -> None:
    """Looks for the libraries of ONNX; UserError: one is missing."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"format=onnx: {', '.join(missing)} not installed; pip install 'align_train[onnx]'"
        )


def is_export(to: str) -> bool:
    """Whether a folder looks like one of ours: a push that was cut may have left it."""
    card = Path(to).expanduser() / "README.md"
    # The README may be anybody's, in any encoding.
    return card.is_file() and BEGIN in card.read_text(encoding="utf-8", errors="replace")
