"""Which share of the peaks each kind of operator reaches on the machine at hand.

Some steps of small models run under a counter that takes the time of each operator. The same steps
run without it, too. The time that they take beyond their operators is that of the launches.

Price: a minute on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from align_train.training.operator_counter import OperatorCounter
from align_train.training.operators import COMPUTING, MOVING, Call, Operator

_SIDE = 2048  # of the matrices whose product shows the peak
_COPIED = 2**28  # bytes whose copy shows the bandwidth
_ROUNDS = 7
_WARM_UP = 2  # steps before those that are timed


class TimedOperators(OperatorCounter):  # type: ignore[no-untyped-call]
    """Counts operators and takes their time.

    Attributes:
        times: Each operator that ran, and its seconds.
    """

    def __init__(self, device: torch.device) -> None:
        """Has counted nothing yet.

        Args:
            device: What the operators run on.
        """
        super().__init__()
        self.times: list[tuple[Operator, float]] = []
        self._device = device
        self._seconds = 0.0

    def _run(self, call: Call) -> object:
        # CUDA returns before an operator is done: without waiting, only its launch would be timed.
        _wait(self._device)
        began = time.perf_counter()
        result = call.run()
        _wait(self._device)
        self._seconds = time.perf_counter() - began
        return result

    def _add(self, operator: Operator) -> None:
        super()._add(operator)
        self.times.append((operator, self._seconds))


class MeasuredRates:
    """What a machine reaches, from the steps of several models.

    Attributes:
        peak: FLOP/s of a large matrix product, in the precision of the passes.
        float32_peak: The same in float32, in which a bf16 run has its loss and its optimizer.
        bandwidth: Bytes a second of a large copy, read and written.
        launch: Seconds of an operator beside its work.
    """

    def __init__(self, device: torch.device, *, bf16: bool) -> None:
        """Measures the peaks.

        Args:
            device: The device.
            bf16: Whether the products of a run are in bf16.
        """
        self.device = device
        self.float32_peak = _peak(device, torch.float32)
        self.peak = _peak(device, torch.bfloat16) if bf16 else self.float32_peak
        self.bandwidth = _bandwidth(device)
        self._work = dict.fromkeys(COMPUTING + MOVING, 0.0)
        self._seconds = dict.fromkeys(self._work, 0.0)
        self._beside = 0.0
        self._operators = 0

    @property
    def launch(self) -> float:
        """Seconds of an operator beside its work; 0 before any step was measured."""
        # Timing each operator slows it down: their sum can exceed the plain step.
        return max(0.0, self._beside / max(self._operators, 1))

    def take_in(self, step: Callable[[], object]) -> None:
        """Measures a step.

        Args:
            step: Makes the passes of one step; it can be called often.
        """
        for _ in range(_WARM_UP):
            step()
        whole = median(self._timed(step) for _ in range(_ROUNDS))

        # A usual one of several, as the steps of a run are.
        in_order = sorted((self._watched(step) for _ in range(_ROUNDS)), key=_seconds_of)
        usual = in_order[_ROUNDS // 2]
        for operator, seconds in usual.times:
            computing = operator.kind in COMPUTING
            done = operator.flops if computing else operator.read_and_written
            self._work[operator.kind] += done
            self._seconds[operator.kind] += seconds
        self._beside += whole - _seconds_of(usual)
        self._operators += len(usual.times)

    def of(self, kind: str) -> float:
        """The rate of a kind of operators.

        Args:
            kind: One of `COMPUTING` or `MOVING`.

        Returns:
            FLOP/s, or bytes a second; 0 if no operator of this kind has run.
        """
        return self._work[kind] / self._seconds[kind] if self._seconds[kind] else 0.0

    def shares(self) -> dict[str, float]:
        """Each kind's share of the peak or of the bandwidth; kinds that did not run are left out.

        Caches can make operators on small tensors faster than a large copy. Then theirs is taken as
        the bandwidth, so that no share is above 1.
        """
        self.peak = max(self.peak, *map(self.of, COMPUTING))
        self.bandwidth = max(self.bandwidth, *map(self.of, MOVING))
        shares: dict[str, float] = {}
        for kind in self._work:
            whole = self.peak if kind in COMPUTING else self.bandwidth
            if self.of(kind):
                shares[kind] = self.of(kind) / whole
        return shares

    def _timed(self, step: Callable[[], object]) -> float:
        _wait(self.device)
        began = time.perf_counter()
        step()
        _wait(self.device)
        return time.perf_counter() - began

    def _watched(self, step: Callable[[], object]) -> TimedOperators:
        counter = TimedOperators(self.device)
        with counter:
            step()
        return counter


def _seconds_of(counter: TimedOperators) -> float:
    return sum(seconds for _, seconds in counter.times)


def _peak(device: torch.device, dtype: torch.dtype) -> float:
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    seconds = _quickest(lambda: left @ left, device)
    # A multiplication and an addition for each of the side³ products.
    return float(2 * _SIDE**3 / seconds)


def _bandwidth(device: torch.device) -> float:
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # Each byte is read once and written once.
    return 2 * _COPIED / _quickest(lambda: target.copy_(source), device)


def _quickest(function: Callable[[], object], device: torch.device) -> float:
    seconds: list[float] = []
    for _ in range(_WARM_UP + _ROUNDS):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    # The best one, no median: a peak is what the machine reaches undisturbed.
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
