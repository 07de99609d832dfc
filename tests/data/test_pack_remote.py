"""`data.pack` from URLs: tables, folders and images on a web server and in a store."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from align_train.errors import UserError
from data import pack
from data.packing.settings import PackSettings
from tests.support.images import encoded, picture
from tests.support.packing import pack_settings, packed_records
from tests.support.servers import flaky_http, flaky_s3, web

COUNT = 8


def at(url: str, folder: Path, **given: Any) -> PackSettings:
    return pack_settings(url, folder / "packed", **given)


def images(folder: Path) -> dict[str, bytes]:
    found = {}
    for index in range(COUNT):
        name = f"a b/{index}%.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        found[name] = encoded(picture(index), "PNG")
        (folder / name).write_bytes(found[name])
        (folder / name).with_suffix(".txt").write_text(f"text {index}")
    return found


def test_a_table_on_a_web_server_names_its_images_by_paths(tmp_path: Path) -> None:
    served = tmp_path / "served"
    names = list(images(served))
    lines = [f"{name},text {index}" for index, name in enumerate(names)]
    (served / "pairs.csv").write_text("\n".join(["path,text", *lines]))
    # Of two commands for the same folder, one was killed and one lives.
    for name in ("source.killed", "source.lives", "1234"):
        (tmp_path / f".packed.{name}" / "0").mkdir(parents=True)
    lives = os.open(tmp_path / ".packed.source.lives", os.O_RDONLY)
    fcntl.flock(lives, fcntl.LOCK_EX)
    with flaky_http(served, fail=0.2, stall=0.1) as server:
        pack.run(at(f"{server.url}/pairs.csv", tmp_path))
    os.close(lives)

    records = packed_records(tmp_path / "packed").values()
    assert {record["source"]: record["captions"] for record in records} == {
        name: [f"text {index}"] for index, name in enumerate(names)
    }
    # Nothing of the source is left beside the result.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".packed.source.lives", "packed", "served"]


@pytest.mark.parametrize("store", ["http", "s3"])
def test_a_folder_at_a_url_is_packed_as_if_it_were_here(store: str, tmp_path: Path) -> None:
    served = tmp_path / "served"
    names = list(images(served))
    with (flaky_http if store == "http" else flaky_s3)(served, fail=0.0) as server:
        options = getattr(server, "storage_options", None)
        pack.run(at(server.url, tmp_path, storage_options=options))
    records = packed_records(tmp_path / "packed").values()
    assert {record["source"]: record["captions"] for record in records} == {
        name: [f"text {index}"] for index, name in enumerate(names)
    }


def test_a_query_is_no_part_of_a_folder(tmp_path: Path) -> None:
    """Signed URLs have slashes there."""
    served = tmp_path / "served" / "deep"
    name = next(iter(images(served)))
    (served / "pairs.csv").write_text(f"path,text\n{name},a text\n")
    with flaky_http(tmp_path / "served", fail=0.0) as server:
        pack.run(at(f"{server.url}/deep/pairs.csv?sign=a/b.c/d#e/f", tmp_path))
        # A root with a query signs all that is below it.
        table, root = served / "pairs.csv", f"{server.url}/deep?sign=a/b"
        pack.run(pack_settings(table, tmp_path / "rooted", root=root))
        with pytest.raises(
            UserError, match=r"listed at a URL without a query; give source=http.*p, "
        ):
            pack.run(at(f"{server.url}/deep?sign=a/b", tmp_path / "none"))
        with pytest.raises(UserError, match=r"names=http://.*: expected a file here"):
            pack.run(pack_settings(table, tmp_path / "listed", names=f"{server.url}/list.txt"))
    for folder in ("packed", "rooted"):
        (record,) = packed_records(tmp_path / folder).values()
        assert record["source"] == name


def test_images_by_urls_that_do_not_come_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {f"{index}.png": encoded(picture(index), "PNG") for index in range(COUNT)}
    table = tmp_path / "pairs.tsv"
    with web(pictures) as server:
        urls = [f"{server.url}/good/{name}" for name in pictures]
        bad = [f"{server.url}/gone/0.png", f"{server.url}/page/0.png"]
        table.write_text("\n".join(["url\tcaption", *(f"{url}\ta text" for url in [*urls, *bad])]))
        given = pack_settings(table, tmp_path / "packed", path="url", text=["caption"])
        with pytest.raises(UserError, match=r"gone/0\.png: cannot be fetched \(no such file there"):
            pack.run(given)
        given.skip_missing = True
        pack.run(given)

    assert "left out: 1 missing image (first http" in (out := capsys.readouterr().out), out
    records = packed_records(tmp_path / "packed").values()
    assert sorted(record["source"] for record in records) == urls
    listed = (tmp_path / "packed" / "left_out.tsv").read_text()
    assert f"missing images\t1\t{bad[0]}\tno such file there" in listed
    assert f"files that are no images\t1\t{bad[1]}\tHTML, not an image" in listed


def test_held_out_images_at_urls_are_fetched_once(tmp_path: Path) -> None:
    pictures = {f"{index}.png": encoded(picture(index), "PNG") for index in range(COUNT)}
    table = tmp_path / "pairs.csv"
    with web(pictures) as server:
        urls = [f"{server.url}/good/{name}?size={n}" for name in pictures for n in (1, 2)]
        table.write_text("\n".join(["url,caption", *(f"{url},a text" for url in urls)]))
        pack.run(pack_settings(table, tmp_path / "packed", path="url", held_out=5.0))

    sides = [packed_records(tmp_path / side).values() for side in ("packed", "packed/held_out")]
    sources = [{record["source"] for record in side} for side in sides]
    # Both sizes are the same image, so that there are pairs of pairs.
    assert (len(sources[1]), sources[0] | sources[1]) == (4, set(urls))
    assert {url[:-1] for url in sources[0]}.isdisjoint(url[:-1] for url in sources[1])
    assert sorted(server.asked) == sorted(2 * [f"good/{name}" for name in pictures])


def test_a_source_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    served = tmp_path / "served"
    images(served)
    (served / "broken.csv").write_text('path,text\na.png,"open')
    with flaky_http(served, fail=0.0) as server:
        for name, words in (
            ("none.csv", "no such file there"),
            ("none", "no files in that folder, or no such folder"),
            ("broken.csv", rf"^{server.url}/broken\.csv, line 2: a cell begins"),
        ):
            with pytest.raises(UserError, match=words):
                pack.run(at(f"{server.url}/{name}", tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]


FAULTS: dict[str, tuple[str, Any, str]] = {
    "no server": ("http:///x.csv", None, r"^source=http:///x\.csv: no URL \(it names no server\)"),
    "no such port": ("http://127.0.0.1:99999/x.csv", None, r": no URL \(Port out of range"),
    "a loop": ("/loop/x.csv", None, r": cannot be fetched \(TooManyRedirects\); check the URL"),
    "an option": ("/good/x.csv", {"bogus": 1}, r"argument 'bogus'\); check storage_options"),
    "a table that is always cut": ("/cut/x.csv", None, r"given up after \d attempts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_no_attempt_mends_is_given_up_soon(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.packing.fetched._PATIENCE", 2.0 if "cut" in fault else 20.0)
    url, options, words = FAULTS[fault]
    begun = time.monotonic()
    with web({"x.csv": b"path,text\n" * 100}) as server:
        url = url if "://" in url else server.url + url
        with pytest.raises(UserError, match=words):
            pack.run(at(url, tmp_path, storage_options=options))
    assert time.monotonic() - begun < 10


def test_a_missing_image_ends_the_packing_while_others_are_asked_for_again(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    begun = time.monotonic()
    with web({"0.png": b"some bytes"}) as server:
        paths = [f"{server.url}/cut/0.png", f"{server.url}/gone/0.png"]
        table.write_text("\n".join(["path,text", *(f"{path},a text" for path in paths)]))
        with pytest.raises(UserError, match=r"gone/0\.png: cannot be fetched \(no such file"):
            pack.run(pack_settings(table, tmp_path / "packed"))
    assert time.monotonic() - begun < 10
