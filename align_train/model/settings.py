"""The settings of a tower, or of a network of Hugging Face's: by name, values as in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]
"""Each value is of the type that its reader expects: the class of the tower or of the network
checks it, or the function that reads it does."""
