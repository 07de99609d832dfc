"""Tables of every kind are read alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from align_train.config.compose import compose_command
from align_train.errors import UserError
from data import pack
from data.packing.settings import PackSettings
from tests.support.images import plain_image
from tests.support.packing import PACK, pack_settings
from tests.support.shards import contents


def test_rows_are_chosen_by_value_and_all_kinds_of_tables_agree(
    sorted_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    root = sorted_table.parent
    monkeypatch.chdir(root)
    with sorted_table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), root / "table.parquet")
    found = []
    for kind in ("tsv", "csv", "parquet"):
        to = f"shards_{kind}"
        words = (f"source=table.{kind}", f"to={to}", "+where.language=de", *PACK)
        settings = compose_command("pack", PackSettings, *words)
        pack.run(settings)
        found.append(contents(root / to))
    assert found[0] == found[1] == found[2]
    assert all(
        json.loads(data)["captions"][0].startswith("Farbe")
        for name, data in found[0]
        if name.endswith("json")
    )


def test_spreadsheet_tables_are_read_and_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain_image((1, 2, 3)))
    (tmp_path / "excel.CSV").write_text("path,text\na.png,eins\n", encoding="utf-8-sig")
    pack.run(pack_settings(tmp_path / "excel.CSV", tmp_path / "shards"))
    assert [data for name, data in contents(tmp_path / "shards") if name.endswith("txt")] == [
        b"eins"
    ]
    (tmp_path / "latin.csv").write_bytes("path,text\na.png,fünf\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: is not UTF-8") as error:
        pack.run(pack_settings(tmp_path / "latin.csv", tmp_path / "other"))
    assert "\n" not in str(error.value)
