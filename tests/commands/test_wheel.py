"""The wheel: what it holds, and that from it alone, in another directory, every command runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from align_train.commands.line import MODULES
from tests.support.commands import REPOSITORY, SMALL_RUN, made_once

COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, and with it unpacked as `site`."""

    def make(folder: Path) -> None:
        beside = Path(sys.executable).with_name("uv")
        uv = str(beside) if beside.exists() else "uv"
        build = [uv, "build", "--quiet", "--wheel", "-o", str(folder), str(REPOSITORY)]
        subprocess.run(build, check=True)
        (file,) = folder.glob("*.whl")
        target = ["--target", str(folder / "site"), "--python", sys.executable]
        install = [uv, "pip", "install", "--quiet", "--no-deps", *target, str(file)]
        subprocess.run(install, check=True)

    return made_once(tmp_path_factory, "wheel", make)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A folder with a CSV of 50 images, and with a package of its owner called `data`."""
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "__init__.py").write_text("raise SystemExit('somebody else is here')")
    (folder / "images").mkdir(parents=True)
    rows = ["path,text"]
    for number in range(50):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (40 + number, 40), colour).save(folder / "images" / f"{number}.png")
        rows.append(f'images/{number}.png,"a {colour} square, number {number}"')
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


def installed(wheel: Path, *words: str, cwd: Path) -> str:
    """`align-train …` of the wheel; its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(wheel / "site"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(wheel / "site" / "bin" / "align-train"), *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def pack(wheel: Path, captions: Path) -> None:
    words = ("source=captions.csv", "to=shards", "pairs_per_shard=25", "vocabulary=100")
    said = installed(wheel, "pack", *words, cwd=captions)
    assert "50 pairs with 50 texts in 2 shards" in said


def test_the_wheel_holds_one_package_with_settings_and_data_tools(wheel: Path) -> None:
    (file,) = wheel.glob("*.whl")
    names = zipfile.ZipFile(file).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"align_train"}
    assert max(Counter(names).values()) == 1

    # What a report is made of is no Python.
    html = REPOSITORY / "align_train" / "figures" / "html"
    for path in (path for path in html.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        name = path.relative_to(REPOSITORY).as_posix()
        assert zipfile.ZipFile(file).read(name) == path.read_bytes(), name

    for name in ("conf/train.yaml", "data/__init__.py", "data/pack.py", "data/filter/__main__.py"):
        packed = zipfile.ZipFile(file).read(f"align_train/{name}")
        assert packed == (REPOSITORY / name).read_bytes(), name


def test_the_installed_line_packs_and_explains(wheel: Path, captions: Path) -> None:
    assert installed(wheel, "--version", cwd=captions).startswith("align_train ")
    listed = installed(wheel, cwd=captions)
    assert all(f"\n  {name} " in listed for name in MODULES)
    assert "\n  source=???" in installed(wheel, "pack", "--help", cwd=captions)
    assert "\n  * tiny " in installed(wheel, "train", "--help", "model", cwd=captions)
    pack(wheel, captions)


@pytest.mark.long
def test_from_a_csv_to_an_exported_model(wheel: Path, captions: Path) -> None:
    pack(wheel, captions)
    data = ("data=webdataset", "data.shards=shards", "data.tokenizer=shards/tokenizer")
    run = (*SMALL_RUN, *data, "data.held_out=shards", "name=mine", "max_steps=4")
    assert "50 pairs in 2 shards" in installed(wheel, *run, "dry_run=true", cwd=captions)
    assert not (captions / "outputs").exists()

    # Without the word `train`, and on two processes: the second one starts by the module's name.
    installed(wheel, *run, "trainer.devices=2", cwd=captions)
    said = installed(wheel, "evaluate", "model=outputs/mine", cwd=captions)
    assert "retrieval/text_to_image/recall@1" in said

    installed(wheel, "embed", "model=outputs/mine", "shards=shards", "to=index", cwd=captions)
    installed(wheel, "search", "index=index", "text=a red square", cwd=captions)
    assert (captions / "search.png").is_file()
    installed(wheel, "export", "model=outputs/mine", "to=exported", cwd=captions)
    assert (captions / "exported" / "config.json").is_file()
    assert "report.html: written" in installed(wheel, "report", "name=mine", cwd=captions)
    assert "number" in installed(wheel, "show", "name=mine", "step=1", cwd=captions)


@pytest.mark.long
def test_the_installed_command_runs_the_demo(
    wheel: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    assert "zero_shot/top1" in installed(wheel, *small_run, cwd=tmp_path)
    assert (tmp_path / "outputs" / "demo" / "results.json").is_file()
