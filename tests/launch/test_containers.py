"""Dockerfile and Apptainer's recipe agree with the checkout, and with one another.

`tests/launch/build_image.sh` builds the image for real, as root on Debian.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.commands import REPOSITORY

DOCKERFILE = (REPOSITORY / "launch" / "Dockerfile").read_text()
RECIPE = (REPOSITORY / "launch" / "align_train.def").read_text()


def section(name: str) -> list[str]:
    """The lines of a section of Apptainer's recipe."""
    found = re.search(rf"^%{name}\n((?:    .*\n)+)", RECIPE, re.MULTILINE)
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


def test_both_have_the_same_defaults() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))
    assert dict(line.split("=", 1) for line in section("arguments")) == arguments


def test_both_copy_what_is_there() -> None:
    copied = re.findall(r"^COPY (\S+) /opt/align_train", DOCKERFILE, re.MULTILINE)
    copied += [line.split()[0] for line in section("files")]
    assert len(copied) > 5
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []


def test_apptainer_copies_what_the_package_is_built_from() -> None:
    copied = {line.split()[0] for line in section("files")}
    assert {"pyproject.toml", "README.md", "LICENSE", "align_train", "conf", "data"} <= copied


def test_both_run_the_same_installer() -> None:
    parts = re.compile(r"/opt/align_train/launch/install\.sh (\w+)")
    assert parts.findall(DOCKERFILE) == parts.findall(RECIPE) == ["dependencies", "project"]


def test_the_containers_extras_exist() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_environments_and_runs_stay_out_of_the_image() -> None:
    ignored = (REPOSITORY / "launch" / "Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv*", "outputs", "demo_data"} <= set(ignored)


def test_the_entry_point_is_a_command_of_ours() -> None:
    (words,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    assert shlex.split(words.strip("[]")) == ["align-train"]
    project = Path(REPOSITORY, "pyproject.toml").read_text()
    assert 'align-train = "align_train.' in project
