"""Settings of `python -m data.pack` for the table of the fixture `sorted_table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.shards import contents

PACK = ('path="images/{file}.png"', "text=[name,keywords]", "separator='|'", "pairs_per_shard=30")


def packed_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of each pair of packed shards, by its key."""
    return {
        name.removesuffix(".json"): json.loads(data)
        for name, data in contents(folder)
        if name.endswith(".json")
    }
