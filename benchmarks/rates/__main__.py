"""Choices of the model, short-trained at a third, one and three times of their learning rates.

    python -m benchmarks.rates [--run outputs/demo] [--data demo_data] [--to outputs/rates]
                               [--only tiny vit] [--factors 0.333 1 3]

Each choice that fits on a core runs shrunk (`cases.py`): small images, small text towers, some
hundred steps of 64 pairs of the demo. The factors multiply both towers' rates; the temperature, and
linear layers that have a rate of their own, keep it. `huggingface` and `by_name` begin with weights
that the demo's pictures gave, and learn its pictures at night (`benchmarks.wise_ft`). The table has
the held-out loss and the mean of both directions' recall@10 of 2,048 pairs (1,024 at night).

A neighbour is clearly better if its recall is higher by more than two standard errors, and by more
than a tenth of it. Target: no choice has one. Finished runs are left as they are.

Price: 15 runs of one to four minutes, on one core some 40 minutes in all.
"""

from __future__ import annotations

import math
from pathlib import Path

from align_train.config.compose import compose_training
from align_train.run.folder import RunFolder
from benchmarks.rates.cases import Case, cases, make_towers
from benchmarks.shared.children import output_of
from benchmarks.shared.command_line import parser_of
from benchmarks.wise_ft.__main__ import make_data

LOSS = "held_out/loss"
RECALLS = ("retrieval/image_to_text/recall@10", "retrieval/text_to_image/recall@10")

_COMMON = (
    "trainer=cpu",
    "data.workers=0",  # in the process itself: one core
    "eval=pairs",
    "evaluate_every=0",
    "batch_size=64",
    "norm_group=64",
    "scheduler.warmup_steps=20",
)

Row = tuple[float, float, float, float, int]
"""Factor, image rate, held-out loss, recall@10, held-out pairs."""


def words_of(case: Case, data: Path, night: Path) -> list[str]:
    """The overrides of a case, without its rates."""
    words = [f"model={case.choice}", f"max_steps={case.steps}", *_COMMON, *case.words]
    if not case.at_night:
        return [*words, "data=demo", f"data.make.folder={data}"]
    shards = (f"data.shards={night / 'train'}", f"data.held_out={night / 'new'}")
    return [*words, "data=webdataset", *shards, f"data.tokenizer={data / 'tokenizer'}"]


def train(case: Case, factor: float, words: list[str], to: Path) -> Row:
    """Trains a case at a multiple of its rates, unless that is done; returns its row."""
    rates = compose_training(*words).rates
    name = f"{case.name}-{factor:g}"
    if RunFolder(to / name).read_results() is None:
        image, text = f"rates.image={rates.image * factor:g}", f"rates.text={rates.text * factor:g}"
        output_of("align_train", *words, image, text, f"output_dir={to}", f"name={name}")

    results = RunFolder(to / name).read_results()
    assert results is not None, name
    recall = sum(float(results[key]) for key in RECALLS) / len(RECALLS)
    pairs = int(results["held_out/pairs"])
    return factor, rates.image * factor, float(results[LOSS]), recall, pairs


def clearly_better(row: Row, than: Row) -> bool:
    """Whether a row's recall is higher by more than chance, and by more than a tenth."""
    *_, recall, pairs = row
    *_, other, _ = than
    error = math.sqrt((recall * (1 - recall) + other * (1 - other)) / pairs)
    return recall > max(other + 2 * error, 1.1 * other)


def main() -> None:
    parser = parser_of("rates", __doc__)
    parser.add_argument("--run", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--data", type=Path, default=Path("demo_data"))
    parser.add_argument("--to", type=Path, default=Path("outputs/rates"))
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 1 / 3, 3])
    options = parser.parse_args()
    run, data, to = (path.absolute() for path in (options.run, options.data, options.to))

    make_data(data, to / "night")
    print(f"{'choice':>12}{'times':>8}{'image rate':>12}{'loss':>8}{'recall@10':>11}", flush=True)
    for case in cases(run, to / "towers"):
        if options.only is not None and case.name not in options.only:
            continue
        if case.choice == "by_name":
            make_towers(run, to / "resnet10t-1", to / "towers")

        words = words_of(case, data, to / "night")
        rows = [train(case, factor, words, to) for factor in options.factors]
        own = rows[options.factors.index(1)]
        for row in rows:
            factor, rate, loss, recall, _ = row
            mark = "  clearly better" if clearly_better(row, own) else ""
            cells = f"{case.name:>12}{factor:>8.3g}{rate:>12.2g}{loss:>8.3f}{recall:>11.3f}"
            print(f"{cells}{mark}", flush=True)


if __name__ == "__main__":
    main()
