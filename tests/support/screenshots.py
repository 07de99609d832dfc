"""`python -m tests.support.screenshots --run RUN --shards SHARDS`: images of the page for docs.

Embeds the shards into a temporary folder, serves the run and one of its earlier checkpoints, and
drives Chromium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.browser import Visit, visiting
from tests.support.pages import open_tab

_LABELS = "yellow star\norange star\nyellow cross\ngreen circles\npurple star\na photo of a dog"
_MOST_BYTES = 250_000
_COLOURS = 256


def main() -> None:
    """Writes `serve_classify.png`, `serve_search.png`, `serve_compare.png`, `serve_phone.png`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True, help="the folder of a demo run")
    parser.add_argument("--earlier", type=Path, help="another model, shown beside it")
    parser.add_argument("--shards", type=Path, required=True, help="the images to search")
    parser.add_argument("--to", type=Path, default=Path("docs/images"), help="the folder")
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        _command("embed", f"model={asked.run}", f"shards={asked.shards}", f"to={index}")
        models = [str(path) for path in (asked.run, asked.earlier) if path is not None]
        with _serving(f"model=[{','.join(models)}]", f"index={index}", "port=0") as url:
            _draw(url, asked.to)


def _draw(url: str, to: Path) -> None:
    with visiting() as visit:
        page = visit.page
        page.set_default_timeout(120_000)
        page.goto(url)
        page.get_by_label("Labels").fill(_LABELS)
        _example(page, 0)
        expect(page.locator("#classified .bars").first).to_contain_text("dog", timeout=120_000)
        _save(visit, to / "serve_classify.png")

        open_tab(page, "Search")
        page.get_by_label("Text", exact=True).fill("red")
        _example(page, 1)
        expect(page.locator("#found figure")).to_have_count(12, timeout=120_000)
        page.get_by_role("button", name="Weights").click()
        _save(visit, to / "serve_search.png")

        open_tab(page, "Compare")
        page.get_by_label("Texts").fill(_LABELS)
        for place in range(4):
            _example(page, place)
        rows = page.locator("#compared .matrix").first.locator("tbody tr")
        expect(rows).to_have_count(4, timeout=120_000)
        _save(visit, to / "serve_compare.png")

        page.set_viewport_size({"width": 420, "height": 900})
        open_tab(page, "Classify")
        _save(visit, to / "serve_phone.png")


def _example(page: Page, place: int) -> None:
    page.locator(".picker-examples:visible button").nth(place).click()


def _save(visit: Visit, path: Path) -> None:
    # The cursor and the focus are no part of the page.
    visit.page.evaluate("document.activeElement?.blur()")
    visit.page.mouse.move(0, 0)
    visit.page.wait_for_timeout(1500)
    visit.screenshot(path)
    image = Image.open(path).convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size > _MOST_BYTES:
        # The octree keeps rare colours, which the median cut gives up.
        palette = image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
        palette.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def _command(name: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"align_train.{name}", *options], check=True)


@contextmanager
def _serving(*options: str) -> Iterator[str]:
    """Serves in a process of its own; gives the address, which its last line begins with."""
    command = [sys.executable, "-u", "-m", "align_train.serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[0] for line in process.stdout if line.startswith("http"))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
