"""What a run of `step.py` is measured with, and its command line; without torch."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.gpu.parts import Options
from benchmarks.gpu.training import UNEVALUATED, trainer_of

VOCABULARY = 30_522  # BERT's
MANY_STEPS = 10**6


@dataclass(frozen=True)
class Setup:
    """What a run is measured with.

    Attributes:
        settings: The command line, with the model.
        pairs: Of the device batch.
        tokens: Of the longest texts.
        compiled: `compile`.
        chunk: `chunk_size`.
        recompute: `recompute`.
    """

    settings: tuple[str, ...]
    pairs: int
    tokens: int = 64
    compiled: bool = False
    chunk: int | str = "auto"
    recompute: bool | str = "auto"


def settings_of(setup: Setup, options: Options) -> tuple[str, ...]:
    """The command line of a run that is measured."""
    name = f"step-{time.time_ns()}"  # a run of its own each time
    return (
        *trainer_of(options.device),
        f"model.vocabulary_size={VOCABULARY}",
        # Its tokenizer and order are used; its images are not.
        "data.make.pairs=2048",
        "data.make.held_out=64",
        f"data.make.folder={options.folder / 'step_data'}",
        *UNEVALUATED,
        f"output_dir={options.folder / 'steps'}",
        f"name={name}",
        f"max_steps={MANY_STEPS}",
        f"log_every={MANY_STEPS}",
        f"checkpoint_every={MANY_STEPS}",
        "precision=bf16",
        f"batch_size={setup.pairs}",
        f"compile={str(setup.compiled).lower()}",
        f"chunk_size={setup.chunk}",
        f"recompute={str(setup.recompute).lower()}",
        *setup.settings,
    )
