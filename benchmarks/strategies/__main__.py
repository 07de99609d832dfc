"""One recipe of 50 steps under every strategy: the loss curves, how far they lie apart, a plot.

    python -m benchmarks.strategies [--plot docs/images/strategies.png]

The recipe is the demo's data and model with global batch 128 and norm groups of 32, with AdamW and
with LAMB. It is trained by the command, in one process, and in two under DDP, FSDP2 and ZeRO 1, 2,
3. The table gives the last loss and the largest difference of any step's loss from the one of one
process, relative to it; the plot shows the curves and the differences by step.

The differences that remain are float32's rounding, which every step amplifies (in float64 DDP and
FSDP2 agree to 1e-14 after five steps: `python -m tests.support.parity`). The second row shows how
much that is: one process again, which adds in another order because it has one thread.

Pairs/s say how much a strategy costs on two CPU cores and little else. Price: 14 minutes on two
cores.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from benchmarks.shared.children import REPOSITORY, output_of
from benchmarks.shared.command_line import parser_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = REPOSITORY / "outputs" / "benchmarks" / "strategies"

RECIPE = (
    "trainer=cpu",
    "max_steps=50",
    "log_every=1",
    "norm_group=32",
    "chunk_size=32",
    "evaluate_every=0",
    "data.held_out=null",
    f"output_dir={FOLDER}",
)

OPTIMIZERS = {
    "AdamW": (
        "optimizer=adamw",
        "optimizer.lr=3e-4",
        "optimizer.text_lr=3e-4",
        "scheduler.warmup_steps=50",
    ),
    "LAMB": ("optimizer=lamb", "optimizer.lr=1e-3", "scheduler.warmup_steps=50"),
}

# The first one is the reference of all others.
STRATEGIES = {
    "one process": ("trainer.devices=1",),
    "one thread": ("trainer.devices=1",),
    "DDP": ("trainer.devices=2", "strategy=ddp"),
    "FSDP2": ("trainer.devices=2", "strategy=fsdp"),
    "ZeRO-1": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=1"),
    "ZeRO-2": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=2"),
    "ZeRO-3": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=3"),
}

REFERENCE = "one process"
LEAST_DRAWN = 1e-9  # a difference of 0 has no place on a logarithmic axis
COLORS = 64  # of the plot's file, which makes it a third as large

HEADER = (
    f"{'':<8}{'':<14}{'first loss':>11}{'last loss':>11}"
    f"{'differs by':>12}{'at step':>9}{'pairs/s':>9}"
)

Losses = dict[str, list[float]]  # of each step, by strategy


def trained(optimizer: str, strategy: str) -> tuple[list[float], float]:
    """Trains the recipe once.

    Returns:
        The loss of each step, and the median of pairs/s.
    """
    name = f"{optimizer}-{strategy}".replace(" ", "-").lower()
    # A finished run would be resumed, which trains nothing.
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    settings = (*RECIPE, *OPTIMIZERS[optimizer], *STRATEGIES[strategy], f"name={name}")
    threads = {"OMP_NUM_THREADS": "1"} if strategy == "one thread" else {}
    output_of("align_train", *settings, **threads)

    with (FOLDER / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    return losses, median(float(row["pairs_per_second"]) for row in rows)


def differences(losses: list[float], reference: list[float]) -> list[float]:
    """Returns the relative difference at each step."""
    pairs = zip(losses, reference, strict=True)
    return [abs(one - other) / other for one, other in pairs]


def draw(losses: dict[str, Losses], path: Path) -> None:
    """Draws the curves, and below them the differences, a column for each optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(losses), figsize=(9, 5), sharex=True, squeeze=False)
    for column, (optimizer, of_strategies) in enumerate(losses.items()):
        curves, below = axes[:, column]
        draw_column(curves, below, of_strategies)
        curves.set_title(f"loss, {optimizer}", fontsize=10)
        below.set_title("difference from one process, relative", fontsize=10)
        below.set_yscale("log")
        below.set_xlabel("step", fontsize=9)
        for axis in (curves, below):
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
            axis.legend(fontsize=7)

    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)


def draw_column(curves: Axes, below: Axes, losses: Losses) -> None:
    """Draws the losses of one optimizer.

    Args:
        curves: The axes of the losses.
        below: The axes of the differences.
        losses: The losses, the reference first.
    """
    reference = losses[REFERENCE]
    steps = range(1, len(reference) + 1)
    for index, (strategy, values) in enumerate(losses.items()):
        if strategy == REFERENCE:
            # Broad and pale: the others lie on it.
            curves.plot(steps, values, color="#cccccc", linewidth=6, label=strategy)
            continue

        color = f"C{index - 1}"
        dashes = (0, (2, 2 + index))
        curves.plot(steps, values, color=color, linewidth=1.5, linestyle=dashes, label=strategy)
        drawn = [max(value, LEAST_DRAWN) for value in differences(values, reference)]
        below.plot(steps, drawn, color=color, linewidth=1, label=strategy)


def row_of(
    optimizer: str,
    strategy: str,
    losses: Losses,
    rate: float,
) -> str:
    values = losses[strategy]
    differs = differences(values, losses[REFERENCE])
    most = max(differs)
    apart = f"{'0':>12}{'':>9}"
    if most:
        apart = f"{most:>12.1e}{differs.index(most) + 1:>9}"
    return f"{optimizer:<8}{strategy:<14}{values[0]:>11.5f}{values[-1]:>11.5f}{apart}{rate:>9.0f}"


def main() -> None:
    parser = parser_of("strategies", __doc__)
    parser.add_argument("--plot", type=Path, default=FOLDER / "strategies.png")
    plot = parser.parse_args().plot

    losses: dict[str, Losses] = {optimizer: {} for optimizer in OPTIMIZERS}
    rates: dict[tuple[str, str], float] = {}
    with tqdm(total=len(OPTIMIZERS) * len(STRATEGIES), unit="run") as bar:
        for optimizer in OPTIMIZERS:
            for strategy in STRATEGIES:
                bar.set_postfix_str(f"{optimizer}, {strategy}")
                of_steps, rate = trained(optimizer, strategy)
                losses[optimizer][strategy] = of_steps
                rates[optimizer, strategy] = rate
                bar.update()

    print(HEADER)
    for (optimizer, strategy), rate in rates.items():
        print(row_of(optimizer, strategy, losses[optimizer], rate))

    plot.parent.mkdir(parents=True, exist_ok=True)
    draw(losses, plot)
    print(f"curves: {plot}")


if __name__ == "__main__":
    main()
