"""Fine-tunes the demo on pictures taken at night, and draws the curve of mixes (WiSE-FT).

    python -m benchmarks.wise_ft [--run outputs/demo] [--data demo_data] [--to outputs/wise_ft]

The new pictures are the demo's own in a quarter of the light, bluish and with a camera's noise; the
texts stay. A model that begins with the run's weights is fine-tuned on them for 150 steps. Then
`align-train average` evaluates eleven mixes of the two models on old and new held-out pictures by
zero-shot top 1 of the demo's 64 classes. Target: a mix that is better on the new pictures than the
old model, and better on the old ones than the fine-tuned model; the best mean of both lies between
the ends. Measured: the first holds and the second does not, see docs/checkpoints.md: nearly all of
this fine-tuning is in BatchNorm's statistics.

Price: on two cores some three minutes.
"""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.shared.children import output_of
from benchmarks.shared.command_line import parser_of

OLD, NEW = "old/zero_shot/top1", "new/zero_shot/top1"

_LIGHT = 0.25
_TINT = np.array([0.7, 0.85, 1.3])  # red, green, blue
_NOISE = 12.0  # standard deviation, of 255
_HELD_OUT = 1024  # pairs

Pair = dict[str, bytes]


def night(pixels: NDArray[np.uint8], numbers: np.random.Generator) -> NDArray[np.uint8]:
    """Takes a picture by night.

    Args:
        pixels: uint8 `[height, width, 3]`.
        numbers: The noise.
    """
    dark = pixels * (_LIGHT * _TINT) + numbers.normal(0, _NOISE, pixels.shape)
    return dark.clip(0, 255).astype(np.uint8)


def pairs_of(shard: Path) -> Iterator[tuple[str, Pair]]:
    """Reads the pairs of a shard of the demo: key, and content by extension."""
    pair: Pair = {}
    last = ""
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if key != last and pair:
                yield last, pair
                pair = {}
            last = key
            file = tar.extractfile(member)
            assert file is not None
            pair[extension] = file.read()
    if pair:
        yield last, pair


def write_shard(shard: Path, to: Path, *, at_night: bool, most: int | None = None) -> None:
    """Copies the first pairs of a shard; by night, or as they are."""
    numbers = np.random.default_rng(int(shard.stem))
    with tarfile.open(to, "w") as tar:
        for count, (key, pair) in enumerate(pairs_of(shard)):
            if count == most:
                break
            if at_night:
                pixels = np.asarray(Image.open(io.BytesIO(pair["png"])).convert("RGB"))
                image = io.BytesIO()
                Image.fromarray(night(pixels, numbers)).save(image, "png")
                pair["png"] = image.getvalue()
            for extension, content in pair.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def make_data(demo: Path, to: Path) -> None:
    """Makes `train` (new), `old` and `new` (held out), unless they are there."""
    if to.exists():
        return
    aside = to.with_name(f".{to.name}")
    shutil.rmtree(aside, ignore_errors=True)
    for name in ("train", "old", "new"):
        (aside / name).mkdir(parents=True)

    for shard in sorted((demo / "train").glob("*.tar"))[:4]:
        write_shard(shard, aside / "train" / shard.name, at_night=True)
    (held_out,) = sorted((demo / "held_out").glob("*.tar"))[:1]
    for name in ("old", "new"):
        place = aside / name / held_out.name
        write_shard(held_out, place, at_night=name == "new", most=_HELD_OUT)
    aside.rename(to)


def fine_tune(run: Path, demo: Path, data: Path, to: Path, *, steps: int, rate: float) -> None:
    """Fine-tunes a copy of the run on the new pictures, unless that is done."""
    output_of(
        "align_train",
        "data=webdataset",
        f"data.shards={data / 'train'}",
        f"data.tokenizer={demo / 'tokenizer'}",
        f"initial_weights={run}",
        f"output_dir={to}",
        "name=tuned",
        "trainer=cpu",
        "eval=pairs",
        f"max_steps={steps}",
        f"optimizer.lr={rate}",
    )


def rows_of(table: Path) -> list[tuple[float, float, float]]:
    """Mix, old and new top 1, of each row."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(float(row["mix"]), float(row[OLD]), float(row[NEW])) for row in rows]


def main() -> None:
    parser = parser_of("wise_ft", __doc__)
    parser.add_argument("--run", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--data", type=Path, default=Path("demo_data"))
    parser.add_argument("--to", type=Path, default=Path("outputs/wise_ft"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    run, demo, to = (path.absolute() for path in (options.run, options.data, options.to))

    to.mkdir(parents=True, exist_ok=True)
    make_data(demo, to / "data")
    fine_tune(run, demo, to / "data", to, steps=options.steps, rate=options.rate)

    mixes = to / "mixes"
    if not mixes.exists():
        zero_shot = (
            f"{{_target_:align_train.evals.ZeroShot,classes:{demo / 'classes.json'},"
            f"templates:['{{}}','a photo of a {{}}'],label:class,candidates:all,data:null}}"
        )
        output_of(
            "align_train.average",
            f"models=[{run},{to / 'tuned'}]",
            "mix=[0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1]",
            f"shards={{old:{to / 'data' / 'old'},new:{to / 'data' / 'new'}}}",
            f"eval={{zero_shot:{zero_shot}}}",
            f"keep={NEW}",
            f"to={mixes}",
        )

    print(f"{'mix':>5}{'old':>9}{'new':>9}{'mean':>9}")
    rows = rows_of(mixes / "mixes.csv")
    for mix, old, new in rows:
        print(f"{mix:>5.1f}{old:>9.4f}{new:>9.4f}{(old + new) / 2:>9.4f}")
    best, *_ = max(rows, key=lambda row: row[1] + row[2])
    print(f"the best mean of both is at mix {best:g}; {mixes / 'mixes.png'}")


if __name__ == "__main__":
    main()
