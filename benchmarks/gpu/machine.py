"""The machine, and its two ceilings: how fast it copies, and how fast it multiplies."""

from __future__ import annotations

import torch

from benchmarks.gpu.clock import GIGA, TERA, seconds_of
from benchmarks.gpu.hardware import gpus, host
from benchmarks.gpu.parts import Columns, Figures, Options

TITLE = "the machine and its ceilings"
COLUMNS: Columns = {
    "text": ("", "s"),
    "rate": ("rate", ",.2f"),
    "unit": ("unit", "s"),
    "peak": ("by its data sheet", ",.0f"),
}
AT_ONCE = 1
LIMIT = 60.0

ROUNDS = 5
TIMES = 10


def rows(options: Options) -> list[str]:
    return ["machine", "device copy", "bf16 matmul"]


def measure(row: str, options: Options) -> Figures:
    if row == "machine":
        return {"text": machine(options)}
    if row == "device copy":
        return device_copy(options)
    return matmul(options)


def machine(options: Options) -> str:
    """Host and device in one line."""
    told = [host(), f"torch {torch.__version__}"]
    if not options.on_gpu:
        return ", ".join(told)

    found = torch.cuda.get_device_properties(0)
    told += [
        f"CUDA {torch.version.cuda}",
        f"cuDNN {torch.backends.cudnn.version()}",  # type: ignore[no-untyped-call]
        found.name,
        f"{found.total_memory / GIGA:.1f} GB",
        f"{found.multi_processor_count} multiprocessors",
        f"nvidia-smi: {gpus()}",
    ]
    return ", ".join(told)


def device_copy(options: Options) -> Figures:
    """Bytes that the device reads and writes in a second."""
    size = 16 * 2**20 if options.tiny else 2**30
    source = torch.zeros(size, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)

    seconds = seconds_of(lambda: target.copy_(source), options.device, rounds=ROUNDS, times=TIMES)
    return {"rate": 2 * size / seconds / GIGA, "unit": "GB/s read and written"}


def matmul(options: Options) -> Figures:
    """What a product of two square matrices makes of the tensor cores."""
    side = 256 if options.tiny else 8192
    one, other = torch.randn(2, side, side, device=options.device, dtype=torch.bfloat16)
    result = torch.empty_like(one)

    seconds = seconds_of(
        lambda: torch.mm(one, other, out=result), options.device, rounds=ROUNDS, times=TIMES
    )
    return {"rate": 2 * side**3 / seconds / TERA, "unit": "TFLOP/s", "peak": _peak(options)}


def _peak(options: Options) -> float | None:
    if not options.on_gpu:
        return None
    # Here: it imports the whole of training, and the copy must not wait for that.
    from align_train.training.flops import peak_tflops

    return peak_tflops(torch.device("cuda", 0), bf16=True)
