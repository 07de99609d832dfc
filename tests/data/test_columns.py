"""Rules on any column and lists of uids drop the same rows as plain Python, on both engines.

Nulls, NaN, infinities, negative zero, equals at the border and groups of one row are in the table.
"""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.config.compose import compose_command
from align_train.errors import UserError
from data.filter.__main__ import run as run_filter
from data.filter.column_rules import column_rules
from data.filter.settings import FilterSettings
from tests.support import filter_oracle
from tests.support.commands import run
from tests.support.folders import assert_same_files
from tests.support.java import needs_java

NOTHING = "no $thing/$"
OF_NOTHING = f"rules.columns={{{NOTHING}:{{top:0.5}}}}"

SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("text", pa.string()),
        ("uid", pa.string()),
        ("key", pa.string()),
        ("score", pa.float64()),
        ("single", pa.float32()),
        ("count", pa.int32()),
        ("wide", pa.uint64()),
        ("price", pa.decimal128(5, 2)),
        ("clean", pa.bool_()),
        ("a.b", pa.float64()),
        ("lang", pa.dictionary(pa.int8(), pa.large_string())),
        ("alone", pa.int64()),
        (NOTHING, pa.float64()),
        ("long", pa.decimal128(38, 2)),
    ]
)

# Setting -> what the oracle gets. A float32's 0.3 is a little more than 0.3.
RULES: dict[str, dict[str, Any]] = {
    "score": {"least": 0.25, "most": 0.75, "top": 0.3, "by": "lang"},
    "single": {"least": 0.1, "most": 0.3, "top": 0.1},
    "count": {"least": 3, "most": 8, "top": 0.29, "by": "clean"},
    "wide": {"most": 2**63, "top": 0.5},
    "price": {"least": 0.07, "top": 0.123456},
    "clean": {"least": 1},
    "a.b": {"least": -0.0, "top": 0.5, "by": "alone"},
}


def column_table() -> list[dict[str, Any]]:
    chooser = random.Random(3)
    odd = [None, float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 0.25, 0.75]

    rows = []
    for index in range(1500):
        score = chooser.choice(odd) if index % 5 == 0 else round(chooser.gauss(0.5, 0.3), 2)
        single = chooser.choice([None, 0.1, 0.2, 0.3, 0.4, float("nan"), -1.0])
        rows.append(
            {
                "url": f"u{index}",
                "text": f"a text {index}",
                "uid": f"{chooser.getrandbits(128):032x}",
                "key": f"{index:09d}",
                "score": score,
                "single": None if single is None else float(np.float32(single)),
                "count": chooser.choice([None, *range(10)]),
                "wide": chooser.choice([None, 0, 2**53 + 1, 2**63, 2**64 - 1]),
                "price": chooser.choice([None, Decimal("0.07"), Decimal("-3.10"), Decimal("9.99")]),
                "clean": chooser.choice([None, True, False]),
                "a.b": chooser.choice([0.0, -0.0, float("nan"), None, 1e-300, -1e-300]),
                "lang": chooser.choice(["en", "en", "de", "日本", "", None]),
                # Ten groups of one row, and one of all others.
                "alone": index if index < 10 else 99,
                NOTHING: None,
                "long": Decimal("0.01"),
            }
        )
    return rows


