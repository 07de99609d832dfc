"""The notebook of docs/, run cell by cell on a run of the tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.commands import REPOSITORY


@pytest.mark.long
def test_the_notebook_loads_classifies_and_searches(
    tmp_path: Path, trained: Path, demo: Path
) -> None:
    shutil.copytree(trained, tmp_path / "outputs" / "demo", symlinks=True)
    (tmp_path / "demo_data").symlink_to(demo)
    docs = tmp_path / "docs"
    docs.mkdir()
    notebook: Any = nbformat.reads(  # type: ignore[no-untyped-call]
        (REPOSITORY / "docs" / "first_look.ipynb").read_text(), as_version=4
    )

    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(docs)}})
    client.execute()

    shown = [kinds_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "image/png" in shown[3] and "image/jpeg" in shown[5]
    said = "".join(output.get("text", "") for output in notebook.cells[8].outputs)
    assert "64 images, all compared" in said and (tmp_path / "outputs" / "search.png").is_file()


def kinds_of(cell: Any) -> list[str]:
    """The kinds of what a cell shows."""
    kinds: list[str] = []
    for output in cell.outputs:
        kinds += output.get("data", {})
    return kinds
