"""Fixtures that several tests of the offline commands use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images import plain_image


@pytest.fixture
def sorted_table(tmp_path: Path) -> Path:
    """100 images of 10 colours, sorted by colour, with two texts each."""
    (tmp_path / "images").mkdir()
    lines = ["file\tname\tkeywords\tlanguage"]
    for index in range(100):
        (tmp_path / "images" / f"{index:03d}.png").write_bytes(
            plain_image((25 * (index // 10), 0, index))
        )
        lines.append(f'{index:03d}\tcolour {index // 10}\tkey "{index}"|word\ten')
        lines.append(f"{index:03d}\tFarbe {index // 10}\tSchluessel\tde")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "table.tsv"
