"""A collection of embedded images is whole or absent, resumes, and is shared by processes.

A search in it finds the same images as a sort of all similarities.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import align_train
from align_train.commands.search import print_table
from align_train.errors import UserError
from align_train.index.collection import Collection, Match
from align_train.index.faiss import search_approximately
from align_train.index.identity import Identity
from align_train.index.settings import Settings
from align_train.pretrained.identity import identity_of
from tests.support.commands import finish, made_once, run, start, start_ranks
from tests.support.images import picture

IDENTITY = Identity("w", "t", 32, 36, 16, {"model.text_tower.heads": "2"}, [[1.0, 0.0]])


def collection(
    folder: Path, counts: list[int], *, dim: int = 12, precision: str = "float32"
) -> tuple[Collection, torch.Tensor]:
    """Random unit vectors; every tenth cannot be decoded."""
    rows = normalize(
        torch.randn(sum(counts), dim, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    rows[::10] = 0
    settings = Settings("m", IDENTITY, "s", "txt", "i", counts, dim, precision)
    found = Collection.begin(folder, settings)
    for shard, part in enumerate(torch.split(rows, counts)):
        found.write(
            shard,
            part.numpy(),
            [{"key": f"{shard}/{row}", "texts": []} for row in range(len(part))],
        )
    return found, rows


def test_what_a_search_finds_is_what_a_sort_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align_train.index.collection._BLOCK", 7)
    _, rows = collection(tmp_path / "all", [23, 1, 40])
    found = Collection.open(tmp_path / "all")
    for seed in range(5):
        query = normalize(
            torch.randn(12, generator=torch.Generator().manual_seed(100 + seed)), dim=0
        )
        scores = (rows @ query).numpy()
        scores[::10] = -np.inf
        expected = np.argsort(-scores, kind="stable")[:20].tolist()
        hits = found.search(query, 20)
        assert [number for number, _ in hits] == expected
        assert [score for _, score in hits] == pytest.approx(scores[expected].tolist(), abs=1e-6)
    assert found.about(24)["key"] == "2/0" and found.place(23) == (1, 0)
    assert len(found.search(query, 100)) == 57  # those that can be decoded


def test_faiss_finds_nearly_the_same(tmp_path: Path) -> None:
    found, _ = collection(tmp_path / "all", [3000, 2000], dim=32)
    same = 0
    for seed in range(20):
        query = normalize(torch.randn(32, generator=torch.Generator().manual_seed(seed)), dim=0)
        exact = {number for number, _ in found.search(query, 10)}
        near = search_approximately(found, query, 10)
        assert [score for _, score in near] == sorted((score for _, score in near), reverse=True)
        same += len(exact & {number for number, _ in near})
        assert not any(number % 10 == 0 for number, _ in near)
    assert same >= 190
    assert (tmp_path / "all" / "index.faiss").is_file()


@pytest.mark.parametrize("text", ["", "a cat"])
def test_files_of_a_folder_are_listed_as_images(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings("m", IDENTITY, "s", "txt", "i", [1], 12, "float32", plain=True)
    found = Collection.begin(tmp_path / "all", settings)
    about = [{"key": "cats/1.jpg", "texts": [text] if text else []}]
    found.write(0, np.ones((1, 12), dtype=np.float32), about)
    print_table(found, [Match(0, 0.5)])
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["cosine", "image", *(["text"] if text else [])]
    assert line.split() == ["0.5000", "cats/1.jpg", *text.split()] and line == line.rstrip()


def test_a_folder_is_gone_on_in_or_refused(tmp_path: Path) -> None:
    first, _ = collection(tmp_path / "all", [3, 2])
    same = Collection.begin(tmp_path / "all", first.settings)
    assert same.has(0) and same.has(1)
    other = replace(IDENTITY, weights="x")
    for change, words in (
        ({"identity": other}, r"another model \(other weights\)"),
        ({"manifest": "x"}, "other shards"),
        ({"image": "rgb.png"}, "another image=…"),
    ):
        with pytest.raises(UserError, match=f"was begun with {words}"):
            Collection.begin(tmp_path / "all", Settings(**(vars(first.settings) | change)))
    (tmp_path / "all" / "00001.npy").unlink()
    with pytest.raises(UserError, match="1 of 2 shards are not embedded yet"):
        Collection.open(tmp_path / "all")
    (tmp_path / "all" / "00001.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"00001\.npy: cannot be read"):
        Collection.open(tmp_path / "all").search(torch.ones(12), 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(UserError, match="exists and holds no embeddings"):
        Collection.begin(tmp_path / "other", first.settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "x"}, "other weights"),
        ({"tokenizer": "x"}, "another tokenizer"),
        ({"tokenizer": None}, "another tokenizer"),
        ({"image_size": 40}, "image_size 32, now 40"),
        ({"resize_size": 48}, "resize_size 36, now 48"),
        ({"max_tokens": 64}, "max_tokens 16, now 64"),
        ({"probes": [[0.999, 0.04]]}, "another pooling, normalisation or version of a library"),
        ({"probes": [[1.0, 0.0, 0.0]]}, "another pooling, normalisation or version of a library"),
        (
            {"probes": [[0.999, 0.04]], "settings": {"model.text_tower.heads": "4"}},
            "model.text_tower.heads 2, now 4",
        ),
        # Another device's last digits, and a setting of training, change nothing.
        ({"probes": [[1.0, 0.001]]}, ""),
        ({"settings": {"model.text_tower.heads": "4"}}, ""),
    ],
)
def test_another_model_is_known_by_each_of_its_parts(changes: dict[str, Any], words: str) -> None:
    assert IDENTITY.difference(replace(IDENTITY, **changes)) == words
    # Images had no use for a tokenizer that was added since.
    without = replace(IDENTITY, tokenizer=None)
    assert without.difference(replace(without, tokenizer="t")) == ""


def test_a_collection_of_another_version_is_refused(tmp_path: Path) -> None:
    collection(tmp_path / "all", [3])
    file = tmp_path / "all" / "collection.json"
    written = json.loads(file.read_text())
    assert Collection.open(tmp_path / "all").settings.identity == IDENTITY

    for changed in (
        {**written, "identity": "x"},
        {**written, "identity": {**written["identity"], "probes": [["x"]]}},
        {**written, "identity": {**written["identity"], "pooling": "x"}},
        {name: value for name, value in written.items() if name != "identity"},
        [1, 2],
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"collection\.json: cannot be read .* embed again"):
            Collection.open(tmp_path / "all")


def test_what_changes_an_embedding_changes_the_identity(trained: Path, tmp_path: Path) -> None:
    """A run's folder is edited as users edit it; an export of the run is the same model."""
    identity = identity_of(align_train.load(str(trained)))

    def edited(name: str, file: str, change: Callable[[str], str]) -> str:
        copy = shutil.copytree(trained, tmp_path / name, symlinks=True)
        before = (copy / file).read_text(encoding="utf-8")
        assert change(before) != before
        (copy / file).write_text(change(before), encoding="utf-8")
        return identity.difference(identity_of(align_train.load(str(copy))))

    config = "config.yaml"
    assert edited("heads", config, lambda text: text.replace("heads: 2", "heads: 4")) == (
        "model.text_tower.heads 2, now 4"
    )
    sides = edited("sides", config, lambda text: text.replace("size: 36", "size: 41"))
    assert sides == "resize_size 36, now 41"
    length = edited("length", config, lambda text: text.replace("max_tokens: 32", "max_tokens: 24"))
    assert length == "max_tokens 32, now 24"
    assert edited("drop", config, lambda text: text.replace("dropout: 0.1", "dropout: 0.3")) == ""

    tokens = "tokenizer/tokenizer.json"
    for name, change in (
        ("swapped", lambda text: text.replace('"red"', '"_"').replace('"blue"', '"red"')),
        ("cased", lambda text: text.replace('"lowercase": true', '"lowercase": false')),
        ("added", _with_added_token),
    ):
        assert edited(name, tokens, change) == "another tokenizer"
    # Laid out anew, or with another length: the ids are the same.
    assert edited("laid out", tokens, lambda text: json.dumps(json.loads(text))) == ""

    run(f"model={trained}", f"to={tmp_path}/hub", cwd=tmp_path, module="align_train.export")
    assert identity.difference(identity_of(align_train.load(str(tmp_path / "hub")))) == ""


