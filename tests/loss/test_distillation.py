"""The distillation loss equals a plain one over the whole batch, on one process and on several."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from align_train.cluster.collectives import rank, world_size
from align_train.loss.distillation import DistillationLoss, Taught
from tests.support.processes import on_ranks

BATCH, DIM, TEACHERS_DIM = 12, 7, 5

# Pairs that the teacher has no embeddings of: one of each kind of place on 2, 3 and 4 ranks.
UNKNOWN = (1, 6, 7, 11)


class Case(NamedTuple):
    """What the loss is given beside embeddings."""

    temperature: float
    teacher: float
    partly: bool


CASES = [
    Case(0.05, 0.02, partly=False),
    Case(1.0, 0.1, partly=False),
    # Logits up to 1,000: each exponential needs a shift of its own.
    Case(0.001, 0.001, partly=False),
    Case(0.05, 0.02, partly=True),
]


def known(case: Case) -> Tensor | None:
    """Bool `[B]`, or None if the teacher knows all pairs."""
    if not case.partly:
        return None
    mask = torch.ones(BATCH, dtype=torch.bool)
    mask[list(UNKNOWN)] = False
    return mask


def student(case: Case) -> list[Tensor]:
    """Images and texts before normalisation, and the temperature."""
    generator = torch.Generator().manual_seed(3)
    images, texts = (
        torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    temperature = torch.tensor([case.temperature], dtype=torch.float64)
    return [leaf.requires_grad_() for leaf in (images, texts, temperature)]


def teacher() -> tuple[Tensor, Tensor]:
    """Images and texts, normalised; no number where nobody knows them."""
    generator = torch.Generator().manual_seed(4)
    images, texts = (
        normalize(
            torch.randn(BATCH, TEACHERS_DIM, generator=generator, dtype=torch.float64), dim=-1
        )
        for _ in range(2)
    )
    return images, texts


def plain(case: Case) -> list[Tensor]:
    """Value and gradients of the dense loss over the whole batch."""
    leaves = student(case)
    images, texts, temperature = leaves
    logits = normalize(images, dim=-1) @ normalize(texts, dim=-1).T / temperature
    theirs = teacher()[0] @ teacher()[1].T / case.teacher
    mask = known(case)
    if mask is not None:
        logits, theirs = logits[mask][:, mask], theirs[mask][:, mask]

    both: list[Tensor] = []
    for ours, target in ((logits, theirs), (logits.T, theirs.T)):
        expected = target.log_softmax(1)
        both.append(kl_div(ours.log_softmax(1), expected, log_target=True, reduction="batchmean"))
    loss = 0.5 * (both[0] + both[1])
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def share(case: Case, tile: int) -> list[Tensor]:
    """Value and gradients of one rank's part, divided as by a strategy that averages over ranks."""
    leaves = student(case)
    images, texts, temperature = leaves
    part = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    mask = known(case)
    their_images, their_texts = teacher()
    if mask is not None:
        their_images[~mask] = torch.nan
        their_texts[~mask] = 0.0

    taught = Taught(their_images[part], their_texts[part], None if mask is None else mask[part])
    value = DistillationLoss(tile=tile)(
        normalize(images[part], dim=-1),
        normalize(texts[part], dim=-1),
        temperature,
        taught,
        case.teacher,
    )
    gradients = torch.autograd.grad(value, leaves)
    return [value.detach(), *(gradient / world_size() for gradient in gradients)]


