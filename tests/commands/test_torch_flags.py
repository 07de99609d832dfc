"""What torch is told before a command computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own: torch reads the first variable when it is imported.
_SHOW = """
import os, torch
from align_train.commands.devices import device_of
device_of("cpu")
matmul = torch.backends.cuda.matmul
print(torch.get_float32_matmul_precision(), matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
print(os.environ.get("PYTORCH_ALLOC_CONF"), os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
# The compiler and torch itself read both names.
getattr(matmul, "fp32_precision", None)
"""


@pytest.mark.parametrize(
    "own", [None, pytest.param("garbage_collection_threshold:0.8", marks=pytest.mark.long)]
)
def test_float32_is_float32_and_memory_grows_in_segments(own: str | None) -> None:
    """Also in NVIDIA's containers, which turn TF32 on; the user's own choice of memory stays."""
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    environment.pop("PYTORCH_ALLOC_CONF", None)
    environment.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    if own is not None:
        environment["PYTORCH_CUDA_ALLOC_CONF"] = own

    shown = subprocess.run(
        [sys.executable, "-c", _SHOW], env=environment, capture_output=True, text=True, check=True
    )
    precision, memory = shown.stdout.splitlines()
    assert precision == "highest False False"
    expected = {"expandable_segments:True", "None"} if own is None else {"None", own}
    assert set(memory.split()) == expected
