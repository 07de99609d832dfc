"""How fast a run is and what holds it up: for each device, against the hardware's peak, and rank against rank.

*FLOPs* are those of the model: counted once, on the meta device, for one pair and for a text of each length that occurs; three
times that for a step (a backward pass costs two forward passes), once for a tower that is locked. What is computed twice to
save memory (`recompute`, `checkpoint_blocks`) does not count, and so model FLOPs utilisation (MFU) falls with it, as in the
PaLM paper (Chowdhery et al. 2022, appendix B), which defined it.

*Stragglers*: every step ends when the slowest rank is done, so all ranks' steps take the same time. What differs is the time
until a rank first waits for others: for its data and in its towers' forward passes.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import lightning
import torch
from lightning import Callback

from align_train.cluster.collectives import all_reduce_, gather, world_size
from align_train.stream.batch import Batch
from align_train.training.flops import PEAKS, ModelFlops
from align_train.training.module import TrainingModule


class Throughput(Callback):
    """Measures between one `read` and the next. Stands before what is not to be measured (evaluation, checkpoints), which only
    the time left includes. peak_tflops: of one device; None: by its name, where that is known."""

    def __init__(
        self, *, batch_size: int, max_steps: int, bf16: bool, peak_tflops: float | None = None
    ) -> None:
        self.batch_size, self.max_steps, self.bf16 = batch_size, max_steps, bf16
        self.peak_tflops = peak_tflops
        self._model_flops: ModelFlops | None = None
        self._forward = _Stopwatch()
        self._began = self._read_at = self._busy = self._waited = self._flops = 0.0
        self._steps = 0

    def setup(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        """Before the engine takes the model."""
        assert isinstance(module, TrainingModule)
        self._model_flops = ModelFlops(module.model)
        device = trainer.strategy.root_device
        self._forward = _Stopwatch(on_gpu=device.type == "cuda")
        if self.peak_tflops is None and device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            peaks = next((peaks for known, peaks in PEAKS.items() if known in name), None)
            self.peak_tflops = peaks[0 if self.bf16 else 1] if peaks else None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        module.model.register_forward_pre_hook(self._forward.begin)
        module.model.register_forward_hook(self._forward.end)
        self._read_at = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        self._busy += time.perf_counter() - self._began + batch.wait
        self._waited += batch.wait
        self._steps += 1
        assert self._model_flops is not None
        self._flops += sum(
            self._model_flops.of_step(len(chunk.keys), chunk.input_ids.shape[1])
            for chunk in batch.chunks
        )

    def read(self, step: int, device: torch.device) -> dict[str, float]:
        """Of the steps since it was last read; on all ranks."""
        steps, world = max(self._steps, 1), world_size()
        own = (
            torch.tensor(
                [self._waited + self._forward.read(), self._waited],
                dtype=torch.float64,
                device=device,
            )
            / steps
        )
        work, waits = gather(own[None]).T.cpu()
        memory = (
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident()
        )
        most = float(all_reduce_(torch.tensor(memory / 1e9, device=device), "max"))
        seconds = self._busy / steps
        assert self._model_flops is not None
        loss = self._model_flops.of_loss(self.batch_size) / world
        now = time.perf_counter()
        seconds_with_all, self._read_at = (now - self._read_at) / steps, now
        tflops = (self._flops / steps + loss) / seconds / 1e12
        values = {
            "pairs_per_second": self.batch_size / seconds,
            "pairs_per_second_per_device": self.batch_size / seconds / world,
            "step_seconds": seconds,
            "data_wait_fraction": self._waited / self._busy,
            "tflops_per_device": tflops,
            **({"mfu": tflops / self.peak_tflops} if self.peak_tflops else {}),
            "memory_gb": most,
            "eta_seconds": (self.max_steps - step) * seconds_with_all,
        }
        if world > 1:
            values |= {
                "rank_spread": float(work.max() / work.median().clamp(min=1e-9)),
                "slowest_rank": int(work.argmax()),
                "most_waiting_rank": int(waits.argmax()),
            }
        self._busy = self._waited = self._flops = 0.0
        self._steps = 0
        return values


class _Stopwatch:
    """Seconds between `begin` and `end`, hooks of a module's forward pass; on a GPU those of its stream."""

    def __init__(self, *, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self._seconds = self._began = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self, *_: Any) -> None:
        if self.on_gpu:
            event: Any = torch.cuda.Event
            self._events.append((event(enable_timing=True), event(enable_timing=True)))
            self._events[-1][0].record()
        self._began = time.perf_counter()

    def end(self, *_: Any) -> None:
        if self.on_gpu:
            self._events[-1][1].record()
        self._seconds += time.perf_counter() - self._began

    def read(self) -> float:
        """Of all passes since it was last read."""
        seconds, self._seconds = self._seconds, 0.0
        if self.on_gpu:
            torch.cuda.synchronize()
            seconds = sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
            self._events = []
        return seconds


def _peak_resident() -> float:
    """Bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
