"""The NVIDIA GPUs that this process can use, found without torch: `trainer=auto` asks.

Settings are composed before torch is imported, which takes seconds. So NVML, the driver's own
library, counts the GPUs, and the installed torch is read as text: a build for CPUs cannot use them.

Price: milliseconds; a driver that sleeps takes a second to wake. GPUs of other makers are not
looked for; `trainer=gpu` takes them.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_NVML = "libnvidia-ml.so.1"

_DEVICE_FILES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/kfd", "/dev/dxg")

# As torch/version.py has it: `cuda: Optional[str] = '13.2'`, or None.
_BUILT_FOR = re.compile(r"^(?:cuda|hip)\b[^=\n]*=\s*['\"]", re.MULTILINE)

_CPU_BUILD = (
    "an NVIDIA GPU is here, but this torch is built for CPUs: install one for CUDA, see "
    "https://pytorch.org/get-started/locally"
)


class Gpus(NamedTuple):
    """The GPUs of this machine, as this process sees them.

    Attributes:
        usable: How many this process can use.
        why_none: Why there are none; empty if there are some.
    """

    usable: int
    why_none: str = ""


@cache
def gpus() -> Gpus:
    """Looks for GPUs; once a process."""
    return look(_nvml(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch_knows_gpus=_torch_knows())


def look(nvml: Any, visible: str | None, *, torch_knows_gpus: bool) -> Gpus:
    """Counts the GPUs that a process can use.

    Args:
        nvml: The loaded library; None: there is none.
        visible: The variable CUDA_VISIBLE_DEVICES; None: it is not set.
        torch_knows_gpus: Whether the installed torch is built for GPUs.
    """
    if nvml is None:
        return Gpus(0, "no NVIDIA GPU is here")

    status = nvml.nvmlInit_v2()
    if status:
        return Gpus(0, f"the NVIDIA driver does not answer (NVML error {status}): try nvidia-smi")
    try:
        number = ctypes.c_uint(0)
        status = nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    finally:
        nvml.nvmlShutdown()
    if status or number.value == 0:
        return Gpus(0, "no NVIDIA GPU is here")

    seen = _visible(number.value, visible)
    if seen == 0:
        return Gpus(0, f"CUDA_VISIBLE_DEVICES={visible} hides the GPUs of this machine")
    if not torch_knows_gpus:
        return Gpus(0, _CPU_BUILD)
    return Gpus(seen)


def surely_none() -> bool:
    """Whether there is no GPU of any maker; False if only torch can tell."""
    # Some have no NVML: AMD's, Jetson's, and those of Windows under WSL.
    return not gpus().usable and not any(map(glob.glob, _DEVICE_FILES))


def _visible(number: int, variable: str | None) -> int:
    """How many of a machine's GPUs CUDA shows under CUDA_VISIBLE_DEVICES."""
    if variable is None:
        return number

    names: list[str] = []
    for name in variable.split(","):
        name = name.strip()
        is_index = name.isdecimal() and int(name) < number
        # CUDA reads up to the first name that is no GPU, such as -1.
        if not is_index and not name.startswith(("GPU-", "MIG-")):
            break
        names.append(name)
    # It shows none if one is named twice.
    return len(names) if len(set(names)) == len(names) else 0


def _nvml() -> Any:
    try:
        return ctypes.CDLL(_NVML)
    except OSError:
        return None


def _torch_knows() -> bool:
    """Whether the installed torch is built for GPUs; it is not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return True  # torch itself will say what it can do
    return built_for_gpus(text)


def built_for_gpus(version: str) -> bool:
    """Whether a torch/version.py, given as text, belongs to a build for GPUs."""
    return _BUILT_FOR.search(version) is not None
