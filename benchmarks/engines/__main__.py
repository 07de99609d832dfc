"""One recipe of 50 steps under every engine: the loss curves, how far they lie apart, and a picture of it.

    python -m benchmarks.engines [--picture docs/engines.png]

The demo's data and model, global batch 128 in 4 chunks of 32, with AdamW and with LAMB: by the command, in one process and in
two under DDP, FSDP2 and ZeRO 1, 2, 3. The table gives the last loss and the largest difference of any step's loss from the
one of one process, in parts of it; the picture the curves and the differences by step. What is left is float32's rounding,
which every step amplifies (in float64 DDP and FSDP2 agree to 1e-14 after five steps: `python -m tests.support.parity`). How much that
is shows the second row: one process again, which adds in another order because it has one thread.

Pairs/s tell what an engine costs on two CPU cores and little else. Price: 14 minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from statistics import median

from PIL import Image
from tqdm import tqdm

from benchmarks.shared.children import TOP, printed

FOLDER = TOP / "outputs" / "benchmarks" / "engines"


RECIPE = (
    "max_steps=50",
    "log_every=1",
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


ENGINES = {
    "one process": ("trainer.devices=1",),
    "one thread": ("trainer.devices=1",),
    "DDP": ("trainer.devices=2", "strategy=ddp"),
    "FSDP2": ("trainer.devices=2", "strategy=fsdp"),
    "ZeRO-1": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=1"),
    "ZeRO-2": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=2"),
    "ZeRO-3": ("trainer.devices=2", "strategy=deepspeed", "strategy.stage=3"),
}


Losses = dict[str, dict[str, list[float]]]  # by optimizer and engine


def trained(optimizer: str, engine: str) -> tuple[list[float], float]:
    """The loss of each step, and pairs/s."""
    name = f"{optimizer}-{engine}".replace(" ", "-").lower()
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    settings = (*RECIPE, *OPTIMIZERS[optimizer], *ENGINES[engine], f"name={name}")
    threads = {"OMP_NUM_THREADS": "1"} if engine == "one thread" else {}
    printed("align_train", *settings, **threads)
    with (FOLDER / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["loss"]) for row in rows], median(
        float(row["pairs_per_second"]) for row in rows
    )


def differences(losses: list[float], reference: list[float]) -> list[float]:
    return [abs(one - other) / other for one, other in zip(losses, reference, strict=True)]


def draw(losses: Losses, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(losses), figsize=(9, 5), sharex=True, squeeze=False)
    for column, (optimizer, found) in enumerate(losses.items()):
        reference = found["one process"]
        steps = range(1, len(reference) + 1)
        for number, (engine, values) in enumerate(found.items()):
            first = number == 0
            width, style = (6, "-") if first else (1.5, (0, (2, 2 + number)))
            color = "#cccccc" if first else f"C{number - 1}"
            axes[0, column].plot(
                steps, values, color=color, linewidth=width, linestyle=style, label=engine
            )
            if not first:
                noise = [max(difference, 1e-9) for difference in differences(values, reference)]
                axes[1, column].plot(steps, noise, color=color, linewidth=1, label=engine)
        axes[0, column].set_title(f"loss, {optimizer}", fontsize=10)
        axes[1, column].set_title("difference from one process, relative", fontsize=10)
        axes[1, column].set_yscale("log")
        axes[1, column].set_xlabel("step", fontsize=9)
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--picture", type=Path, default=FOLDER / "engines.png")
    picture = parser.parse_args().picture
    losses: Losses = {optimizer: {} for optimizer in OPTIMIZERS}
    rates: dict[tuple[str, str], float] = {}
    with tqdm(total=len(OPTIMIZERS) * len(ENGINES), unit="run") as bar:
        for optimizer in OPTIMIZERS:
            for engine in ENGINES:
                bar.set_postfix_str(f"{optimizer}, {engine}")
                losses[optimizer][engine], rates[optimizer, engine] = trained(optimizer, engine)
                bar.update()
    print(
        f"{'':<8}{'':<14}{'first loss':>11}{'last loss':>11}{'differs by':>12}{'at step':>9}{'pairs/s':>9}"
    )
    for optimizer, found in losses.items():
        for engine, values in found.items():
            far = differences(values, found["one process"])
            apart = (
                f"{max(far):>12.1e}{far.index(max(far)) + 1:>9}"
                if max(far)
                else f"{'0':>12}{'':>9}"
            )
            print(
                f"{optimizer:<8}{engine:<14}{values[0]:>11.5f}{values[-1]:>11.5f}{apart}{rates[optimizer, engine]:>9.0f}"
            )
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(losses, picture)
    print(f"curves: {picture}")


if __name__ == "__main__":
    main()
