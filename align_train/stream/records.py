"""What a set says of its images beside their pixels: texts, and a record."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
"""The JSON member of a pair, or the fields that a data set has in its place."""

About = list[tuple[list[str], Record]]
"""Of every image of a set, in its order: its texts and its record."""
