"""GPUs are counted by NVML and CUDA_VISIBLE_DEVICES, and only for a torch that can use them."""

from __future__ import annotations

from typing import Any

import pytest

from align_train.cluster import gpus
from align_train.cluster.gpus import Gpus, built_for_gpus, look
from align_train.config.compose import compose_training


class Nvml:
    """Stands in for the library: some GPUs, or a status of its own."""

    def __init__(self, number: int, status: int = 0) -> None:
        self.number = number
        self.status = status
        self.opened = 0

    def nvmlInit_v2(self) -> int:
        self.opened += not self.status
        return self.status

    def nvmlDeviceGetCount_v2(self, place: Any) -> int:
        place._obj.value = self.number
        return 0

    def nvmlShutdown(self) -> int:
        self.opened -= 1
        return 0


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 8),
        ("0", 1),
        ("3, 1", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),  # CUDA reads up to the first that is none
        ("0,9,1", 1),
        ("1,1", 0),
        ("GPU-8932f937-d72c,GPU-1b2c", 2),
        ("MIG-7f5f", 1),
    ],
)
def test_visible_gpus_are_counted_as_cuda_does(visible: str | None, count: int) -> None:
    library = Nvml(8)
    assert look(library, visible, torch_knows_gpus=True).usable == count
    assert library.opened == 0


def test_why_there_is_none_is_said() -> None:
    assert "no NVIDIA GPU is here" in look(None, None, torch_knows_gpus=True).why_none
    assert "no NVIDIA GPU is here" in look(Nvml(0), None, torch_knows_gpus=True).why_none
    assert "NVML error 18" in look(Nvml(1, 18), None, torch_knows_gpus=True).why_none
    assert "built for CPUs" in look(Nvml(1), None, torch_knows_gpus=False).why_none
    hidden = look(Nvml(2), "-1", torch_knows_gpus=True).why_none
    assert hidden.startswith("CUDA_VISIBLE_DEVICES=-1 hides")


def test_a_build_of_torch_is_known_by_its_text() -> None:
    assert built_for_gpus("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n")
    assert built_for_gpus("cuda = '11.7'\n")
    assert built_for_gpus("cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n")
    assert not built_for_gpus("__version__ = '2.9+cpu'\ncuda: Optional[str] = None\n")


@pytest.mark.parametrize("usable", [0, 8])
def test_auto_is_gpu_or_cpu_exactly(usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align_train.config.resolvers.gpus", lambda: Gpus(usable))
    other = "gpu" if usable else "cpu"
    assert compose_training() == compose_training(f"trainer={other}")
    assert compose_training("chunk_size=32").chunk_size == 32
    assert gpus.gpus().usable >= 0
