"""Settings of `python -m data.pack`, and its pairs read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.packing.settings import PackSettings
from tests.support.shards import contents

# For the table of the fixture `sorted_table`.
PACK = ('path="images/{file}.png"', "text=[name,keywords]", "separator='|'", "pairs_per_shard=30")


def pack_settings(source: object, to: Path, **given: Any) -> PackSettings:
    """Settings that guess all columns.

    Args:
        source: A path, or a list of paths.
        to: The new folder.
        **given: Those that differ.
    """
    defaults: dict[str, Any] = {
        "root": None,
        "path": None,
        "text": [],
        "columns": [],
        "separator": None,
        "where": {},
        "names": None,
        "storage_options": None,
        "hub_config": None,
        "hub_revision": None,
        "skip_missing": False,
        "max_bad_share": 0.1,
        "pairs_per_shard": 3,
        "held_out": 0.0,
        "vocabulary": None,
        "vocabulary_kind": "wordpiece",
        "seed": 0,
    }
    named = [str(item) for item in source] if isinstance(source, list) else str(source)
    return PackSettings(source=named, to=str(to), **defaults | given)


def packed(shards: Path) -> dict[bytes, tuple[str, set[str]]]:
    """What stands in shards: for each image the name of its source, and its captions."""
    members: dict[str, dict[str, bytes]] = {}
    for name, data in contents(shards):
        key, _, extension = name.partition(".")
        members.setdefault(key, {})[extension] = data

    pairs: dict[bytes, tuple[str, set[str]]] = {}
    for pair in members.values():
        record = json.loads(pair["json"])
        assert len(record["captions"]) == len(set(record["captions"]))
        pairs[pair["png"]] = (record["source"], set(record["captions"]))
    assert len(pairs) == len(members)
    return pairs


def captions(shards: Path) -> dict[bytes, set[str]]:
    """The captions of each image in shards."""
    return {image: texts for image, (_, texts) in packed(shards).items()}


def packed_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON of each pair of packed shards, by its key."""
    return {
        name.removesuffix(".json"): json.loads(data)
        for name, data in contents(folder)
        if name.endswith(".json")
    }
