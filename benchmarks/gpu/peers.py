"""Other people's models in a plain loop: forward, loss, backward, AdamW, bf16, no chunks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from align_train.config.compose import compose_training
from align_train.model.base import masked
from align_train.pretrained.align_config import to_config
from align_train.stream.batch import normalise
from align_train.training.out_of_memory import is_out_of_memory
from benchmarks.gpu.child import Skipped
from benchmarks.gpu.clock import wait_for
from benchmarks.gpu.parts import Figures, Options
from benchmarks.gpu.setup import VOCABULARY
from benchmarks.gpu.step import (
    LEAST_STEPS,
    SECONDS,
    WARM,
    batch_of,
    free,
    peak_gb,
)
from benchmarks.gpu.trace import traced

LEAST_PAIRS = 16
OPEN_CLIP_TOKENS = 77

Step = Callable[[], None]


@dataclass(frozen=True)
class Peer:
    """A model with its loss.

    Attributes:
        model: The model, in training mode.
        loss: Gives the loss of the batch.
    """

    model: nn.Module
    loss: Callable[[nn.Module], Tensor]


def hugging_face(settings: tuple[str, ...], pairs: int, options: Options) -> Figures:
    """Hugging Face's `AlignModel` in the shape of one of our models, with random weights.

    Args:
        settings: The settings of our model.
        pairs: Of the batch; halved until it fits.
        options: On which device.
    """
    from transformers import AlignConfig, AlignModel

    node = compose_training(*settings).model | {"vocabulary_size": VOCABULARY}

    def make(pairs: int) -> Peer:
        batch = batch_of(pairs, node["image_size"], node["max_tokens"])
        texts, seen = masked(batch.input_ids.long().to(options.device), None)
        # As its processor gives them, and already on the device.
        pixels = normalise(batch.images.to(options.device), None).contiguous()
        mask = seen.long()

        def loss(model: nn.Module) -> Tensor:
            result = model(
                input_ids=texts, attention_mask=mask, pixel_values=pixels, return_loss=True
            )
            value: Tensor = result.loss
            return value

        return Peer(AlignModel(AlignConfig(**to_config(node))), loss)

    return _largest(make, pairs, options)


def open_clip(pairs: int, options: Options) -> Figures:
    """open_clip's ViT-B/32 with its own loss.

    Args:
        pairs: Of the batch; halved until it fits.
        options: On which device.

    Raises:
        Skipped: It is not installed.
    """
    if find_spec("open_clip") is None:
        raise Skipped("open_clip is not installed")
    library: Any = import_module("open_clip")
    contrastive = library.ClipLoss()

    def make(pairs: int) -> Peer:
        pixels = torch.randn(pairs, 3, 224, 224, device=options.device)
        texts = torch.randint(1, 40_000, (pairs, OPEN_CLIP_TOKENS), device=options.device)
        return Peer(
            library.create_model("ViT-B-32"),
            lambda model: contrastive(*model(pixels, texts)[:3]),
        )

    return _largest(make, pairs, options)


def _largest(make: Callable[[int], Peer], pairs: int, options: Options) -> Figures:
    """Measures the largest batch that fits."""
    while True:
        found = _loop(make, pairs, options)
        free(options.device)
        if found is not None:
            return found
        pairs //= 2


def _loop(make: Callable[[int], Peer], pairs: int, options: Options) -> Figures | None:
    """Runs the loop; None if memory has run out, and fewer pairs may fit."""
    try:
        peer = make(pairs)
        model = peer.model.to(options.device).train()
        return _measured(_step_of(peer, model, options), pairs, options)
    except RuntimeError as error:
        if not is_out_of_memory(error) or pairs <= LEAST_PAIRS:
            raise
    return None


def _step_of(peer: Peer, model: nn.Module, options: Options) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=options.on_gpu)

    def step() -> None:
        with torch.autocast(options.device, dtype=torch.bfloat16):
            loss = peer.loss(model)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _measured(step: Step, pairs: int, options: Options) -> Figures:
    for _ in range(WARM):
        step()
    wait_for(options.device)
    if options.on_gpu:
        torch.cuda.reset_peak_memory_stats()

    started = time.perf_counter()
    steps = 0
    least = 0.0 if options.tiny else SECONDS
    while steps < LEAST_STEPS or time.perf_counter() - started < least:
        step()
        # As each of our steps does, which reads its loss; else the host runs far ahead.
        wait_for(options.device)
        steps += 1
    seconds = (time.perf_counter() - started) / steps
    memory = peak_gb(options.device)

    with traced(options.device) as traces:
        step()
    found: Figures = {
        "pairs": pairs,
        "chunk": pairs,
        "recompute": False,
        "pairs_per_second": pairs / seconds,
        "step_seconds": seconds,
        "memory_gb": memory,
    }
    return found | traces[0].figures(seconds)
