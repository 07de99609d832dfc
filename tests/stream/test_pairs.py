"""The offline commands: the demo's shards, packing, manifests; and what the stream makes of odd pairs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as TokenizersTokenizer
from torchvision.transforms import v2

from align_train.demo import make_demo, phrases
from align_train.demo.scene import Scene, sample_scene
from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.augment import Augmentation
from align_train.stream.chunks import TrainingChunks
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.decode import Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.loader import ChunkSchedule, TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.replacement import Gone
from align_train.stream.tokenizer import Tokenizer
from tests.support.commands import data_module, finish, run, start

TXT = CaptionSource.parse("txt")


def picture(colour: tuple[int, int, int], kind: str = "PNG", side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


def contents(shards: Path) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found


# --- the demo ---------------------------------------------------------------------------------------------------------


def digest(folder: Path) -> dict[str, str]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".tar", ".json")
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_demo_is_the_same_bytes_each_time(demo: Path, tmp_path: Path) -> None:
    make_demo(
        folder=str(tmp_path / "again"),
        pairs=512,
        held_out=64,
        size=40,
        pairs_per_shard=128,
        vocabulary=300,
    )
    assert digest(tmp_path / "again") == digest(demo)
    make_demo(
        folder=str(tmp_path / "other"),
        pairs=512,
        held_out=64,
        size=40,
        pairs_per_shard=128,
        vocabulary=300,
        seed=1,
    )
    assert not set(digest(tmp_path / "other").values()) & {
        v for k, v in digest(demo).items() if k.endswith(".tar")
    }


def test_a_folder_that_is_no_such_demo_is_refused_and_kept(demo: Path, tmp_path: Path) -> None:
    before = digest(demo)
    with pytest.raises(UserError, match="was made with pairs=512"):
        make_demo(
            folder=str(demo), pairs=513, held_out=64, size=40, pairs_per_shard=128, vocabulary=300
        )
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and holds no demo"):
        make_demo(folder=str(tmp_path), pairs=8, held_out=8)
    assert (tmp_path / "mine.txt").exists() and digest(demo) == before


def test_demo_texts_are_noisy_by_the_share_and_clean_ones_name_their_class() -> None:
    def tells(scene: Scene, text: str) -> bool:
        colours = (scene.colour, *phrases._COLOUR_SYNONYMS[scene.colour])
        shapes = (scene.shape, *phrases._SHAPE_SYNONYMS[scene.shape])
        return any(word in text.lower() for word in colours) and any(
            word in text.lower() for word in shapes
        )

    random = Random(0)
    scenes = [sample_scene(random) for _ in range(4000)]
    assert {scene.label for scene in scenes} == set(range(64))
    assert all(tells(scene, phrases.clean_caption(scene, random)) for scene in scenes)
    for noise in (0.0, 0.25, 1.0):
        silent = np.mean(
            [not tells(scene, phrases.caption(scene, random, noise=noise)) for scene in scenes]
        )
        assert 0.9 * noise <= silent <= 1.05 * noise  # a caption cut short may still tell both


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sorted_table(tmp_path: Path) -> Path:
    """100 pictures of 10 colours, sorted by colour; two texts each."""
    (tmp_path / "pictures").mkdir()
    lines = ["file\tname\tkeywords\tlanguage"]
    for number in range(100):
        (tmp_path / "pictures" / f"{number:03d}.png").write_bytes(
            picture((25 * (number // 10), 0, number))
        )
        lines.append(f'{number:03d}\tcolour {number // 10}\tkey "{number}"|word\ten')
        lines.append(f"{number:03d}\tFarbe {number // 10}\tSchluessel\tde")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "table.tsv"


PACK = ('path="pictures/{file}.png"', "text=[name,keywords]", "separator='|'", "pairs_per_shard=30")


def test_a_sorted_table_comes_out_shuffled_and_whole(sorted_table: Path) -> None:
    root = sorted_table.parent
    run(f"source={sorted_table}", "to=shards", "vocabulary=60", *PACK, cwd=root, module="data.pack")
    manifest = resolve(str(root / "shards"), caption=TXT)
    assert manifest.counts.tolist() == [30, 30, 30, 10]
    members: dict[str, dict[str, bytes]] = {}
    for name, data in contents(root / "shards"):
        key, _, extension = name.partition(".")
        members.setdefault(key, {})[extension] = data
    packed = [json.loads(pair["json"]) for _, pair in sorted(members.items())]
    assert sorted(record["source"] for record in packed) == [
        f"{number:03d}.png" for number in range(100)
    ]
    for pair, record in zip((pair for _, pair in sorted(members.items())), packed, strict=True):
        number = int(record["source"][:3])
        assert pair["png"] == (root / "pictures" / record["source"]).read_bytes()
        assert record["captions"] == [
            f"colour {number // 10}",
            f'key "{number}"',
            "word",
            f"Farbe {number // 10}",
            "Schluessel",
        ]
        assert pair["txt"].decode() == record["captions"][0]
    classes = [int(record["source"][:3]) // 10 for record in packed]
    assert (
        max(Counter(classes[:30]).values()) < 10
    )  # sorted, a shard would hold three whole classes
    tokenizer = TokenizersTokenizer.from_file(str(root / "shards" / "tokenizer" / "tokenizer.json"))
    assert tokenizer.token_to_id("[PAD]") == 0 and "[UNK]" not in tokenizer.encode("Farbe 3").tokens


def test_rows_are_chosen_by_value_and_csv_and_parquet_read_alike(sorted_table: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    root = sorted_table.parent
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
        run(
            f"source=table.{kind}",
            f"to={to}",
            "+where.language=de",
            *PACK,
            cwd=root,
            module="data.pack",
        )
        found.append(contents(root / to))
    assert found[0] == found[1] == found[2]
    assert all(
        json.loads(data)["captions"][0].startswith("Farbe")
        for name, data in found[0]
        if name.endswith("json")
    )


def test_a_folder_takes_texts_beside_pictures_or_its_folders_names(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        (tmp_path / "in" / colour).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "in" / colour / f"{number}.jpg").write_bytes(
                picture((200, number, 0), "JPEG")
            )
            (tmp_path / "in" / colour / f"{number}.txt").write_text(f"a {colour} one")
    Image.new("RGB", (5, 5)).save(tmp_path / "in" / "red" / "old.bmp")
    (tmp_path / "in" / "red" / "old.txt").write_text("an old one")
    run("source=in", "to=beside", cwd=tmp_path, module="data.pack")
    texts = sorted(
        data.decode() for name, data in contents(tmp_path / "beside") if name.endswith("txt")
    )
    assert texts == ["a blue one"] * 3 + ["a red one"] * 3 + ["an old one"]
    assert (
        sum(name.endswith(".png") for name, _ in contents(tmp_path / "beside")) == 1
    )  # the bitmap
    run("source=in", "to=folders", "text=[folder]", cwd=tmp_path, module="data.pack")
    texts = sorted(
        data.decode() for name, data in contents(tmp_path / "folders") if name.endswith("txt")
    )
    assert texts == ["blue"] * 3 + ["red"] * 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["path=nothing", "text=[name]"], "has no column 'nothing'; it has file, name"),
        (["text=[title]", 'path="pictures/{file}.png"'], "has no column 'title'"),
        (["text=[name]", 'path="elsewhere/{file}.png"'], "100 of 100 images are missing, first"),
        (
            ["text=[name]", 'path="pictures/{file}.png"', "+where.language=xx"],
            "where.language: no row of table.tsv has 'xx' there",
        ),
        (["source=nowhere"], "no such folder or table"),
    ],
)
def test_pack_names_what_is_wrong_and_leaves_nothing(
    sorted_table: Path, overrides: list[str], words: str
) -> None:
    cwd = sorted_table.parent
    before = set(cwd.iterdir())
    done = finish(start("source=table.tsv", "to=shards", *overrides, cwd=cwd, module="data.pack"))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") <= 3, (
        done.stderr
    )
    assert set(cwd.iterdir()) == before


def test_tables_of_spreadsheets_and_of_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture((1, 2, 3)))
    (tmp_path / "excel.CSV").write_text("path,text\na.png,eins\n", encoding="utf-8-sig")
    run("source=excel.CSV", "to=shards", cwd=tmp_path, module="data.pack")
    assert [data for name, data in contents(tmp_path / "shards") if name.endswith("txt")] == [
        b"eins"
    ]
    (tmp_path / "latin.csv").write_bytes("path,text\na.png,fünf\n".encode("latin-1"))
    done = finish(start("source=latin.csv", "to=other", cwd=tmp_path, module="data.pack"))
    assert (
        done.returncode == 2
        and "latin.csv: is not UTF-8" in done.stderr
        and done.stderr.count("\n") == 1
    ), done.stderr


def test_manifest_command_indexes_shards_of_others(tmp_path: Path) -> None:
    for shard in range(3):
        pairs = [
            (f"{number}", {"jpg": picture((0, number, 0), "JPEG"), "txt": b"text"})
            for number in range(4 + shard)
        ]
        write_shard(tmp_path / "in" / f"{shard}.tar", pairs)
    done = run("shards=in", cwd=tmp_path, module="data.manifest")
    assert "15 pairs in 3 shards" in done.stdout
    (tmp_path / "moved").mkdir()
    done = run(
        "shards='in/{0..1}.tar'", "to=moved/part.jsonl", cwd=tmp_path, module="data.manifest"
    )
    assert "9 pairs in 2 shards" in done.stdout
    whole, listed = (
        resolve(str(tmp_path / "in"), caption=TXT),
        resolve([str(tmp_path / "in" / "*.tar")], caption=TXT),
    )
    assert whole.identity == listed.identity
    assert resolve(str(tmp_path / "moved" / "part.jsonl"), caption=TXT).identity != whole.identity


# --- what the stream makes of them ------------------------------------------------------------------------------------


def chunks_of(
    folder: Path, demo: Path, *, caption: CaptionSource = TXT, **options: Any
) -> TrainingChunks:
    manifest: Manifest = resolve(str(folder), caption=caption)
    pairs = Pairs(
        manifest=manifest, caption=caption, views=Views(image_size=16, resize_size=20), **options
    )
    order = Order(counts=manifest.counts, seed=3, lanes=2, window=64)
    encode = Tokenizer(str(demo / "tokenizer"), max_tokens=16)
    return TrainingChunks(pairs=pairs, order=order, vocabulary=encode, batch_size=8, chunk_size=4)


def test_a_bad_pair_is_replaced_by_its_neighbour_and_told(tmp_path: Path, demo: Path) -> None:
    pairs = [
        (f"{number:02d}", {"png": picture((number, 0, 0)), "txt": f"{number}".encode()})
        for number in range(8)
    ]
    pairs[3] = ("03", {"png": b"no picture", "txt": b"3"})
    pairs[5] = ("05", {"png": picture((5, 0, 0)), "txt": b"  "})
    write_shard(tmp_path / "0.tar", pairs)
    chunks = chunks_of(tmp_path, demo)
    loader = TrainingLoader(
        chunks=chunks,
        schedule=ChunkSchedule(finished_steps=0, first_chunk=0, chunks_per_step=2),
        workers=0,
        pin_memory=False,
    )
    batch = next(iter(loader))
    captions = [caption for chunk in batch.chunks for caption in chunk.captions]
    assert sorted(captions) == ["0", "1", "2", "4", "4", "6", "6", "7"]
    assert [key for chunk in batch.chunks for key in chunk.keys] == [
        f"0/0{caption}" for caption in captions
    ]
    assert {(bad.key, bad.step) for bad in loader.bad_pairs} == {("0/03", 1), ("0/05", 1)}
    assert {bad.reason for bad in loader.bad_pairs} == {
        "not a JPEG, PNG or WebP image",
        "no text in txt",
    }


def test_equal_pictures_and_texts_have_equal_ids_across_chunks(tmp_path: Path, demo: Path) -> None:
    shown, said = [0, 1, 2, 0, 4, 5, 2, 7], ["a", "b", "c", "d", "e", "b", "g", "a"]
    contents = [
        {"png": picture((colour, 0, 0)), "txt": text.encode()}
        for colour, text in zip(shown, said, strict=True)
    ]
    write_shard(
        tmp_path / "0.tar", [(str(number), content) for number, content in enumerate(contents)]
    )
    loader = TrainingLoader(
        chunks=chunks_of(tmp_path, demo, content_ids=True),
        schedule=ChunkSchedule(finished_steps=0, first_chunk=0, chunks_per_step=2),
        workers=0,
        pin_memory=False,
    )
    batch = next(iter(loader))
    numbers = [int(key.rpartition("/")[2]) for chunk in batch.chunks for key in chunk.keys]
    assert sorted(numbers) == list(range(8))
    for ids, contents_of in zip(batch.content_ids(), (shown, said), strict=True):
        assert ids is not None
        for one, first in zip(ids.tolist(), numbers, strict=True):
            for other, second in zip(ids.tolist(), numbers, strict=True):
                assert (one == other) == (contents_of[first] == contents_of[second])  # type: ignore[index]


def test_texts_that_no_tokeniser_takes_are_bad_pairs() -> None:
    source = CaptionSource.parse("json:captions")
    assert source.read(rb'{"captions": ["half \ud800", "whole"]}') == ["whole"]
    for member in (rb'{"captions": "half \ud800"}', b"[" * 200_000):
        with pytest.raises(ValueError, match=r"no text|nested too deeply"):
            source.read(member)


def test_a_shard_without_a_single_good_pair_stops_the_run(tmp_path: Path, demo: Path) -> None:
    write_shard(
        tmp_path / "0.tar", [(f"{number}", {"png": b"?", "txt": b"text"}) for number in range(8)]
    )
    with pytest.raises(UserError, match=r"0\.tar: no good pair in it"):
        chunks_of(tmp_path, demo)[0, 0]


def captions_of_epochs(chunks: TrainingChunks, steps: int) -> list[str]:
    made = [chunks[step, number] for step in range(steps) for number in range(2)]
    return [caption for item in made if not isinstance(item, Gone) for caption in item[0].captions]


def test_each_visit_draws_one_of_several_captions(tmp_path: Path, demo: Path) -> None:
    texts = json.dumps({"captions": ["first", "second", "third"]}).encode()
    write_shard(
        tmp_path / "0.tar",
        [(f"{number}", {"png": picture((9, 9, 9)), "json": texts}) for number in range(8)],
    )
    source = CaptionSource.parse("json:captions")
    alike = captions_of_epochs(chunks_of(tmp_path, demo, caption=source), 60)
    assert alike == captions_of_epochs(chunks_of(tmp_path, demo, caption=source), 60)
    assert all(120 < count < 200 for count in Counter(alike).values())
    mostly = Counter(
        captions_of_epochs(chunks_of(tmp_path, demo, caption=source, first_caption=0.9), 60)
    )
    assert 410 < mostly["first"] < 455 and mostly["second"] > 5 and mostly["third"] > 5


def test_augmentation_is_drawn_from_the_pair_alone(tmp_path: Path, demo: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    write_shard(
        tmp_path / "0.tar",
        [(f"{number}", {"png": file.getvalue(), "txt": b"text"}) for number in range(8)],
    )
    augmentation = Augmentation(
        transforms=[v2.RandomAffine(degrees=45), v2.ColorJitter(hue=0.4)], size=20
    )
    pairs = chunks_of(tmp_path, demo, augmentation=augmentation).pairs
    before = torch.random.get_rng_state()
    first = pairs.draw(0, 0, seed=5).pixels
    torch.manual_seed(99)
    again = pairs.draw(0, 0, seed=5).pixels
    other = pairs.draw(0, 0, seed=6).pixels
    assert (
        first.shape == (16, 16, 3)
        and np.array_equal(first, again)
        and not np.array_equal(first, other)
    )
    torch.random.set_rng_state(before)
    pairs.draw(0, 0, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's random numbers move


def test_the_first_held_out_pairs(demo: Path) -> None:
    manifest = resolve(str(demo / "held_out"), caption=TXT)
    pairs = Pairs(manifest=manifest, caption=TXT, views=Views(image_size=16, resize_size=20))
    whole, first = HeldOutPairs(pairs=pairs), HeldOutPairs(pairs=pairs, limit=5)
    assert (len(whole), len(first)) == (64, 5)
    assert first.about() == whole.about()[:5]
    assert np.array_equal(first[4], whole[4])


# --- text -------------------------------------------------------------------------------------------------------------


def test_texts_are_cut_and_padded_to_eights(demo: Path) -> None:
    encode = Tokenizer(str(demo / "tokenizer"), max_tokens=20)
    ids = encode(["a red circle", "a very long text " * 20])
    assert ids.shape == (2, 20) and ids.dtype == np.int32
    cls, sep = (encode.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert ids[0, 0] == ids[1, 0] == cls and ids[1, -1] == sep
    words = int((ids[0] != 0).sum())
    assert ids[0, words - 1] == sep and not ids[0, words:].any()
    alone = encode(["a red circle"])
    assert alone.shape == (1, 8) and np.array_equal(alone[0], ids[0, :8])


def test_a_data_module_makes_its_shards_before_it_opens_them(demo: Path, tmp_path: Path) -> None:
    def make() -> None:
        shutil.copytree(demo / "train", tmp_path / "train")

    data = data_module(str(tmp_path / "train"), demo / "tokenizer", chunk_size=16, make=make)
    assert data.manifest.pairs == 512


def test_two_sources_are_mixed_exactly_on_every_rank_and_go_on_from_a_checkpoint(
    demo: Path,
) -> None:
    """3 : 1 of the training shards and the held-out ones: by keys, on 1 and on 2 ranks; from a state saved at step 5."""

    def module() -> PairsDataModule:
        shards = [str(demo / "train"), str(demo / "held_out")]
        return data_module(shards, demo / "tokenizer", weights=[3, 1], chunk_size=16, window=64)

    def keys(chunks: TrainingChunks, step: int) -> list[list[str]]:
        made = [chunks[step, number] for number in range(2)]
        return [item[0].keys for item in made if not isinstance(item, Gone)]

    whole = module()
    chunks = whole.training_chunks()
    held_out = {Path(shard.url).stem for shard in whole.manifest.shards if "held_out" in shard.url}
    epochs = []
    for step in range(40):
        for of_rank in keys(chunks, step):  # two ranks have a chunk each
            assert sum(key.partition("/")[0] in held_out and len(key) > 0 for key in of_rank) >= 4
        visits = chunks.visits(step)
        second = visits.shard >= whole.order.sources[1].first_shard
        assert second.reshape(2, -1).sum(axis=1).tolist() == [4, 4]
        epochs.append((visits.epoch[~second].max(), visits.epoch[second].max()))
    assert epochs[-1] == (1, 4)  # 40 steps: 960 of the 512 pairs of one, 320 of the 64 of the other
    resumed = module()
    resumed.go_on({**whole.recipe, "step": 5, "cursor": 5 * 32, "pairs_seen": 5 * 32})
    assert resumed.training_chunks().start.finished_steps == 5
    assert [keys(resumed.training_chunks(), step) for step in (5, 17)] == [
        keys(chunks, step) for step in (5, 17)
    ]


def test_a_run_stops_where_too_many_pairs_are_bad(
    demo: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Two of four shards turn out to be garbage: replaced, written down, and past the share the run stops; one line."""
    shutil.copytree(demo / "train", tmp_path / "train")
    for path in sorted((tmp_path / "train").glob("*.tar"))[:2]:
        path.write_bytes(b"garbage" * 1000)
    arguments = (*small_run, f"data.shards={tmp_path}/train", "name=bad", "trainer.devices=2")
    done = finish(start(*arguments, cwd=tmp_path))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "align_train: " in line]
    assert re.search(
        r"step \d+: \d+ of \d+ pairs could not be used, more than data\.max_bad_share=0\.1; see .*bad_pairs",
        told,
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "outputs" / "bad" / "bad_pairs.jsonl").read_text().splitlines()
    ]
    assert len(lines) > 100
    assert {line["key"].split("/")[0] for line in lines} == {"00000000", "00000128"}
    assert all("not a readable tar" in line["reason"] and line["step"] >= 1 for line in lines)
    assert {line["replaced_by"].split("/")[0] for line in lines} <= {"00000256", "00000384"}
    with (tmp_path / "outputs" / "bad" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # those of both ranks together
        assert (
            int(float(row["bad_pairs"]))
            == sum(line["step"] <= int(row["step"]) for line in lines)
            > 0
        )
