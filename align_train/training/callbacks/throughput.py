"""How fast a run is and what holds it up: per device, against the peak, and rank against rank.

*FLOPs* are those of the model: three forward passes for a step (a backward pass costs two), one for
a locked tower (`flops.py`). Work done twice to save memory (`recompute`,
`checkpoint_blocks`) does not count, and so model FLOPs utilisation (MFU) falls with it, as in the
PaLM paper (Chowdhery et al. 2022, appendix B), which defined it.

*Stragglers*: every step ends when the slowest rank is done, so all ranks' steps take the same time.
The difference is the time until a rank first waits for others: for its data, and from its towers'
first forward pass to their last one.

Price: two small collectives for each logged row; on a GPU two events, which each step records anew.
"""

from __future__ import annotations

import resource
import time

import torch
from torch import Tensor, nn

from align_train.cluster.collectives import all_reduce_, gather, world_size
from align_train.stream.batch import Batch
from align_train.training.flops import ModelFlops, peak_tflops
from align_train.training.module import TrainingModule

_GIGA = 1e9
_TERA = 1e12
_MILLISECONDS = 1e3  # in a second
_LEAST_WORK = 1e-9  # seconds, so that a median of zero divides


class Throughput:
    """Measures the steps between one `read` and the next.

    Comes before evaluation and checkpoints, which are not to be measured: only the time left
    includes them.
    """

    def __init__(
        self, *, batch_size: int, max_steps: int, bf16: bool, peak_tflops: float | None = None
    ) -> None:
        """Measures nothing yet.

        Args:
            batch_size: The global batch size, in pairs.
            max_steps: Steps of the whole run.
            bf16: Whether the forward pass runs under bf16 autocast.
            peak_tflops: The peak of one device in TFLOP/s; None: by the device's name. If that is
                not known either, there is no MFU.
        """
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.bf16 = bf16
        self.peak_tflops = peak_tflops

        self._model_flops: ModelFlops | None = None
        self._loss_flops = 0.0  # of a step, on all ranks
        self._forward = _Stopwatch()
        self._began = 0.0
        self._read_at = 0.0

        # Since the last `read`, of this rank.
        self._busy = 0.0  # seconds
        self._waited = 0.0  # seconds
        self._flops = 0.0
        self._steps = 0

    def setup(self, module: TrainingModule, device: torch.device) -> None:
        """Counts the model's FLOPs; called before the strategy takes the model.

        Args:
            module: The module.
            device: This rank's device.
        """
        self._model_flops = ModelFlops(module.model)
        self._loss_flops = module.loss.flops(self.batch_size, module.model.dim)
        self._forward = _Stopwatch(on_gpu=device.type == "cuda")
        if self.peak_tflops is None:
            self.peak_tflops = peak_tflops(device, bf16=self.bf16)

    def start(self, module: TrainingModule) -> None:
        """Begins to measure.

        Args:
            module: The module, laid out by its strategy.
        """
        module.model.register_forward_pre_hook(self._forward.begin)
        module.model.register_forward_hook(self._forward.end)
        self._read_at = time.perf_counter()

    def begin_step(self) -> None:
        """Notes that this rank has its batch."""
        self._began = time.perf_counter()

    def measure(self, batch: Batch, chunk_size: int) -> None:
        """Takes in the step that ends.

        Args:
            batch: This rank's part of the global batch.
            chunk_size: Pairs of a chunk, whose texts are as long as its longest one.
        """
        # The loop waited for the batch before `begin_step`.
        self._busy += time.perf_counter() - self._began + batch.wait
        self._forward.end_step()
        self._waited += batch.wait
        self._steps += 1

        assert self._model_flops is not None
        for chunk in batch.chunks(chunk_size):
            self._flops += self._model_flops.of_step(len(chunk), chunk.input_ids.shape[1])

    def read(self, step: int, device: torch.device) -> dict[str, float]:
        """Gives the columns of a row for the steps since the last call. Collective.

        Args:
            step: The step that ends, from 1.
            device: This rank's device.
        """
        steps = max(self._steps, 1)
        world = world_size()
        seconds = self._busy / steps
        ranks = self._compare_ranks(steps, device)
        memory = _most_memory(device)

        now = time.perf_counter()
        seconds_with_all = (now - self._read_at) / steps
        self._read_at = now

        # Each rank computes its own rows of the logits.
        tflops = (self._flops / steps + self._loss_flops / world) / seconds / _TERA
        values = {
            "pairs_per_second": self.batch_size / seconds,
            "pairs_per_second_per_device": self.batch_size / seconds / world,
            "step_seconds": seconds,
            "data_wait_fraction": self._waited / self._busy,
            "tflops_per_device": tflops,
        }
        if self.peak_tflops:
            values["mfu"] = tflops / self.peak_tflops
        values["memory_gb"] = memory
        values["eta_seconds"] = (self.max_steps - step) * seconds_with_all

        self._busy = 0.0
        self._waited = 0.0
        self._flops = 0.0
        self._steps = 0
        return values | ranks

    def _compare_ranks(self, steps: int, device: torch.device) -> dict[str, float]:
        seconds = [self._waited + self._forward.read(), self._waited]
        per_step = torch.tensor(seconds, dtype=torch.float64, device=device) / steps
        work, waits = gather(per_step[None]).T.cpu()
        if world_size() == 1:
            return {}
        return {
            "rank_spread": float(work.max() / work.median().clamp(min=_LEAST_WORK)),
            "slowest_rank": int(work.argmax()),
            "most_waiting_rank": int(waits.argmax()),
        }


class _Stopwatch:
    """Seconds from the first to the last forward pass of each step; on a GPU those of its stream.

    Passes that `recompute` makes within the backward pass do not count: by then ranks wait for each
    other.
    """

    def __init__(self, *, on_gpu: bool = False) -> None:
        self._seconds = 0.0
        self._first = _Mark(on_gpu=on_gpu)
        self._last = _Mark(on_gpu=on_gpu)

    def begin(self, module: nn.Module, given: tuple[object, ...]) -> None:
        if not self._first.is_set and not _within_backward():
            self._first.set()

    def end(self, module: nn.Module, given: tuple[object, ...], result: object) -> None:
        if not _within_backward():
            self._last.set()

    def end_step(self) -> None:
        """Adds the step's time. The host has waited for its loss, so that nothing waits here."""
        if self._first.is_set and self._last.is_set:
            self._seconds += self._last.seconds_since(self._first)
        self._first.is_set = False
        self._last.is_set = False

    def read(self) -> float:
        """Seconds of all steps since the last call."""
        seconds = self._seconds
        self._seconds = 0.0
        return seconds


class _Mark:
    """A point in time, which can be set again and again: of the host, or of the GPU's stream."""

    def __init__(self, *, on_gpu: bool) -> None:
        # The host runs ahead of the stream: only its events know the time.
        self._event = _event() if on_gpu else None
        self._at = 0.0
        self.is_set = False

    def set(self) -> None:
        if self._event is None:
            self._at = time.perf_counter()
        else:
            self._event.record()
        self.is_set = True

    def seconds_since(self, first: _Mark) -> float:
        if self._event is None or first._event is None:
            return self._at - first._at
        self._event.synchronize()
        milliseconds: float = first._event.elapsed_time(self._event)
        return milliseconds / _MILLISECONDS


def _within_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _most_memory(device: torch.device) -> float:
    """Gigabytes at the peak of the rank that needed most: on its GPU, or resident. Collective."""
    if device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated(device))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB
    value: Tensor = torch.tensor(peak / _GIGA, device=device)
    return float(all_reduce_(value, "max"))
