"""Loss and chunks on the device against float64 on the CPU.

Errors are relative, |found - true| / |true|: of the loss's value and its worst gradient, and of all
gradients of a small model together. For chunks the model's dropout, drop path and BatchNorm are on.
float32 is computed without TF32 here; bf16 is autocast, as in training. All chunks of a row see the
same pairs, so they should agree with each other far better than bf16 does with float64.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.loss.contrastive import ContrastiveLoss
from benchmarks.gpu.loss import DIM, SMOOTHING, TEMPERATURE, Loss, plain
from benchmarks.gpu.parts import Columns, Figures, Options

TITLE = "on the device against float64 on the CPU"
COLUMNS: Columns = {
    "value": ("loss", ".1e"),
    "gradients": ("gradients", ".1e"),
    "bound": ("bound", ".0e"),
    "between_chunks": ("between chunks", ".1e"),
    "bound_between": ("bound", ".0e"),
}
AT_ONCE = 1
LIMIT = 60.0

# The largest errors. bf16 has 8 bits: a rounding is 2e-3, and towers round often.
LOSS_BOUNDS = {"float32": 1e-5, "bf16": 1e-2}
CHUNK_BOUNDS = {"float32": 1e-4, "bf16": 1e-1}
BETWEEN_BOUNDS = {"float32": 1e-4, "bf16": 6e-2}

PAIRS_OF_LOSS = 2048
PAIRS = 128
TINY_PAIRS = 32
NORM_GROUP = 16
TOKENS = 24
CHUNKS = (16, 32, 64, 128)
MODEL = (
    "model=tiny",
    "model.image_tower.drop_path=0.2",
    "model.text_tower.dropout=0.1",
    # Smooth: a last digit that moves an input across ReLU's kink would move gradients by far more.
    "model.image_tower.activation=silu",
)


def rows(options: Options) -> list[str]:
    return ["loss, float32", "loss, bf16", "chunks, float32", "chunks, bf16"]


def measure(row: str, options: Options) -> Figures:
    without_tf32()
    what, _, numbers = row.partition(", ")
    if what == "loss":
        return loss_errors(numbers, options)
    return chunk_errors(numbers, options)


def without_tf32() -> None:
    """Makes float32 mean float32, in products and in convolutions."""
    products: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    # torch refuses to mix its older settings with its newer ones.
    if hasattr(products, "fp32_precision"):
        products.fp32_precision = "ieee"
        cudnn.conv.fp32_precision = "ieee"
    else:
        products.allow_tf32 = False
        cudnn.allow_tf32 = False


def loss_errors(numbers: str, options: Options) -> Figures:
    """The loss and its gradients, in tiles, against the plain one in float64."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 256 if options.tiny else PAIRS_OF_LOSS, DIM, generator=generator)
    dtype = torch.bfloat16 if numbers == "bf16" else torch.float32
    # Both begin with the same, rounded numbers.
    images, texts = normalize(drawn, dim=2).to(dtype)
    temperature = torch.tensor([TEMPERATURE])

    inputs = [images.to(options.device), texts.to(options.device), temperature.to(options.device)]
    # Tiles that do not divide the batch.
    found = value_and_gradients(ContrastiveLoss(label_smoothing=SMOOTHING, tile=100), inputs)
    true = value_and_gradients(plain, [images.double(), texts.double(), temperature.double()])

    errors = [error_of([one], [other]) for one, other in zip(found, true, strict=True)]
    bound = LOSS_BOUNDS[numbers]
    figures: Figures = {"value": errors[0], "gradients": max(errors[1:]), "bound": bound}
    return figures | {"ok": max(errors) <= bound}


def value_and_gradients(loss: Loss, inputs: list[Tensor]) -> list[Tensor]:
    """The loss, and its gradients by all inputs."""
    leaves = [given.detach().clone().requires_grad_() for given in inputs]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def chunk_errors(numbers: str, options: Options) -> Figures:
    """The gradients of a small model in chunks of several sizes, kept and computed again."""
    pairs = TINY_PAIRS if options.tiny else PAIRS
    true = model_gradients("cpu", torch.float64, pairs=pairs, chunk=NORM_GROUP)

    bf16 = numbers == "bf16"
    first: list[Tensor] = []
    errors: list[float] = []
    between: list[float] = []
    for chunk in CHUNKS[:2] if options.tiny else CHUNKS:
        for recompute in (False, True):
            found = model_gradients(
                options.device,
                torch.float32,
                pairs=pairs,
                chunk=chunk,
                recompute=recompute,
                bf16=bf16,
            )
            first = first or found
            errors.append(error_of(found, true))
            between.append(error_of(found, first))

    figures: Figures = {
        "gradients": max(errors),
        "bound": CHUNK_BOUNDS[numbers],
        "between_chunks": max(between),
        "bound_between": BETWEEN_BOUNDS[numbers],
    }
    within = max(errors) <= CHUNK_BOUNDS[numbers] and max(between) <= BETWEEN_BOUNDS[numbers]
    return figures | {"ok": within}


def model_gradients(
    device: str,
    dtype: torch.dtype,
    *,
    pairs: int,
    chunk: int,
    recompute: bool = False,
    bf16: bool = False,
) -> list[Tensor]:
    """The gradients of a small model's parameters in one step.

    Args:
        device: `cuda` or `cpu`.
        dtype: Of its parameters.
        pairs: Of the batch.
        chunk: Pairs of a chunk.
        recompute: Gradient caching.
        bf16: Whether the towers run under bf16 autocast.
    """
    from align_train.config.components import build
    from align_train.config.compose import compose_training
    from align_train.training.forward import Towers
    from benchmarks.gpu.step import batch_of

    torch.manual_seed(0)
    model = build(compose_training(*MODEL).model, vocabulary_size=512).to(device, dtype)
    model.train()
    towers = Towers(model, seed=0, norm_group=NORM_GROUP)
    batch = batch_of(pairs, model.image_size, TOKENS)

    cast: AbstractContextManager[object] = nullcontext()
    if bf16:
        cast = torch.autocast(device, dtype=torch.bfloat16)
    with cast:
        images, texts = towers.embed(batch, chunk_size=chunk, recompute=recompute)
    loss = ContrastiveLoss()(images, texts, *model.logit_parameters())
    torch.autograd.backward(loss)
    towers.end_step()

    gradients: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    return gradients


def error_of(found: list[Tensor], true: list[Tensor]) -> float:
    """|found - true| / |true| of all tensors together, in float64 on the CPU."""
    squares = 0.0
    whole = 0.0
    for one, other in zip(found, true, strict=True):
        exact = other.double().cpu()
        squares += float((one.double().cpu() - exact).square().sum())
        whole += float(exact.square().sum())
    return math.sqrt(squares / whole)
