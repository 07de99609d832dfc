from __future__ import annotations

import csv
import json
import time
from collections import Counter
from pathlib import Path

from align_train.run.folder import RunFolder
from tests.support.commands import Started, finish

Keys = dict[int, list[str]]
NUMBERS = ("step", "pairs_seen", "loss", "temperature", "lr", "grad_norm")


def keys_of(folder: Path) -> Keys:
    """Step -> keys of the global batch, as the ranks of the run logged them; each once."""
    lines = [json.loads(line) for line in (folder / "keys.jsonl").read_text().splitlines()]
    places = Counter((line["step"], line["first"]) for line in lines)
    assert set(places.values()) == {1}, [place for place, times in places.items() if times > 1]

    keys: Keys = {}
    for line in sorted(lines, key=lambda line: (line["step"], line["first"])):
        of_step = keys.setdefault(line["step"], [])
        assert len(of_step) == line["first"], f"step {line['step']}: keys are missing"
        of_step += line["keys"]
    return keys


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(folder: Path) -> list[list[str]]:
    """What a run computed, as text: equal text is bitwise equality (repr of a float is exact)."""
    return [[row[name] for name in NUMBERS] for row in metrics(folder)]


def wait_for_step(step: int, folder: RunFolder, process: Started, *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not folder.metrics.exists() or f"\n{step}," not in folder.metrics.read_text():
        assert process.poll() is None, finish(process).stderr
        assert time.monotonic() < deadline
        time.sleep(0.01)
