"""The demo on the device: `python -m align_train`, as everyone starts it, with its accuracy."""

from __future__ import annotations

import json

from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.training import TINY, Run

TITLE = "the demo"
COLUMNS: Columns = {
    "top1": ("zero-shot top 1", ".3f"),
    "recall": ("image to text recall@1", ".3f"),
    "loss": ("last loss", ".3f"),
    "pairs_per_second": ("pairs/s", ",.0f"),
    "seconds": ("s, the command", ".0f"),
}
AT_ONCE = 1
LIMIT = 180.0

SMALL = (
    *TINY,
    "max_steps=4",
    "log_every=1",
    "evaluate_every=0",
    "eval.composed_colour=null",
    "eval.composed_shape=null",
)

ROWS = {"float32": "precision=fp32", "bf16": "precision=bf16"}


def rows(options: Options) -> list[str]:
    return ["float32"] if options.tiny else list(ROWS)


def measure(row: str, options: Options) -> Figures:
    run = run_of(row, options)
    run.clear()
    seconds = run.train()

    results = json.loads((run.folder / "results.json").read_text())
    return {
        "top1": results["zero_shot/top1"],
        "recall": results["retrieval/image_to_text/recall@1"],
        "seconds": seconds,
        **run.figures("loss", "pairs_per_second"),
    }


def run_of(row: str, options: Options) -> Run:
    """The run of a row."""
    return Run(
        folder=options.folder / "runs" / f"demo-{row}",
        settings=(
            *(SMALL if options.tiny else ()),
            f"data.make.folder={options.folder / 'whole_demo'}",
            ROWS[row],
        ),
        device=options.device,
        log=options.log,
    )
