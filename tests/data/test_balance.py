"""Concepts are balanced by MetaCLIP's formula, and training then sees them so."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.rates import Rates
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from data.balance import run
from data.balancing.entries import Matcher, read_entries
from data.balancing.settings import BalanceSettings
from tests.support.commands import data_module

THRESHOLD = 12


def metaclip_holds(text: str, entry: str) -> bool:
    """MetaCLIP's rule, by Python's own search."""
    spaced = f" {text} "
    for mark in ",.;:?!`":
        spaced = spaced.replace(mark, f" {mark} ")
    for space in "\t\n\r":
        spaced = spaced.replace(space, " ")
    return f" {entry} " in spaced


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab, .!\n'", max_size=14),
    entries=st.sets(st.text("ab, .!'", min_size=1, max_size=5).map(str.strip), max_size=8),
)
def test_entries_are_found_as_by_metaclip(text: str, entries: set[str]) -> None:
    listed = sorted(entries - {""})
    found = Matcher(listed)([text])
    assert {listed[index] for index in found} == {
        entry for entry in listed if metaclip_holds(text, entry)
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("lines.txt", "\ufeffdog\r\n cat \n\ndog\r\n", ["dog", "cat"]),
        ("old.txt", "dog\rcat\r", ["dog", "cat"]),
        ("marks.txt", "d.c.\nrock , roll\na\tb\n", ["rock , roll"]),
        ("list.json", r'["dog", "caf\u00e9", "half \ud83d", "a\nb", "x \n y"]', ["dog", "café"]),
        ("deep.json", "[" * 100_000, "cannot be read (not such a text)"),
        ("object.json", '{"dog": 1}', "found {'dog': 1}; expected a file with one entry a line"),
        ("numbers.json", '["dog", 1]', "found ['dog', 1]; expected"),
        ("none.txt", "d.c.\n\n", "has no entries that a text can hold; expected"),
        ("empty.txt", "", "has no entries that a text can hold"),
        ("binary.txt", b"\xff\xfe", "cannot be read (not such a text)"),
        ("folder", None, "cannot be read (Is a directory)"),
        ("nowhere.txt", ..., "cannot be read (No such file or directory)"),
    ],
)
def test_files_of_entries_are_read_or_refused_in_one_line(
    name: str, content: object, expected: list[str] | str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    if isinstance(expected, list):
        assert read_entries(path, lower=False) == expected
        return
    with pytest.raises(UserError) as caught:
        read_entries(path, lower=False)
    assert f"entries={path}: {expected}" in str(caught.value)


# the command

TEXTS: dict[str, list[str]] = {}
"""Key `shard/key` -> the texts of a pair; none if they cannot be read."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a few frequent words and many rare ones, and two pairs with bad texts."""
    folder = tmp_path_factory.mktemp("balance") / "shards"
    folder.mkdir()
    random = Random(0)
    with BytesIO() as file:
        Image.new("RGB", (8, 8)).save(file, "PNG")
        image = file.getvalue()

    words = ["dog", "cat", "red", "old", "a", "of", "newt", "yak", "Dog", "lynx,"]
    weights = [30, 25, 20, 12, 40, 30, 2, 1, 3, 2]
    for shard in range(3):
        pairs = []
        # The tar's order is not that of the keys.
        for number in random.sample(range(100), 60):
            text = " ".join(random.choices(words, weights, k=random.randint(1, 3)))
            members = {
                "png": image,
                "json": json.dumps({"texts": [text, "a dog"[:shard]]}).encode(),
            }
            TEXTS[f"{shard:05d}/{number:04d}"] = [text, *(["a dog"[:shard]] if shard else [])]
            if number == 7:
                members["json"] = b"{}"
                TEXTS[f"{shard:05d}/{number:04d}"] = []
            pairs.append((f"{number:04d}", members))
        write_shard(folder / f"{shard:05d}.tar", pairs)
    return folder


def balance(source: Path | list[str], to: Path, *overrides: str) -> Manifest:
    value = str(source) if isinstance(source, Path) else f"[{','.join(source)}]"
    given = (f"source={value}", f"to={to}", f"threshold={THRESHOLD}", "caption=json:texts")
    run(compose_command("balance", BalanceSettings, *given, *overrides))
    return read_manifest(str(to / MANIFEST_NAME), cache=ShardCache())


def by_key(manifest: Manifest) -> dict[str, float]:
    """Key -> rate; 1 or 0 of a selection."""
    rates: dict[str, float] = {}
    for row in manifest.shards:
        assert row.selection is not None
        if isinstance(row.selection, Rates):
            values = row.selection.rates(ShardCache()).tolist()
        else:
            values = row.selection.read(ShardCache()).tolist()
        stem = Path(row.name).stem
        keys = sorted(key for key in TEXTS if key.startswith(f"{stem}/"))
        rates |= dict(zip(keys, map(float, values), strict=True))
    return rates


