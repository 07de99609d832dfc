"""Settings of `python -m data.pack` for the table of the fixture `sorted_table`."""

from __future__ import annotations

PACK = ('path="images/{file}.png"', "text=[name,keywords]", "separator='|'", "pairs_per_shard=30")
