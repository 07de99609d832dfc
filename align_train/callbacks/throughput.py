"""How fast a run is and what holds it up: for each device, against the hardware's peak, and rank against rank.

*FLOPs* are those of the model: counted once, on the meta device, for one pair and for a text of each length that occurs; three
times that for a step (a backward pass costs two forward passes), once for a tower that is locked. What is computed twice to
save memory (`recompute`, `checkpoint_blocks`) does not count, and so model FLOPs utilisation (MFU) falls with it, as in the
PaLM paper (Chowdhery et al. 2022, appendix B), which defined it.

*Stragglers*: every step ends when the slowest rank is done, so all ranks' steps take the same time. What differs is the time
until a rank first waits for others: for its data and in its towers' forward passes.
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from align_train.batch import Batch
from align_train.distributed import all_reduce_, gather, world_size
from align_train.model import Classifier, DualEncoder
from align_train.module import TrainingModule

# Dense peaks in TFLOP/s, bf16 on tensor cores and float32, by NVIDIA's data sheets; the first name that fits counts.
_PEAKS = {
    "B200": (2250.0, 80.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "RTX 4090": (165.0, 82.6),
    "RTX 3090": (71.0, 35.6),
}


class Throughput(Callback):
    """Measures between one `read` and the next. Stands before what is not to be measured (evaluation, checkpoints), which only
    the time left includes. peak_tflops: of one device; None: by its name, where that is known."""

    def __init__(self, *, batch_size: int, max_steps: int, bf16: bool, peak_tflops: float | None = None) -> None:
        self.batch_size, self.max_steps, self.bf16 = batch_size, max_steps, bf16
        self.peak_tflops = peak_tflops
        self._model_flops: ModelFlops | None = None
        self._forward = _Stopwatch()
        self._began = self._read_at = self._busy = self._waited = self._flops = 0.0
        self._steps = 0

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Before the engine takes the model."""
        assert isinstance(module, TrainingModule)
        self._model_flops = ModelFlops(module.model)
        device = trainer.strategy.root_device
        self._forward = _Stopwatch(on_gpu=device.type == "cuda")
        if self.peak_tflops is None and device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            peaks = next((peaks for known, peaks in _PEAKS.items() if known in name), None)
            self.peak_tflops = peaks[0 if self.bf16 else 1] if peaks else None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        module.model.register_forward_pre_hook(self._forward.begin)
        module.model.register_forward_hook(self._forward.end)
        self._read_at = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._busy += time.perf_counter() - self._began + batch.wait
        self._waited += batch.wait
        self._steps += 1
        assert self._model_flops is not None
        self._flops += sum(self._model_flops.of_step(len(chunk.keys), chunk.input_ids.shape[1]) for chunk in batch.chunks)

    def read(self, step: int, device: torch.device) -> dict[str, float]:
        """Of the steps since it was last read; on all ranks."""
        steps, world = max(self._steps, 1), world_size()
        own = torch.tensor([self._waited + self._forward.read(), self._waited], dtype=torch.float64, device=device) / steps
        work, waits = gather(own[None]).T.cpu()
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident()
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


class ModelFlops:
    """FLOPs of a training step per pair, by the length of its text."""

    def __init__(self, model: DualEncoder | Classifier) -> None:
        self._dim, self._pairs = model.dim, isinstance(model, DualEncoder)
        locked = getattr(model, "lock", None)
        self._factors = {tower: 1.0 if tower == locked else 3.0 for tower in ("image", "text")}
        shape = (2, 3, model.image_size, model.image_size)
        tower = _on_meta(model.image_tower)
        self._image = _count(lambda: tower(torch.empty(shape, device="meta"))) / 2
        self._text = _text_flops(model.text_tower) if isinstance(model, DualEncoder) else [0.0, 0.0, 0.0]

    def of_loss(self, batch_size: int) -> float:
        """Of the logits of a global batch, forward and backward: one matrix product each way serves both directions."""
        return 8.0 * batch_size**2 * self._dim if self._pairs else 0.0

    def of_step(self, pairs: int, tokens: int) -> float:
        constant, linear, square = self._text
        text = constant + linear * tokens + square * tokens**2
        return pairs * (self._factors["image"] * self._image + self._factors["text"] * text)


def _text_flops(tower: nn.Module) -> list[float]:
    """a, b, c: a text of n tokens takes a + b n + c n², by three short ones that are really encoded (BERT's code asks for
    values, which tensors on the meta device have not)."""
    device = next(tower.parameters()).device
    modes = {part: part.training for part in tower.modules()}
    tower.eval()
    try:
        lengths = (8, 16, 24)
        texts = [torch.ones(1, tokens, dtype=torch.int32, device=device) for tokens in lengths]
        counts = [_count(partial(tower, text)) for text in texts]
    finally:
        for part, mode in modes.items():
            part.training = mode
    coefficients: list[float] = np.linalg.solve(np.vander(lengths, increasing=True), counts).tolist()
    return coefficients


@torch.no_grad()
def _count(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without memory."""
    held: dict[int, Any] = {}
    for parameter in model.parameters():
        held[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        held[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, held).eval()


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
