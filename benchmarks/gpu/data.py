"""End to end from JPEG shards: trainings by the command whose images are read, decoded and cropped.

The shards hold photos if this machine has some, else synthetic JPEGs, with the longer side of 384
pixels; models see crops of their own size. All cores but one decode. The last row of metrics.csv
says how much of the time the steps waited for data.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.training import TINY_BATCH, TINY_MODEL, Run, workers_of

TITLE = "from JPEG shards to steps"
COLUMNS: Columns = {
    "images": ("images", "s"),
    "workers": ("workers", "d"),
    "pairs_per_second": ("pairs/s", ",.0f"),
    "data_wait_fraction": ("waits for data", ".1%"),
    "mfu": ("MFU", ".1%"),
    "memory_gb": ("GB at the peak", ".1f"),
    "seconds": ("s, the command", ".0f"),
    "aim": ("aim", "s"),
}
AT_ONCE = 1
LIMIT = 180.0

SIDE = 384  # pixels, the longer side of a stored image
MOST_WAITED = 0.02
VOCABULARY = "vocabulary"  # as `benchmarks.shared.small_shards` calls it, which imports much

SETTINGS = {
    "b7_base": ("model=b7_base", "batch_size=512", "norm_group=64", "max_steps=16", "log_every=4"),
    # As fast as a model of this size can be, at the same crop: here the data is the limit.
    "small tower": (
        "model=tiny",
        "model.image_size=289",
        "model.resize_size=346",
        "batch_size=512",
        "norm_group=64",
        "max_steps=40",
        "log_every=10",
    ),
}
TINY_SETTINGS = (*TINY_MODEL, *TINY_BATCH, "max_steps=3", "log_every=1")


def rows(options: Options) -> list[str]:
    return ["small tower"] if options.tiny else list(SETTINGS)


def measure(row: str, options: Options) -> Figures:
    from benchmarks.shared.small_shards import make

    kind = make(
        shards_of(options),
        shards=2 if options.tiny else 32,
        pairs=32 if options.tiny else 256,
        side=64 if options.tiny else SIDE,
    )
    run = run_of(row, options)
    run.clear()
    seconds = run.train()

    found = run.figures("pairs_per_second", "data_wait_fraction", "mfu", "memory_gb")
    if options.on_gpu:
        met = "ok" if found["data_wait_fraction"] < MOST_WAITED else "MISSED"
        found["aim"] = f"waits < {MOST_WAITED:.0%}: {met}"
    return found | {"images": kind, "workers": workers_of(options), "seconds": seconds}


def shards_of(options: Options) -> Path:
    """The folder of the shards, with a vocabulary beside them."""
    return options.folder / "jpeg_shards"


def run_of(row: str, options: Options) -> Run:
    """The run of a row."""
    shards = shards_of(options)
    return Run(
        folder=options.folder / "runs" / f"data-{row.replace(' ', '-')}",
        settings=(
            "data=webdataset",
            f"data.shards={shards}",
            f"data.tokenizer={shards / VOCABULARY}",
            f"data.workers={workers_of(options)}",
            *(TINY_SETTINGS if options.tiny else SETTINGS[row]),
            "precision=bf16",
            "evaluate_every=0",
            "eval=pairs",
        ),
        device=options.device,
        log=options.log,
    )
