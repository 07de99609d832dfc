"""The drawings of `docs/concepts.md` and the README: a pair's path, a batch, lanes, tiles, resume.

    python -m benchmarks.drawings [--to docs/images]

The order that they show is the real one, of a small manifest. Price: two seconds.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.drawings.batch import draw_batch, draw_tiles
from benchmarks.drawings.order import draw_lanes, draw_resume
from benchmarks.drawings.path import draw_path
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of

DRAWINGS = {
    "path_of_a_pair": draw_path,
    "batch": draw_batch,
    "tiles": draw_tiles,
    "lanes": draw_lanes,
    "resume": draw_resume,
}


def main() -> None:
    """Draws all of them."""
    parser = parser_of("drawings", __doc__)
    parser.add_argument("--to", type=Path, default=REPOSITORY / "docs" / "images")
    folder = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)

    for name, draw in DRAWINGS.items():
        path = folder / f"{name}.svg"
        draw(path)
        print(path)


if __name__ == "__main__":
    main()
