"""`python -m align_train.plan measure=true`: the rates of this machine, for later plans.

Small models make some steps here: EfficientNets, a ResNet and a ViT; texts go through BERT. What
each kind of operator reaches is written as a file of hardware, which a plan takes by `gpu=FILE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from align_train.commands.plan_hardware import measured_file
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.files import write_whole
from align_train.planning.hardware import GB
from align_train.planning.measure import MeasuredRates
from align_train.planning.seconds import EFFICIENCY_OF
from align_train.stream.batch import Batch
from align_train.training.forward import Towers

_TOKENS = 32
_WORDS = 2_000

_SMALL_BERT = (
    "model.text_tower.hidden=384",
    "model.text_tower.layers=6",
    "model.text_tower.heads=6",
    "model.text_tower.intermediate=1536",
)

# Overrides of each model, and the side of its images on a CPU.
_MODELS = {
    "tiny EfficientNet": (("model=tiny",), 64),
    "EfficientNet B3": (("model=b3_mini",), 96),
    "ResNet": (("model=timm_base", "model.image_tower.name=resnet10t", *_SMALL_BERT), 96),
    "ViT": (
        (
            "model=timm_base",
            "model.image_tower.name=vit_small_patch16_224",
            # It was made for 224 pixels, and a CPU measures smaller images.
            "+model.image_tower.options.dynamic_img_size=true",
            *_SMALL_BERT,
        ),
        96,
    ),
}

_PAIRS_ON_CPU = 16
_PAIRS_ON_GPU = 128
_SIDE_ON_GPU = 224


def measure_machine(device: torch.device, *, bf16: bool) -> Path:
    """Measures a device of this machine, with a progress bar, and writes what it reaches.

    Args:
        device: The device.
        bf16: Whether passes run under bf16 autocast.

    Returns:
        The file, which plans and runs of this machine take.

    Raises:
        UserError: The file cannot be written.
    """
    rates = measure_rates(device, bf16=bf16, progress=True)
    path = measured_file(on_gpu=device.type == "cuda", bf16=bf16)
    write_whole(path, hardware_file(rates, bf16=bf16))
    return path


def measure_rates(device: torch.device, *, bf16: bool, progress: bool) -> MeasuredRates:
    """Measures what kinds of operators reach on a device.

    Args:
        device: The device.
        bf16: Whether passes run under bf16 autocast.
        progress: Whether a progress bar is shown.
    """
    rates = MeasuredRates(device, bf16=bf16)
    for name in tqdm(_MODELS, desc="measuring", unit="model", disable=not progress):
        rates.take_in(_step_of(name, device, bf16=bf16))
    return rates


def _step_of(name: str, device: torch.device, *, bf16: bool) -> Callable[[], None]:
    """The passes of a model's step, ready to be made."""
    overrides, side = _MODELS[name]
    on_gpu = device.type == "cuda"
    pairs = _PAIRS_ON_GPU if on_gpu else _PAIRS_ON_CPU
    side = _SIDE_ON_GPU if on_gpu else side
    settings = compose_training(*overrides, f"model.image_size={side}")
    model = build(settings.model | {"vocabulary_size": _WORDS}).to(device).train()
    towers = Towers(model, seed=0, norm_group=pairs)
    batch = _batch(pairs, side)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
            embeddings = towers.embed(batch, chunk_size=pairs, recompute=False)
        # Ones stand in for the gradient of a loss, which is not what is measured.
        ends = [part for part in embeddings if part.requires_grad]
        torch.autograd.backward(ends, [torch.ones_like(part) for part in ends])
        # As between two steps of a run: shared casts are freed, statistics are forgotten.
        towers.end_step()
        towers.statistics.begin_step()

    return step


def _batch(pairs: int, side: int) -> Batch:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (pairs, side, side, 3), dtype=np.uint8)
    return Batch.unnamed(
        images=torch.from_numpy(pixels),
        input_ids=torch.full((pairs, _TOKENS), 5, dtype=torch.int32),
    )


def hardware_file(rates: MeasuredRates, *, bf16: bool) -> str:
    """Writes measured rates down as conf/gpu has them.

    Args:
        rates: Of this machine.
        bf16: Whether they are of bf16.

    Returns:
        The text of the YAML file.
    """
    device = rates.device
    on_gpu = device.type == "cuda"
    shares = rates.shares()
    # A float32 run computes nothing in bf16: there the peak stands in for that of bf16.
    peak = rates.peak / 1e12
    float32_peak = rates.float32_peak / 1e12 if bf16 else peak
    memory = _memory(device) / GB
    lines = [
        f"# Measured by `align-train plan measure=true` in {'bf16' if bf16 else 'fp32'}.",
        "# The links are not measured: set them before you plan several nodes.",
        "_target_: align_train.planning.hardware.Hardware",
        f"name: {_name(device)}",
        f"is_gpu: {str(on_gpu).lower()}",
        f"memory_gb: {memory:.1f}",
        f"bf16_tflops: {peak:.4g}",
        f"fp32_tflops: {float32_peak:.4g}",
        f"memory_gbs: {rates.bandwidth / GB:.4g}",
        "node_link_gbs: 1",
        "network_gbs: 1",
        f"gpus_per_node: {torch.cuda.device_count() if on_gpu else 1}",
        f"cpu_cores: {os.cpu_count()}",
        f"launch_us: {rates.launch * 1e6:.3g}",
        "efficiency:",
        "  _target_: align_train.planning.hardware.Efficiency",
    ]
    # A kind of operator that no model had counts as ideal.
    for kind, name in EFFICIENCY_OF.items():
        lines.append(f"  {name}: {shares.get(kind, 1.0):.4g}")
    lines.append("  link: 1.0")
    return "\n".join(lines) + "\n"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} cores of {line.split(':')[1].strip()}"
    return f"{os.cpu_count()} CPU cores"


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