def write(rows: list[dict[str, Any]], folder: Path, files: int = 3) -> None:
    folder.mkdir()
    for index in range(files):
        part = rows[len(rows) * index // files : len(rows) * (index + 1) // files]
        table = pa.Table.from_pylist(part, SCHEMA)
        parquet.write_table(table, folder / f"part-{index}.parquet", row_group_size=101)


def settings_of(rules: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"rules.columns.{column}.{bound}={value}"
        for column, bounds in rules.items()
        for bound, value in bounds.items()
    ]


def drops_of(rows: list[dict[str, Any]]) -> dict[str, set[int]]:
    wanted: dict[str, set[int]] = {}
    for column, bounds in RULES.items():
        as_held = dict(bounds)
        if column == "single":
            as_held["least"] = float(np.float32(0.1))
            as_held["most"] = float(np.float32(0.3))
        wanted |= filter_oracle.column_rule_drops(rows, column, **as_held)
    return wanted


def is_value(cell: float | None) -> bool:
    return cell is not None and not math.isnan(cell)


def as_json(cell: object) -> object:
    is_odd = isinstance(cell, Decimal) or (isinstance(cell, float) and not math.isfinite(cell))
    return str(cell) if is_odd else cell


def check(rows: list[dict[str, Any]], folder: Path, wanted: dict[str, set[int]]) -> None:
    text = (folder / "report.json").read_text(encoding="utf-8")
    report = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert list(report["rules"]) == list(wanted)
    for name, drops in wanted.items():
        assert report["rules"][name]["dropped_alone"] == len(drops), name
        column = name.split(".", 1)[1].rpartition(".")[0]
        ours = [as_json(rows[index][column]) for index in sorted(drops)]
        theirs = [example[column] for example in report["rules"][name]["examples"]]
        assert repr(ours) == repr(theirs), name

    every = set().union(*wanted.values())
    files = sorted((folder / "kept").iterdir())
    kept = [key for path in files for key in parquet.read_table(path)["key"].to_pylist()]
    assert kept == [row["key"] for index, row in enumerate(rows) if index not in every]


def test_rules_on_columns_equal_plain_python(tmp_path: Path) -> None:
    rows = column_table()
    wanted = drops_of(rows)
    write(rows, tmp_path / "table")
    line = ("source=table", "to=out", "paper=false", "examples=10000")
    out = run(*line, *settings_of(RULES), cwd=tmp_path, module="data.filter").stdout
    check(rows, tmp_path / "out", wanted)

    report = json.loads((tmp_path / "out" / "report.json").read_text())["rules"]
    scores = [row["score"] for row in rows]
    bad = sum(not is_value(score) for score in scores)
    assert report["columns.score.least"]["without_value"] == bad
    bare = [row["lang"] is None and is_value(row["score"]) for row in rows]
    assert report["columns.score.top"]["without_value"] == bad + sum(bare) > bad
    groups = {row["alone"] for row in rows if is_value(row["a.b"])}
    assert report["columns.a.b.top"]["groups"] == len(groups) > 5
    assert f"- columns.score.least: {bad} rows without a value; the column runs from -inf" in out


@pytest.mark.long
@needs_java
def test_spark_writes_the_same_bytes(tmp_path: Path) -> None:
    rows = column_table()
    write(rows, tmp_path / "table")
    listed = [row["uid"] for row in rows[::2]]
    (tmp_path / "uids.txt").write_text("\n".join([*listed, "elsewhere"]))
    rules = (*settings_of(RULES), OF_NOTHING, "rules.uids.of=uids.txt")
    line = ("source=table", "paper=false", "examples=10000")
    for name in ("duckdb", "spark"):
        run(*line, *rules, f"to={name}", f"engine={name}", cwd=tmp_path, module="data.filter")

    theirs = tmp_path / "spark"
    assert_same_files(tmp_path / "duckdb", theirs, but="filter.json")  # says which engine it was
    assert json.loads((theirs / "filter.json").read_text())["engine"].startswith("spark 4")

    # Without the rule that keeps nothing both keep what the oracle keeps.
    run(*line, *rules[:-2], "to=kept", "engine=spark", cwd=tmp_path, module="data.filter")
    check(rows, tmp_path / "kept", drops_of(rows))


def list_of(uids: list[str], keys: list[str], form: str, folder: Path) -> tuple[str, ...]:
    """Writes a list in one of the forms; gives the settings."""
    path = folder / f"list.{form}"
    if form == "npy":  # as DataComp's resharder wants it
        halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
        np.save(path, np.sort(np.array(halves, np.dtype("u8,u8"))))
    elif form == "texts.npy":
        np.save(path, np.array(uids))
    elif form == "keys.npy":
        np.save(path, np.array(keys, dtype=np.bytes_))
    elif form == "parquet":
        parquet.write_table(pa.table({"key": keys, "other": keys}), path)
    else:
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["", *uids, " "]).encode())
    column = ["columns.uid=key"] if form == "keys.npy" else []
    return (f"rules.uids.of={path}", *column)


