"""Measures a run from within one of its ranks: a callback that is added to Lightning's trainer."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback

from align_train.training.step_end import StepEnd
from benchmarks.plan.holdings import parts_of
from benchmarks.shared.proc import reset_peak, status_bytes

FIELDS = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
SETTLE = 0.3  # seconds, until what has been sent has been counted


def now() -> dict[str, int]:
    """The memory of this process by kind, in bytes."""
    return {field: status_bytes(field) for field in FIELDS}


def loopback() -> dict[str, int]:
    """Bytes and packets that the loopback interface has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            fields = counts.split()
            return {"bytes": int(fields[8]), "packets": int(fields[9])}
    raise ValueError("/proc/net/dev: no interface lo; expected Linux's")


class Meter(Callback):
    """Notes peaks by phase, parts, seconds and bytes of every step.

    Peaks are the most that the process had in memory above the baseline, in bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.figures: dict[str, Any] = {"steps": [], "parts": {}, "loopback": {}}
        self._before: dict[str, int] = {}
        self._modules: set[str] = set()
        self._began = 0.0
        self._step: dict[str, Any] = {}

    def begin(self) -> None:
        """Takes the baseline, just before the model is built."""
        self._modules = set(sys.modules)
        self._before = now()
        self.figures["baseline"] = self._before
        reset_peak()

    def _phase(self, name: str) -> None:
        """Notes the peak of the phase that ends here."""
        peak = status_bytes("VmHWM") - self._before["VmRSS"]
        held = {field: value - self._before[field] for field, value in now().items()}
        # Mapped files and the loader's shared pixels are none of the model's memory.
        others = held["RssFile"] + held["RssShmem"]
        self._step[name] = {"peak": peak, "private_peak": peak - others, "held": held["RssAnon"]}
        reset_peak()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.figures["modules"] = sorted(set(sys.modules) - self._modules)
        self._phase("build")
        self.figures["build"] = self._step["build"]
        self._watch_backward(trainer, module)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._step = {"tokens": batch.input_ids.shape[1], "pairs": len(batch)}
        self._phase("wait")
        self._began = time.perf_counter()

    def _watch_backward(self, trainer: Any, module: Any) -> None:
        """Sets marks around the strategy's backward pass: ZeRO calls no hook of Lightning's."""
        backward = trainer.strategy.backward

        def measured(*args: Any, **kwargs: Any) -> Any:
            self._phase("forward")
            result = backward(*args, **kwargs)
            self._phase("backward")
            if trainer.global_step + 1 == trainer.max_steps:
                self._parts("after backward", trainer, module)
            return result

        trainer.strategy.backward = measured

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._phase("optimizer")
        self._step["seconds"] = time.perf_counter() - self._began
        self.figures["steps"].append(self._step)
        step = trainer.global_step
        if step == 2:
            self._loopback("begin")
        if step == trainer.max_steps:
            self._loopback("end")
            self._parts("after step", trainer, module)
            self._write(trainer)
            # Nothing is measured from here on, and the last checkpoint takes its time.
            self._ours(trainer).checkpoints.save = lambda trainer: None

    def _parts(self, when: str, trainer: Any, module: Any) -> None:
        ours = self._ours(trainer)
        optimizer = trainer.strategy.optimizers[0]
        self.figures["parts"][when] = parts_of(module, optimizer, ours.averaging._average)
        reset_peak()

    def _ours(self, trainer: Any) -> Any:
        (ours,) = [item for item in trainer.callbacks if isinstance(item, StepEnd)]
        return ours

    def _loopback(self, when: str) -> None:
        """Reads the counter while no rank sends."""
        if dist.is_initialized():
            dist.barrier()
        time.sleep(SETTLE)
        self.figures["loopback"][when] = loopback()
        # The rate of an idle run, for comparison: heartbeats and the like.
        time.sleep(SETTLE)
        self.figures["loopback"][f"{when}, idle after"] = loopback()
        if dist.is_initialized():
            dist.barrier()
        time.sleep(SETTLE)
        reset_peak()

    def _write(self, trainer: Any) -> None:
        path = self.folder / f"rank{trainer.global_rank}.json"
        self.figures["threads"] = torch.get_num_threads()
        self.figures["malloc"] = os.environ.get("MALLOC_MMAP_THRESHOLD_")
        path.write_text(json.dumps(self.figures))
