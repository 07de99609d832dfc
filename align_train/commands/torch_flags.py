"""What torch is told before it computes: float32 is float32, and how a GPU's memory is kept."""

from __future__ import annotations

import os

import torch

# torch 2.9 has renamed the variable.
_MEMORY = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_RENAMED_IN = (2, 9)


def set_torch_flags() -> None:
    """Makes torch's global choices, once, before CUDA starts.

    *TF32 is off*, for matrices and convolutions, whatever the environment says: its 10 bits would
    give the loss's logits errors of a few percent, and retrieval wrong ranks. So `precision=fp32`
    and the last evaluation compute alike on CPUs and GPUs; `precision=bf16` is the fast one.

    *Memory grows in segments*, unless the environment has another choice: chunks of many text
    lengths would otherwise leave gaps that no tensor fits.
    """
    # These two work in every version of torch. The newer names, `fp32_precision`, must not be
    # mixed with the older ones: reading one could raise.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

    if not any(name in os.environ for name in _MEMORY):
        name = _MEMORY[0] if _version() >= _RENAMED_IN else _MEMORY[1]
        os.environ[name] = "expandable_segments:True"


def _version() -> tuple[int, int]:
    major, minor, *_ = torch.__version__.split(".")
    return int(major), int(minor)
