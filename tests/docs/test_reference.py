"""`make docs` builds without a warning, and every public name has a page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY
from tests.support.docs.site import names_of_reference, public_names


def command_of_make() -> list[str]:
    """What `make docs` runs, without the filter of its output."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"\$\(BIN\)/(mkdocs [\w -]+) 2>&1", makefile)
    return [sys.executable, "-m", *command.split()]


@pytest.mark.long
def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [*command_of_make(), "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert done.returncode == 0, "\n".join(said)

    missing = sorted(set(public_names()) - names_of_reference(tmp_path / "site"))
    assert not missing, "\n".join(["without a page:", *missing])
