"""The site of the docs, built by mkdocs, and what mkdocs has against it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tests.support.commands import REPOSITORY

_REFERENCE = ("mkdocstrings", "api-autonav")


def build_pages(site: Path) -> list[str]:
    """Builds the site without the reference, which is made from the code.

    Args:
        site: The folder to fill.

    Returns:
        The warnings.
    """
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config: Any = load_config(
        str(REPOSITORY / "mkdocs.yml"),
        site_dir=str(site),
        strict=False,  # a list of all warnings is more than an end at the first ones
        plugins=["search"],
    )
    config.nav = [section for section in config.nav if "Reference" not in section]
    return _warnings_of(lambda: build(config))


def _warnings_of(task: Any) -> list[str]:
    said: list[str] = []

    class Listed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    handler = Listed(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(handler)
    try:
        task()
    finally:
        logger.removeHandler(handler)
    return said
