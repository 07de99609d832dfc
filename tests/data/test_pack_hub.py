"""`data.pack` from Hugging Face's library `datasets`: a saved folder, and a name on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align_train.errors import UserError
from data import pack
from tests.support.hub_of_datasets import hub_of
from tests.support.images import encoded, picture
from tests.support.packing import pack_settings, packed_records
from tests.support.servers import refusing_url

SPLITS = {"train": range(6), "test": range(6, 9)}


@pytest.fixture
def pets(tmp_path: Path) -> Any:
    """Two splits, made by the library: images, two captions each, and labels."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.Sequence(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    made = {}
    for split, numbers in SPLITS.items():
        rows = {
            "image": [{"bytes": _image(index), "path": f"{index}.png"} for index in numbers],
            "captions": [[f"pet {index}", f"animal {index}"] for index in numbers],
            "label": [index % 2 for index in numbers],
        }
        made[split] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(made)


def _image(index: int) -> bytes:
    return encoded(picture(index), "PNG")


def packed(source: Path | str, to: Path, **given: Any) -> dict[str, list[str]]:
    """The captions of each packed image by its name in the source."""
    pack.run(pack_settings(source, to, **given))
    return {record["source"]: record["captions"] for record in packed_records(to).values()}


def of(*numbers: int) -> dict[str, list[str]]:
    return {f"{index}.png": [f"pet {index}", f"animal {index}"] for index in numbers}


def test_a_folder_of_save_to_disk_is_read_split_by_split(pets: Any, tmp_path: Path) -> None:
    pets.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 2, "test": 1})
    folder = tmp_path / "saved"
    assert packed(folder, tmp_path / "all") == of(*range(9))
    assert packed(folder, tmp_path / "test", where={"split": "test"}) == of(6, 7, 8)
    assert packed(folder / "train", tmp_path / "dogs", where={"label": "dog"}) == of(1, 3, 5)

    (folder / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002\.arrow"):
        packed(folder, tmp_path / "none")


def test_no_data_of_a_saved_folder_are_lost_without_a_word(
    pets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "saved"
    pets.save_to_disk(str(folder), num_shards={"train": 2, "test": 1})
    last = folder / "train" / "data-00001-of-00002.arrow"
    whole = last.read_bytes()
    last.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"00002\.arrow: ends without the mark .* may be missing"):
        packed(folder, tmp_path / "none")
    last.write_bytes(whole)

    state = json.loads((folder / "train" / "state.json").read_text())
    del state["_data_files"][1]
    (folder / "train" / "state.json").write_text(json.dumps(state))
    assert packed(folder, tmp_path / "less") == of(0, 1, 2, 6, 7, 8)
    assert "1 data file that state.json does not name (first" in capsys.readouterr().out

    state["_data_files"] = []
    (folder / "train" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"train: its state\.json names no data files"):
        packed(folder, tmp_path / "none")

    (folder / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert packed(folder, tmp_path / "test") == of(6, 7, 8)
    assert "that dataset_dict.json does not name (first" in capsys.readouterr().out


def test_a_name_on_the_hub_is_streamed(
    pets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in SPLITS:
        pets[split].to_parquet(str(tmp_path / "hub" / "data" / f"{split}-00000.parquet"))

    with hub_of(tmp_path / "hub", monkeypatch):
        found = packed("hf:me/pets", tmp_path / "dogs", where={"split": "train", "label": "dog"})
        assert found == of(1, 3, 5)
        for source, given, words in (
            ("hf:me/none", {}, "^source=hf:me/none: no such data set on the hub, or a private"),
            ("hf:me/gated", {}, "^source=hf:me/gated: a gated data set; accept its terms on its"),
            ("hf:me/pets", {"hub_revision": "v2"}, "^hub_revision=v2: hf:me/pets has no such"),
            ("hf:me/pets", {"hub_config": "big"}, r"hub_config=big: cannot be read \(.*default"),
        ):
            with pytest.raises(UserError, match=words):
                packed(source, tmp_path / "none", **given)

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", refusing_url())
    with pytest.raises(UserError, match=r"^source=hf:me/pets: the hub cannot be reached"):
        packed("hf:me/pets", tmp_path / "none")
