"""A command prints a stranger's text on any terminal, and lets none of it act there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from align_train.config.output import escaping_output
from align_train.errors import printable, shown
from tests.support.commands import REPOSITORY, SMALL_RUN, UNEVALUATED, run
from tests.support.images import plain_image

# Text that clears the screen, sets its title, rings, goes back in the line, or turns it around.
ACTING = (
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x90dcs\x9c",
    "over\rwritten",
    "back\b\b\b",
    "\u202eturned\u202c",
    "\u2067isolated\u2069",
    "\u2028line",
    "\x85nel",
    "half \udcff\ud83d",
    "\0\x7f\x0e",
)
HARMLESS = ("猫と犬", "नमस्ते क्\u200dष", "👩\u200d🚀", "1\u00a0000", "a\u3000b", "¡olé!")


@pytest.mark.parametrize("text", ACTING)
def test_what_acts_on_a_terminal_is_spelled_out(text: str) -> None:
    for spelled in (printable(text), shown(text)):
        assert not any(letter in spelled for letter in text if not letter.isprintable())
        assert "\\" in spelled


@pytest.mark.parametrize("text", HARMLESS)
def test_every_script_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_streams_take_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for name, file in zip(("stdout", "stderr"), files, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding=encoding))
    escaping_output()
    escaping_output()  # a command within a command

    for text in (*ACTING, *HARMLESS):
        print(text)
        print(f"\r\x1b[A\x1b[34m{text}\x1b[0m", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()

    out, error = (file.getvalue().decode(encoding) for file in files)
    assert out.count("\n") == len(ACTING) + len(HARMLESS)
    assert "\x1b" not in out
    assert "\r" not in out
    assert "\\x1b[2J" in out
    assert error.count("\x1b[A\x1b[34m") == len(ACTING) + len(HARMLESS)
    assert not any(letter in error for letter in "\x07\x9b\b\u202e\0")
    if encoding == "utf-8":
        assert "猫と犬" in out


@pytest.mark.parametrize("reader", [">&-", "2>&-", "| head -1", "> /dev/full"])
def test_a_command_ends_in_a_line_or_in_none_whoever_reads(reader: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m align_train.show --cfg job name=x {reader}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    full = "align_train: a file: No space left on device"
    assert done.stderr.startswith(full) if "full" in reader else not done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """The folder of a run of one step on pairs with such texts, and keys."""
    folder = tmp_path_factory.mktemp("odd")
    texts = [*ACTING, *HARMLESS]
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for index in range(64):
            text = texts[index % len(texts)].encode("utf-8", "replace")
            key = "key\x1b[2Jcleared" if index == 5 else f"{index:03d}"
            for ending, content in (("png", plain_image((index, 0, 0))), ("txt", text)):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    data = ("data=webdataset", "data.shards=shards", f"data.tokenizer={demo}/tokenizer")
    done = run(*SMALL_RUN, *UNEVALUATED, *data, "name=犬", "max_steps=1", cwd=folder)
    assert "\x1b" not in done.stdout
    return folder


@pytest.mark.long
def test_show_prints_such_pairs_anywhere(odd_run: Path) -> None:
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    command = f"{sys.executable} -m align_train.show name=犬 step=1"
    # `head` closes the pipe after one line, in the second of the two.
    for reader, lines in (("cat", 32), ("head -1", 1)):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} limit=1000 | {reader}"],
            cwd=odd_run,
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
        out = done.stdout.decode("ascii")
        assert done.stderr == b""
        assert out.count("\n") >= lines
        assert not any(letter in out for letter in "\x1b\x07\r\b\0\x85\x9b")
    assert done.returncode in (0, 141)
