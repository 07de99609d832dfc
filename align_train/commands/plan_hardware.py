"""Where the hardware of a plan comes from: conf/gpu, a measured file, or this machine's name."""

from __future__ import annotations

from pathlib import Path

from align_train.commands.plan_settings import (
    check_complete,
    compose_plan,
    hardware_of,
)
from align_train.config.components import build
from align_train.config.own_file import read_mapping
from align_train.config.plan_schema import HARDWARE
from align_train.config.schema import conf_dir
from align_train.errors import UserError
from align_train.files import cache_folder
from align_train.planning.hardware import Hardware


def measured_file(*, on_gpu: bool, bf16: bool) -> Path:
    """Where `measure=true` writes what this machine reaches.

    Args:
        on_gpu: Whether its GPUs are meant, and not its CPU cores.
        bf16: Whether products are in bf16.
    """
    device = "gpu" if on_gpu else "cpu"
    precision = "bf16" if bf16 else "fp32"
    return cache_folder("hardware") / f"{device}_{precision}.yaml"


def hardware_of_file(path: Path) -> Hardware:
    """Reads a file of hardware.

    Args:
        path: The file.

    Raises:
        UserError: It cannot be read, or a figure is missing or wrong.
    """
    node = {"_target_": HARDWARE} | read_mapping(str(path), key="gpu")
    # A run reads one that it did not choose: nothing else may be built.
    if node["_target_"] != HARDWARE:
        raise UserError(f"{path}: _target_ is another class; expected {HARDWARE}")
    check_complete(node)
    hardware: Hardware = build(node)
    return hardware


def hardware_of_name(name: str) -> Hardware | None:
    """Finds a GPU in conf/gpu.

    Args:
        name: As the driver calls it.

    Returns:
        The GPU; None: it is none of these.
    """
    for file in sorted((conf_dir() / "gpu").glob("*.yaml")):
        if str(read_mapping(str(file), key="gpu")["name"]) == name:
            return hardware_of(compose_plan(f"gpu={file.stem}"))
    return None