def oracle(entries: list[str], *, most: float = 1, unmatched: float = 0) -> dict[str, float]:
    """Key -> rate, by the formula of docs/curation.md, pair by pair."""
    held = {
        key: [entry for entry in entries if any(metaclip_holds(text, entry) for text in texts)]
        for key, texts in TEXTS.items()
    }
    counts = Counter(entry for of_pair in held.values() for entry in of_pair)
    rates = {}
    for key, of_pair in held.items():
        missed = 1.0
        for entry in of_pair:
            missed *= 1 - min(1, THRESHOLD / counts[entry])
        rates[key] = 1 - missed
        if of_pair:
            rarest = min(counts[entry] for entry in of_pair)
            rates[key] = max(rates[key], min(most, THRESHOLD / rarest))
        elif TEXTS[key]:
            rates[key] = unmatched
    return rates


ENTRIES = ["dog", "cat", "red", "a dog", "newt", "yak", "old cat", "lynx"]


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    path = tmp_path / "concepts.txt"
    path.write_text("".join(f"{entry}\n" for entry in [*ENTRIES, "dog", "", "d.c."]))
    return path


@pytest.mark.parametrize(("most", "unmatched"), [(1, 0), (4, 0.125)])
def test_rates_are_those_of_the_formula_pair_by_pair(
    most: float, unmatched: float, shards: Path, entries: Path, tmp_path: Path
) -> None:
    more = (f"entries={entries}", f"most={most}", f"unmatched={unmatched}")
    rates = by_key(balance(shards, tmp_path / "out", *more))
    expected = oracle(ENTRIES, most=most, unmatched=unmatched)
    assert rates == pytest.approx(expected, rel=2**-11)
    assert max(rates.values()) == most and 0 in rates.values()
    assert sum(0 < rate < 1 for rate in rates.values()) > 50


def test_the_report_has_entries_before_and_after(
    shards: Path, entries: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".out.123").mkdir()  # a killed command has left it
    manifest = balance(shards, tmp_path / "out", f"entries={entries}")
    rates = by_key(manifest)
    formula = oracle(ENTRIES)
    # An epoch visits each shard a whole number of times.
    scales = {
        Path(row.name).stem: row.pairs / sum(rates[key] for key in rates if key[:5] == row.name[:5])
        for row in manifest.shards
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for row in [*report["top"], *report["tail"]]:
        keys = [
            key
            for key, texts in TEXTS.items()
            if any(metaclip_holds(text, row["entry"]) for text in texts)
        ]
        assert row["before"] == len(keys)
        assert row["threshold"] == min(len(keys), THRESHOLD)
        assert row["expected"] == pytest.approx(sum(formula[key] for key in keys), abs=0.01)
        visits = sum(rates[key] * scales[key[:5]] for key in keys)
        assert row["after"] == pytest.approx(visits, abs=0.01)
    bad = sum(not texts for texts in TEXTS.values())
    assert (report["without_text"], report["pairs"]) == (bad, 180) and bad > 1
    assert report["expected"] == pytest.approx(sum(formula.values()))
    assert report["given"] == manifest.pairs

    told = capfd.readouterr()
    assert f"next: align-train data=webdataset data.shards={tmp_path}/out/manifest" in told.out
    assert "1 text that came before" in told.err
    assert "d.c." in told.err and f"{bad} pairs without a text" in told.err
    assert (tmp_path / "out" / "report.png").stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {"out", "concepts.txt"}


def test_a_selection_is_drawn_by_hash_whatever_the_order_of_shards(
    shards: Path, entries: Path, tmp_path: Path
) -> None:
    more = (f"entries={entries}", "write=selection")
    expected = oracle(ENTRIES)
    kept = by_key(balance(shards, tmp_path / "out", *more))
    backwards = [str(path) for path in sorted(shards.glob("*.tar"), reverse=True)]
    again = balance(backwards, tmp_path / "again", *more)
    assert [row.name for row in again.shards] == [Path(path).name for path in backwards]
    assert by_key(again) == kept

    # Over seeds each pair is kept with its rate, and so each entry as often as expected.
    seeds = 6
    total: Counter[str] = Counter()
    for seed in range(seeds):
        folder = tmp_path / str(seed)
        total.update(by_key(balance(shards, folder, *more, f"seed={seed + 1}")))
    spread = sum(rate * (1 - rate) for rate in expected.values()) * seeds
    assert abs(sum(total.values()) - seeds * sum(expected.values())) < 4 * spread**0.5
    for key, rate in expected.items():
        assert abs(total[key] - seeds * rate) <= 4.5 * (seeds * rate * (1 - rate)) ** 0.5 + 1e-9


def test_entries_made_from_the_texts_are_phrases_and_serve_the_next_command(
    shards: Path, tmp_path: Path
) -> None:
    made = balance(shards, tmp_path / "out", "least_count=8")
    entries = (tmp_path / "out" / "entries.txt").read_text().splitlines()

    counts: Counter[str] = Counter()
    for texts in TEXTS.values():
        words = [text.replace(",", " , ").split() for text in texts]
        phrases = {word for of_text in words for word in of_text}
        for of_text in words:
            phrases |= {f"{one} {other}" for one, other in pairwise(of_text)}
        counts.update(phrase for phrase in phrases if "," not in phrase)
    frequent = {phrase: count for phrase, count in counts.items() if count >= 8}
    assert entries == sorted(frequent, key=lambda phrase: (-frequent[phrase], phrase))
    assert "Dog" in entries or counts["Dog"] < 8
    assert any(" " in entry for entry in entries)

    given = balance(shards, tmp_path / "next", f"entries={tmp_path / 'out' / 'entries.txt'}")
    assert given.identity == made.identity


def test_training_visits_entries_as_the_report_says(
    shards: Path, demo: Path, entries: Path, tmp_path: Path
) -> None:
    balance(shards, tmp_path / "out", f"entries={entries}", "most=3")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    manifest = str(tmp_path / "out" / MANIFEST_NAME)
    data = data_module(
        manifest, demo / "tokenizer", caption="json:texts", batch_size=2, lanes=2, window=16
    )
    pieces = data.training_pieces()
    epochs = 20
    (source,) = data.stretch.order.sources
    visits = data.stretch.order.at(
        np.tile(np.repeat([0, 1], source.lane_length), epochs),
        np.concatenate(
            [
                np.tile(np.arange(source.lane_length), 2) + epoch * source.lane_length
                for epoch in range(epochs)
            ]
        ),
    )
    seen: Counter[str] = Counter()
    rows = zip(visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), strict=True)
    for epoch, shard, slot in rows:
        key = pieces.pairs.reader(shard).key(pieces.pair_at(epoch, shard, slot))
        texts = TEXTS[key]
        seen.update({e for e in ENTRIES if any(metaclip_holds(text, e) for text in texts)})
    for row in [*report["top"], *report["tail"]]:
        # An epoch leaves out a remainder of a visit, and each pair is off by one or two visits.
        assert seen[row["entry"]] == pytest.approx(epochs * row["after"], rel=0.05, abs=epochs / 4)


