"""Seconds a step, planned after this machine was measured, beside those of real runs.

    python -m benchmarks.plan.seconds [--measured]

The machine is measured as `align_train.plan measure=true` does it (`--measured`: it was already).
Then the command trains models, with chunks, that were not measured, in one process. The figure is
the median of the steps without their wait for data. Target: within 20 %.

Price: six minutes on two cores, on a machine that does nothing else.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from align_train.commands.plan_hardware import hardware_of_file, measured_file
from align_train.commands.plan_measure import measure_machine
from align_train.run.folder import RunFolder
from benchmarks.plan.data import VOCABULARY, make_shards
from benchmarks.plan.planned import plan_of
from benchmarks.plan.setups import MAX_TOKENS
from benchmarks.shared.children import output_of
from benchmarks.shared.command_line import parser_of

STEPS = 40
WARM_UP = 12  # steps in which the heap and the kernels settle
EVERY = 2  # steps of a row

SMALL_BERT = (
    "model.text_tower.hidden=256",
    "model.text_tower.layers=4",
    "model.text_tower.heads=4",
    "model.text_tower.intermediate=1024",
)

TIMM = "model.image_tower.name"


@dataclass(frozen=True)
class Trained:
    """A training that is timed.

    Attributes:
        title: Of its row.
        model: Settings of the model.
        chunk: Pairs of a chunk.
        chunks: Chunks of a step.
        further: More settings.
    """

    title: str
    model: tuple[str, ...]
    chunk: int
    chunks: int
    further: tuple[str, ...] = ()

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings of the run, but for its data and its folder."""
        return (
            *self.model,
            "trainer=cpu",
            f"model.max_tokens={MAX_TOKENS}",
            f"norm_group={self.chunk}",
            f"chunk_size={self.chunk}",
            f"batch_size={self.chunk * self.chunks}",
            f"max_steps={STEPS}",
            f"log_every={EVERY}",
            "eval=pairs",
            "checkpoint_every=1000",
            *self.further,
        )


RUNS = (
    Trained("tiny, 80 px", ("model=tiny", "model.image_size=80"), 24, 2),
    Trained(
        "tiny, 64 px, recomputed", ("model=tiny", "model.image_size=64"), 16, 4, ("recompute=true",)
    ),
    Trained("b3_mini, 128 px", ("model=b3_mini", "model.image_size=128"), 8, 2),
    Trained(
        "resnet18, 96 px",
        (
            "model=timm_base",
            f"{TIMM}=resnet18",
            "model.image_size=96",
            "model.resize_size=110",
            *SMALL_BERT,
        ),
        12,
        2,
    ),
    Trained(
        "mobilenetv3_small, 128 px",
        (
            "model=timm_base",
            f"{TIMM}=mobilenetv3_small_100",
            "model.image_size=128",
            "model.resize_size=146",
            *SMALL_BERT,
        ),
        32,
        1,
    ),
    Trained(
        "vit_tiny, 160 px",
        (
            "model=timm_base",
            f"{TIMM}=vit_tiny_patch16_224",
            "+model.image_tower.options.dynamic_img_size=true",
            "model.image_size=160",
            "model.resize_size=183",
            *SMALL_BERT,
        ),
        12,
        2,
    ),
)


def main() -> None:
    parser = parser_of("plan.seconds", __doc__)
    parser.add_argument("--measured", action="store_true", help="the machine is measured already")
    file = measured_file(on_gpu=False, bf16=False)
    if not parser.parse_args().measured:
        file = measure_machine(torch.device("cpu"), bf16=False)
    hardware = hardware_of_file(file)

    print(f"{'s a step':<44}{'plan':>8}{'measured':>10}{'ratio':>8}")
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder / "shards")
        for index, run in enumerate(tqdm(RUNS, unit="run")):
            planned = plan_of(run.overrides, hardware).seconds.total
            measured = measured_seconds(run.overrides, folder / "shards", folder / str(index))
            ratios.append(planned / measured)
            title = f"{run.title}, {run.chunks} x {run.chunk}"
            print(f"{title:<44}{planned:>8.3f}{measured:>10.3f}{ratios[-1]:>8.2f}", flush=True)
    print(f"plan/measured {min(ratios):.2f} to {max(ratios):.2f}")


def measured_seconds(words: tuple[str, ...], shards: Path, folder: Path) -> float:
    """The median seconds of a step of the real run, without the wait for data.

    Args:
        words: Its settings.
        shards: The folder of its data.
        folder: Where it writes.
    """
    output_of(
        "align_train",
        *words,
        "name=run",
        f"output_dir={folder}",
        "data=webdataset",
        "data.caption=txt",
        f"data.shards={shards}",
        f"data.tokenizer={shards / VOCABULARY}",
    )
    seconds: list[float] = []
    for row in RunFolder(folder / "run").read_metrics()[WARM_UP // EVERY :]:
        seconds.append(float(row["step_seconds"]) * (1 - float(row["data_wait_fraction"])))
    return median(seconds)


if __name__ == "__main__":
    main()
