"""Whole steps of a real run on drawn pixels: what a loader that never keeps it waiting would give.

The run is that of the command, from its settings to the end of a step: Lightning's trainer, chunks,
loss, optimizer, agreement. Only its loader is replaced, by one batch that lies in host memory, as
the loader's batches do. After some steps the clock runs; one more step is traced.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import patch

import lightning
import numpy as np
import torch

from align_train.__main__ import run
from align_train.config.compose import compose_training
from align_train.stream.batch import Batch
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.token_ids import PAD
from align_train.training.module import TrainingModule
from align_train.training.step_end import StepEnd
from benchmarks.gpu.clock import GIGA, wait_for
from benchmarks.gpu.parts import Figures, Options
from benchmarks.gpu.setup import MANY_STEPS, Setup, settings_of
from benchmarks.gpu.trace import Trace, Tracer
from benchmarks.shared.proc import reset_peak, status_bytes

SHORTEST = 16  # tokens of a text
LONG_ONES = 8  # one text of so many is as long as any: then all chunks have one length

WARM = 2  # steps: compilers, plans of kernels and the optimizer's state come with the first ones
LEAST_STEPS = 3  # on the clock
SECONDS = 4.0  # on the clock, at least


class Enough(Exception):
    """Ends a run whose steps are measured."""


class Drawn:
    """A loader that gives one batch over and over."""

    bad_pairs: tuple[object, ...] = ()
    gone: tuple[int, ...] = ()

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return MANY_STEPS

    def __iter__(self) -> Iterator[Batch]:
        for step in count():
            yield replace(self.batch, finished_steps=step)

    def prepare(self) -> None:
        """Nothing to wait for."""


class Watch:
    """Stands at each step's end: runs the clock, traces one step, ends the run."""

    def __init__(self, setup: Setup, options: Options) -> None:
        """Waits for the first steps.

        Args:
            setup: What is measured.
            options: On which device.
        """
        self.setup = setup
        self.options = options
        self.figures: Figures = {}
        self.trace = Trace()
        self._steps = 0
        self._started = 0.0
        self._first_began = time.perf_counter()
        self._tracer: Tracer | None = None

    def after_step(
        self, step_end: StepEnd, trainer: lightning.Trainer, module: TrainingModule
    ) -> None:
        """Looks at the clock.

        Args:
            step_end: Measures the run's own figures.
            trainer: Lightning's trainer.
            module: The module after the step.

        Raises:
            Enough: All is measured.
        """
        device = self.options.device
        if self._tracer is not None:
            self.trace = self._tracer.stop()
            raise Enough

        self._steps += 1
        counted = self._steps - WARM
        if counted == 0:
            wait_for(device)
            # What finding the chunk took is not a step's.
            _reset_peak(device)
            step_end.throughput.read(self._steps, trainer.strategy.root_device)
            self.figures["warm_seconds"] = time.perf_counter() - self._first_began
            self._started = time.perf_counter()
            return

        # Each step has waited for the device once, so the host is at most a step ahead.
        elapsed = time.perf_counter() - self._started
        least = 0.0 if self.options.tiny else SECONDS
        if counted < LEAST_STEPS or elapsed < least:
            return
        wait_for(device)
        self._take(step_end, trainer, module, counted)
        # A compiled block would not be called under the CPU's counter.
        if not self.options.on_gpu and self.setup.compiled:
            raise Enough
        self._tracer = Tracer(device)
        self._tracer.start()

    def _take(
        self,
        step_end: StepEnd,
        trainer: lightning.Trainer,
        module: TrainingModule,
        steps: int,
    ) -> None:
        seconds = (time.perf_counter() - self._started) / steps
        own = step_end.throughput.read(self._steps, trainer.strategy.root_device)
        self.figures |= {
            "pairs": self.setup.pairs,
            "chunk": module.chunking.chunk_size,
            "recompute": module.chunking.recompute,
            "pairs_per_second": self.setup.pairs / seconds,
            "step_seconds": seconds,
            "memory_gb": peak_gb(self.options.device),
            "mfu": own.get("mfu"),
            "tflop_per_pair": own["tflops_per_device"] * own["step_seconds"] / self.setup.pairs,
        }


def measured(setup: Setup, options: Options) -> tuple[Figures, Trace]:
    """Trains some steps, and ends the run.

    Args:
        setup: What is measured.
        options: On which device.

    Returns:
        Figures, and the trace of one more step.
    """
    settings = compose_training(*settings_of(setup, options))
    batch = batch_of(setup.pairs, settings.model["image_size"], setup.tokens)
    if options.on_gpu:
        batch = replace(batch, images=batch.images.pin_memory())
    watch = Watch(setup, options)
    end_step = StepEnd.on_train_batch_end

    def end_and_watch(step_end: StepEnd, trainer: Any, module: Any, *rest: Any) -> None:
        end_step(step_end, trainer, module, *rest)
        watch.after_step(step_end, trainer, module)

    with (
        patch.object(PairsDataModule, "train_dataloader", lambda _: Drawn(batch)),
        patch.object(StepEnd, "on_train_batch_end", end_and_watch),
        suppress(Enough),
    ):
        run(settings)
    # Only now: the exception keeps the frames of the run, and its tensors.
    free(options.device)
    return watch.figures | watch.trace.figures(watch.figures["step_seconds"]), watch.trace


def batch_of(pairs: int, side: int, tokens: int) -> Batch:
    """Draws a device batch: pixels, and texts of 16 tokens and more with padding.

    Args:
        pairs: How many.
        side: Pixels of an image's side.
        tokens: Of the longest texts.
    """
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (pairs, side, side, 3), dtype=np.uint8)
    lengths = random.integers(min(SHORTEST, tokens), tokens + 1, pairs)
    lengths[::LONG_ONES] = tokens

    ids = random.integers(1, 250, (pairs, tokens), dtype=np.int32)
    ids[np.arange(tokens)[None] >= lengths[:, None]] = PAD
    return Batch(
        finished_steps=0,
        first=0,
        images=torch.from_numpy(pixels),
        input_ids=torch.from_numpy(ids),
        lengths=lengths.astype(np.int64),
        keys=[""] * pairs,
        captions=[""] * pairs,
    )


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()


def peak_gb(device: str) -> float:
    """The peak of memory since it was reset: on the GPU, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / GIGA
    return status_bytes("VmHWM") / GIGA


def free(device: str) -> None:
    """Gives back what an earlier row has left in this process."""
    gc.collect()
    # Versions of compiled code count for all models of a process.
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