def test_a_selection_is_narrowed_and_rates_are_refused(
    shards: Path, entries: Path, tmp_path: Path
) -> None:
    manifest = resolve(str(shards), caption=CaptionSource.parse("json:texts"))
    chosen = [np.arange(shard.pairs) % 2 == 0 for shard in manifest.shards]
    (tmp_path / "half").mkdir()
    manifest.write(tmp_path / "half" / MANIFEST_NAME, kept=chosen, cache=ShardCache())
    rates = by_key(balance(tmp_path / "half", tmp_path / "out", f"entries={entries}"))
    for index, key in enumerate(sorted(key for key in TEXTS if key.startswith("00001/"))):
        assert index % 2 == 0 or rates[key] == 0
    assert sum(rate > 0 for rate in rates.values()) > 50

    with pytest.raises(UserError, match="has rates already; give the manifest"):
        balance(tmp_path / "out", tmp_path / "twice", f"entries={entries}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["threshold=0"], "threshold=0: expected at least 1"),
        (["write=both"], "expected rates or selection"),
        (
            ["write=selection", "most=2"],
            r"most=2.0: expected at least 1 and at most 1; write=rates",
        ),
        (["unmatched=nan"], "unmatched=nan: expected at least 0"),
        (["threshold=1000000000000000000000"], r"at most 2.81475e\+14"),
        (["memory_gb=inf"], "memory_gb=inf: expected at least 0.5"),
        (["storage_options=[5]"], r"storage_options=\[5\]: expected settings"),
        (["entries=nowhere.txt"], "entries=nowhere.txt: cannot be read"),
        (["source=nowhere"], "source=nowhere: no such manifest"),
        (["least_count=1000"], "least_count=1000: no word is held by so many pairs"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    overrides: list[str], words: str, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        balance(shards, tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def _nothing(shards: Path) -> None:
    """Leaves the shards as they are."""


def _remove(shards: Path) -> None:
    (shards / "00001.tar").unlink()


def _cut(shards: Path) -> None:
    tar = shards / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_nothing, "/out: would have none of 180 pairs: 17. hold none of 1 entries, . have no"),
        (_remove, r"00001.tar: cannot be read \(No such file or directory\); bring it back"),
        (_cut, "00001.tar: .*; fetch it again or leave it out"),
    ],
)
def test_a_balance_of_nothing_or_of_broken_shards_is_refused(
    damage: Callable[[Path], None], words: str, shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    manifest = resolve(str(tmp_path / "shards"), caption=CaptionSource.parse("json:texts"))
    manifest.write(tmp_path / "shards" / MANIFEST_NAME)
    damage(tmp_path / "shards")
    (tmp_path / "zebra.txt").write_text("zebra\n")
    with pytest.raises(UserError, match=words):
        balance(tmp_path / "shards", tmp_path / "out", f"entries={tmp_path}/zebra.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "zebra.txt"}