@pytest.mark.parametrize("form", ["npy", "texts.npy", "keys.npy", "parquet", "txt"])
def test_a_list_of_uids_keeps_its_rows(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = column_table()[:400]
    rows[6] |= {"uid": "0" * 31 + "7"}
    # Twice in the list, and one that is nowhere.
    chosen = [*rows[::3], rows[3]]
    uids = [*(row["uid"] for row in chosen), "f" * 32]
    keys = [*(row["key"] for row in chosen), "nowhere"]
    rows[9] |= {"uid": None, "key": None}
    rows[10] |= {"uid": rows[0]["uid"] + "0"}  # longer than a listed one, which begins it

    write(rows, tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    line = ("source=table", "to=out", "paper=false")
    filter_with(*line, *list_of(uids, keys, form, tmp_path))
    told = json.loads((tmp_path / "out" / "report.json").read_text())["rules"]["uids"]
    assert (told["listed"], told["found"]) == (len(uids) - 1, len(uids) - 3)
    kept = parquet.read_table(tmp_path / "out" / "kept")["url"].to_pylist()
    assert kept == [row["url"] for row in rows[::3] if row["uid"] is not None]


def filter_with(*arguments: str) -> None:
    run_filter(compose_command("filter", FilterSettings, *arguments))


@pytest.mark.filterwarnings("error")
def test_a_wrong_scale_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = column_table()[:100]
    for index, row in enumerate(rows):
        row["score"] = 0.05 + 0.36 * (index % 50) / 49
        row["single"] = index / 128
    write(rows, tmp_path / "table")
    # The second is beyond float32, and the third column has no value.
    rules = ("rules.columns.score.least=28", "rules.columns.single.least=1e300", OF_NOTHING)
    filter_with(f"source={tmp_path / 'table'}", f"to={tmp_path / 'out'}", "paper=false", *rules)
    for told in (capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()):
        assert "columns.score.least keeps 0 of 100; the column runs from 0.05 to 0.41" in told
        assert "columns.single.least keeps 0 of 100; the column runs from 0 to 0.773438" in told
        assert f"columns.{NOTHING}.top keeps 0 of 100; the column has no value" in told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"a": 0.3}, "rules.columns.a=0.3: expected a bound, rules.columns.a.least=0.28"),
        ({"a": {"lest": 0.3}}, "rules.columns.a.lest: expected least, most, top or by, did you"),
        ({"a": {"top": 30}}, "rules.columns.a.top=30: expected a share"),
        ({"a": {"top": 0}}, "rules.columns.a.top=0: expected a share"),
        ({"a": {"top": 0.1234567}}, "at most 6 digits after the point"),
        ({"a": {"least": math.nan}}, "rules.columns.a.least=nan: expected a number"),
        ({"a": {"b": {"most": "high"}}}, "rules.columns.a.b.most=high: expected a number"),
        ({"a": {"most": True}}, "rules.columns.a.most=True: expected a number"),
        ({"a": {"most": 10**400}}, "columns are compared as float64, which rounds it"),
        ({"a": {"least": 2**53 + 1}}, "rules.columns.a.least=9007199254740993: columns are"),
        ({"a": {"least": 1, "most": 0.5}}, "least=1 is above most=0.5"),
        ({"a": {"by": "lang"}}, "groups want a share, rules.columns.a.top=0.3"),
        ({f"a{index}": {"least": 0} for index in range(49)}, "49 rules; expected at most 48"),
    ],
)
def test_wrong_bounds_are_told_in_one_line(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        column_rules(setting)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rules.columns.my col.top=0.3"], "' ' cannot stand in a key; give the whole mapping, as"),
        (["rules.columns.scor.top=0.3"], "no column scor, did you mean score?; there are url,"),
        (["rules.columns.text.least=1"], "rules.columns.text.least: expected numbers, text is str"),
        (["rules.columns.long.least=1"], "long is decimal128(38, 2), which has more digits than"),
        (
            ["rules.columns.score.top=0.3", "rules.columns.score.by=langs"],
            "rules.columns.score.by=langs: no column langs, did you mean lang?",
        ),
        (
            ["rules.columns.score.top=0.3", "rules.columns.score.by=single"],
            "expected texts, integers or booleans as groups, single is float",
        ),
        (["rules.uids.of=nowhere"], "rules.uids.of=nowhere: cannot be read (No such file"),
        (["rules.uids.of=empty.txt"], "rules.uids.of=empty.txt: is empty"),
        (["rules.uids.of=floats.npy"], "holds float64 of shape (3,)"),
        (["rules.uids.of=objects.npy"], "cannot be read (Array can't be memory-mapped"),
        (["rules.uids.of=other.parquet"], "no column uid or key; it has name"),
        (["rules.uids.of=bytes.parquet"], "expected texts or integers, uid is binary; cast it"),
        (["rules.uids.of=half.npy"], "half.npy: \\ud800 is no text; expected a .npy"),
        (["rules.uids.of=none.npy"], "rules.uids.of=none.npy: "),
        (["rules.uids.of=list.txt", "columns.uid=score"], "columns.uid=score: expected texts"),
        ([], "rules: no rule is applied"),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    arguments: list[str], told: str, wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wrong)
    with pytest.raises(UserError) as caught:
        filter_with("source=table", "to=out", "paper=false", *arguments)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not list(wrong.glob("*out*"))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    write(column_table()[:20], folder / "table")
    (folder / "empty.txt").write_text("\n\n")
    (folder / "list.txt").write_text("a\n")
    np.save(folder / "floats.npy", np.zeros(3))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "half.npy", np.array(["\ud800"]))
    np.save(folder / "none.npy", np.empty(0, "u8,u8"))
    parquet.write_table(pa.table({"name": ["a"]}), folder / "other.parquet")
    parquet.write_table(pa.table({"uid": [b"a"]}), folder / "bytes.parquet")
    return folder


def test_another_rule_is_another_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(column_table()[:50], tmp_path / "table")
    line = ("source=table", "to=out", "paper=false", "rules.columns.score.top=0.5")
    filter_with(*line)
    filter_with(*line)
    assert "is finished" in capsys.readouterr().out

    with pytest.raises(
        UserError, match=r"another rules\.columns\.score\.top \({'number': 0.5, 'by'"
    ):
        filter_with(*line[:3], "rules.columns.score.top=0.4")
