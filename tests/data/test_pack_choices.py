"""Which texts, columns and images `data.pack` takes, and what it says about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from data import pack
from tests.support.forms import IMAGES, write_images
from tests.support.packing import pack_settings, packed


@pytest.mark.parametrize(
    ("separator", "captions", "note"),
    [
        (None, {"one\ntwo\tthree"}, r"1 text has several lines; 'separator=\n' makes each line"),
        (r"\n", {"one", "two\tthree"}, ""),
        ("\n", {"one", "two\tthree"}, ""),
        (r"\t", {"one\ntwo", "three"}, "1 text has several lines"),
        ("|", {"one\ntwo\tthree"}, "separator='|' occurs in no text"),
    ],
)
def test_lines_of_a_text_are_texts_if_the_separator_says_so(
    separator: str | None,
    captions: set[str],
    note: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_bytes(b"one\r\ntwo\tthree\r\n")
    pack.run(pack_settings(tmp_path / "in", tmp_path / "packed", separator=separator))
    assert packed(tmp_path / "packed")[IMAGES["a.png"]][1] == captions
    out = capsys.readouterr().out
    assert note in out and (note or "several lines" not in out)