def _with_added_token(text: str) -> str:
    content = json.loads(text)
    token = {**content["added_tokens"][-1], "id": 299, "content": "circle", "special": False}
    return json.dumps({**content, "added_tokens": [*content["added_tokens"], token]})


@pytest.fixture(scope="session")
def embedded(trained: Path, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of the small demo's training images.

    Two processes share its four shards; then a third one finds nothing to do.
    """

    def make(folder: Path) -> None:
        arguments = (
            f"model={trained}",
            f"shards={demo}/train",
            f"to={folder}/all",
            "precision=float32",
        )
        two = start_ranks(*arguments, cwd=folder, module="align_train.embed")
        assert [finish(process).returncode for process in two] == [0, 0]
        before = {path: path.stat().st_mtime_ns for path in (folder / "all").glob("*.npy")}
        assert len(before) == 4
        out = run(*arguments, cwd=folder, module="align_train.embed").stdout
        assert "512 images, 4 of 4 shards done" in out
        assert before == {path: path.stat().st_mtime_ns for path in before}

    return made_once(tmp_path_factory, "embedded", make) / "all"


def test_embeddings_are_the_models(embedded: Path, trained: Path, demo: Path) -> None:
    model = align_train.load(str(trained))
    with tarfile.open(demo / "train" / "00000128.tar") as tar:
        member = tar.extractfile("00000130.png")
        assert member is not None
        with torch.inference_mode():
            expected = model.encode_images([Image.open(member)])[0]
    found = np.load(embedded / "00001.npy", mmap_mode="r")
    np.testing.assert_allclose(found[2], expected.numpy(), atol=1e-5)
    assert Collection.open(embedded).about(130)["key"] == "00000128/00000130"


def searched(*arguments: str, cwd: Path) -> tuple[list[str], str]:
    """The keys found, and all that was printed."""
    out = run(*arguments, cwd=cwd, module="align_train.search").stdout
    return [
        line.split()[1]
        for line in out.splitlines()
        if line.count("/") and line.lstrip()[0] in "-01"
    ], out


def test_by_picture_by_text_and_by_both(
    embedded: Path, trained: Path, demo: Path, tmp_path: Path
) -> None:
    with tarfile.open(demo / "train" / "00000000.tar") as tar:
        member = tar.extractfile("00000007.png")  # `extract` has its filter since Python 3.11.4
        assert member is not None
        (tmp_path / "00000007.png").write_bytes(member.read())
    keys, out = searched(f"index={embedded}", "image=00000007.png", "top=5", cwd=tmp_path)
    assert len(keys) == 5 and keys[0] == "00000000/00000007" and "512 images, all compared" in out
    assert (tmp_path / "search.png").is_file()
    model = align_train.load(str(trained))
    with torch.inference_mode():
        text = model.encode_text(model.tokenizer(["a red circle"]))[0]
        image = model.encode_images([Image.open(tmp_path / "00000007.png")])[0]
    rows = torch.cat([torch.from_numpy(np.load(file)) for file in sorted(embedded.glob("*.npy"))])
    both = ("image=00000007.png", "text=a red circle")
    for query, arguments in ((text, both[1:]), (normalize(image + 2 * text, dim=0), both)):
        keys, _ = searched(
            f"index={embedded}", *arguments, "top=7", "to=deep/er/found.png", cwd=tmp_path
        )
        best = (rows @ query).topk(7).indices.tolist()
        assert keys == [Collection.open(embedded).about(number)["key"] for number in best]
    assert (tmp_path / "deep" / "er" / "found.png").is_file()


def test_any_words_are_searched_for_and_another_tokenizer_is_refused(
    embedded: Path, trained: Path, tmp_path: Path
) -> None:
    keys, _ = searched(f"index={embedded}", 'text=赤い猫, it\'s {red} = "1e3"', cwd=tmp_path)
    assert len(keys) == 12

    copy = shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace('"red"', '"_"').replace('"blue"', '"red"'))
    words = (f"index={embedded}", f"model={copy}", "text=a red circle")
    done = finish(start(*words, cwd=tmp_path, module="align_train.search"))
    assert done.returncode == 2
    assert f"{copy}: not as {embedded} was made: another tokenizer; give model=…" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_what_is_broken_is_said_and_mended(
    embedded: Path, trained: Path, demo: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(embedded, tmp_path / "copy")
    (copy / "00001.jsonl").unlink()
    done = finish(start(f"index={copy}", "text=x", cwd=tmp_path, module="align_train.search"))
    assert done.returncode == 2 and "1 of 4 shards are not embedded yet" in done.stderr
    arguments = (f"model={trained}", f"shards={demo}/train", f"to={copy}", "precision=float32")
    run(*arguments, cwd=tmp_path, module="align_train.embed")
    assert (copy / "00001.jsonl").read_bytes() == (embedded / "00001.jsonl").read_bytes()
    for name, content in (
        ("00000.npy", b""),
        ("00000.npy", _array(np.nan)),
        ("00000.jsonl", b'{"key": 1}\n'),
    ):
        (copy / name).write_bytes(content)
        done = finish(
            start(f"index={copy}", "text=x", "top=512", cwd=tmp_path, module="align_train.search")
        )
        assert (
            done.returncode == 2
            and f"{copy / name}: " in done.stderr
            and "Traceback" not in done.stderr
        )
        shutil.copyfile(embedded / name, copy / name)
    (copy / "index.faiss").write_bytes(b"no index")
    done = finish(
        start(
            f"index={copy}",
            "text=x",
            "approximate_from=1",
            cwd=tmp_path,
            module="align_train.search",
        )
    )
    assert done.returncode == 2 and "no index of faiss; remove it" in done.stderr
    other = finish(
        start(*arguments, "caption=json:class", cwd=tmp_path, module="align_train.embed")
    )
    assert other.returncode == 2 and "was begun with another caption" in other.stderr


def _array(value: float) -> bytes:
    data = io.BytesIO()
    np.save(data, np.full((128, 16), value, dtype=np.float32))
    return data.getvalue()


def test_a_collection_whose_shards_are_gone_still_answers(embedded: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(embedded, tmp_path / "copy")
    about = json.loads((copy / "collection.json").read_text())
    (copy / "collection.json").write_text(json.dumps(about | {"shards": str(tmp_path / "nowhere")}))
    keys, out = searched(f"index={copy}", "text=a red circle", "top=3", cwd=tmp_path)
    assert len(keys) == 3 and "no images of the hits: " in out


def test_a_picture_that_cannot_be_decoded_stops_nothing(trained: Path, tmp_path: Path) -> None:
    from align_train.shards.write import write_shard

    def pairs() -> Any:
        for number in range(6):
            picture(number).save(tmp_path / "x.png", "PNG")
            data = (tmp_path / "x.png").read_bytes()
            yield f"{number}", {"png": data[:60] if number == 2 else data, "txt": b"x"}

    write_shard(tmp_path / "shards" / "0.tar", pairs())
    out = run(
        f"model={trained}", "shards=shards", "to=all", cwd=tmp_path, module="align_train.embed"
    ).stdout
    assert "1 of those embedded just now could not be decoded (first 0/2)" in out
    assert not np.load(tmp_path / "all" / "00000.npy")[2].any()
    assert "broken image" in Collection.open(tmp_path / "all").about(2)["bad"]
    keys, _ = searched("index=all", "text=x", "top=20", cwd=tmp_path)
    assert sorted(keys) == ["0/0", "0/1", "0/3", "0/4", "0/5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["text=x", "index=nowhere"],
            "nowhere: no collection.json there; make it with align-train embed",
        ),
        ([], "give text=…, image=…, or both"),
        (["image=nowhere.png"], "image=nowhere.png: cannot be read (No such file or directory)"),
        (["text=x", "top=0"], "top=0: expected at least 1 image"),
        (["text=x", "text_weight=nan"], "text_weight=nan: expected a finite number from 0 on"),
        (["text=x", "to=x.foo"], "to=x.foo: expected an image's path that ends in .png or .jpg"),
        (["text=x", "device=nope"], "device=nope: not there"),
        (
            ["text=x", "storage_options=5"],
            "data.storage_options=5: expected settings, e.g. {anon:true}, or null",
        ),
        (["text=x", "model=nowhere"], "nowhere"),
        (["text=\udcff"], "text=\\udcff: not UTF-8; type it in a UTF-8 terminal"),
    ],
)
def test_one_clear_line(arguments: list[str], words: str, embedded: Path, tmp_path: Path) -> None:
    done = finish(start(f"index={embedded}", *arguments, cwd=tmp_path, module="align_train.search"))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
