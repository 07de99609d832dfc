"""No link in README and docs is dead, and no image lies unused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY
from tests.support.docs.site import build_pages

DOCS = REPOSITORY / "docs"
BESIDE_DOCS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "launch/README.md")

_LINK = re.compile(r"\]\((?!https?://|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_IMAGE_NAME = re.compile(r"images/([\w.-]+)")


def test_no_link_and_no_anchor_of_the_site_is_dead(tmp_path: Path) -> None:
    dead = build_pages(tmp_path)
    assert not dead, "\n".join(["", *dead])


@pytest.mark.parametrize("name", BESIDE_DOCS)
def test_links_of_pages_beside_the_docs_lead_somewhere(name: str) -> None:
    page = REPOSITORY / name
    if not page.is_file():
        return

    dead: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for link in _LINK.finditer(line):
            target = (page.parent / link["path"]).resolve() if link["path"] else page
            if not target.exists():
                dead.append(f"{name}:{number}: {link['path']}: no such file")
            elif link["anchor"] and link["anchor"] not in anchors_of(target):
                dead.append(f"{name}:{number}: #{link['anchor']}: no such heading")
    assert not dead, "\n".join(["", *dead])


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    from markdown.extensions.toc import slugify

    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {slugify(heading.replace("`", ""), "-") for heading in headings}


def test_every_image_is_used() -> None:
    pages = [REPOSITORY / name for name in BESIDE_DOCS if (REPOSITORY / name).is_file()]
    pages += [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    used = {
        name for page in pages for name in _IMAGE_NAME.findall(page.read_text(encoding="utf-8"))
    }
    unused = {path.name for path in (DOCS / "images").iterdir()} - used
    assert not unused, unused
