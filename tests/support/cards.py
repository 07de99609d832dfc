"""The Python code of a model card."""

from __future__ import annotations

import re
from pathlib import Path


def card_code(folder: Path) -> str:
    """The first Python block of the card of an exported folder."""
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]
