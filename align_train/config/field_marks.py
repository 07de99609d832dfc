"""Marks of fields in the schemas of commands, for what their types cannot say.

`kinds.py` reads most of them: it says which words of a command line are texts.
"""

from __future__ import annotations

from typing import Any

Paths = Any
"""A path or URL (manifest, folder, glob, brace range), or a list of these. Hydra's schemas have no
union with a list."""

UNRESOLVED = {"unresolved": True}
"""Metadata of a field whose interpolations refer to other settings than the command's own."""

TEXTS = {"texts": True}
"""Metadata of a field that holds texts although its type cannot say so (`Paths`)."""

FREE_KEYS = {"free_keys": True}
"""Metadata of a mapping that takes any key, and whose type cannot say so."""

VERBATIM = {"verbatim": True}
"""Metadata of a text whose characters mean nothing on the command line, not even quotes."""