@pytest.mark.parametrize("tile", [2048, 5, 1])
@pytest.mark.parametrize("case", CASES)
def test_one_process_equals_the_dense_loss(case: Case, tile: int) -> None:
    for found, expected in zip(share(case, tile), plain(case), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def every_share(tile: int) -> list[list[Tensor]]:
    return [share(case, tile) for case in CASES]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_equal_one_process_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    ranks = on_ranks(world, every_share, 5, folder=tmp_path)
    for index, case in enumerate(CASES):
        value, *gradients = plain(case)
        for values in ranks:
            torch.testing.assert_close(values[index][0], value, rtol=1e-12, atol=0)
        for part, expected in enumerate(gradients, start=1):
            together = sum((values[index][part] for values in ranks), torch.zeros_like(expected))
            torch.testing.assert_close(together, expected, rtol=1e-10, atol=1e-13)


def test_gradients_equal_finite_differences() -> None:
    case = CASES[3]
    taught = Taught(*teacher(), known(case))

    def loss(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
        ours = normalize(images, dim=-1), normalize(texts, dim=-1)
        value: Tensor = DistillationLoss(tile=5)(*ours, temperature, taught, case.teacher)
        return value

    assert torch.autograd.gradcheck(loss, student(case), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_a_student_that_agrees_with_its_teacher_has_no_loss_and_no_gradient() -> None:
    images, texts = (embeddings.requires_grad_() for embeddings in teacher())
    temperature = torch.tensor([0.03], dtype=torch.float64, requires_grad=True)
    taught = Taught(images.detach(), texts.detach())
    value = DistillationLoss()(images, texts, temperature, taught, 0.03)
    assert abs(float(value.detach())) < 1e-12
    for gradient in torch.autograd.grad(value, (images, texts, temperature)):
        assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_is_right_at_any_temperature(dtype: torch.dtype) -> None:
    for temperature in (1.0, 1 / 64, 0.01):
        case = Case(temperature, 0.01, partly=True)
        images, texts, scale = (leaf.detach() for leaf in student(case))
        their_images, their_texts = teacher()
        taught = Taught(their_images.half(), their_texts.half(), known(case))
        leaves = [
            normalize(images, dim=-1).to(dtype).requires_grad_(),
            normalize(texts, dim=-1).to(dtype).requires_grad_(),
            scale.float().requires_grad_(),
        ]
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        value = DistillationLoss(tile=5)(*leaves, taught, case.teacher)
        expected = DistillationLoss()(*exact, taught, case.teacher)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        rounding = 1e-5 if dtype == torch.float32 else 1e-2
        for found, wanted in zip(
            torch.autograd.grad(value, leaves), torch.autograd.grad(expected, exact), strict=True
        ):
            most = float(wanted.abs().max())
            error = float((found.double() - wanted).abs().max())
            assert error <= rounding * most + 1e-5 / temperature


def test_a_batch_nobody_knows_costs_nothing() -> None:
    images, texts, temperature = student(CASES[0])
    nothing = torch.zeros(BATCH, TEACHERS_DIM)
    taught = Taught(nothing, nothing, torch.zeros(BATCH, dtype=torch.bool))
    ours = normalize(images, dim=-1), normalize(texts, dim=-1)
    value = DistillationLoss()(*ours, temperature, taught, 0.1)
    assert float(value.detach()) == 0
    for gradient in torch.autograd.grad(value, (images, texts, temperature)):
        assert float(gradient.abs().max()) == 0


def _addmm_flops(into: Any, left: Any, right: Any, **_: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def test_operations_and_memory_match_the_docstring() -> None:
    """Nothing that is kept, and nothing at work, grows with the square of the batch."""
    width, tile = 32, 16
    for batch in (64, 128):
        generator = torch.Generator().manual_seed(0)
        rows = [
            normalize(torch.randn(batch, dim, generator=generator), dim=-1)
            for dim in (width, width, 8, 8)
        ]
        leaves = [rows[0].requires_grad_(), rows[1].requires_grad_()]
        temperature = torch.tensor([0.1], requires_grad=True)
        # torch does not know the operations of the in-place `addmm_`.
        counter = FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops}
        )
        with counter, _LargestTensor() as largest:  # type: ignore[no-untyped-call]
            taught = Taught(rows[2], rows[3])
            loss = DistillationLoss(tile=tile)(*leaves, temperature, taught, 0.1)
        forward = counter.get_total_flops()
        kept = {
            tensor.data_ptr(): tensor.numel()
            for tensor in loss.grad_fn.saved_tensors
            if tensor is not None
        }
        with counter, largest:
            loss.backward()
        backward = counter.get_total_flops()

        assert forward == 2 * batch**2 * (width + 8)
        assert backward == 2 * batch**2 * (3 * width + 8)
        assert sum(kept.values()) <= 2 * batch * (width + 8) + 4 * batch + 2
        assert largest.numel <= max(2 * tile**2, batch * width)


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many numbers the largest tensor has that any operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for item in out if isinstance(out, list | tuple) else [out]:
            if isinstance(item, Tensor):
                self.numel = max(self.numel, item.numel())
        return out
