"""A run's teacher: its embeddings of each batch, and the loss with both parts.

The teacher is no part of the module that is trained: no optimizer, strategy, average or checkpoint
knows it. It stays in evaluation mode, and computes without a graph, under the student's autocast,
on the pixels that the student sees.

Price of a live one: its weights on each rank's device, whole, and a forward pass of the device
batch, in the student's chunks. Of stored embeddings: their reading, by the loader's workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from align_train.cluster.collectives import rank, sum_over_ranks, world_size
from align_train.loss.distillation import DistillationLoss, Taught
from align_train.model import TrainableModel
from align_train.stream.batch import Batch, normalise

_TEACHER = "teacher"  # in the checkpoint


class Teacher(Protocol):
    """Gives embeddings of the pairs of a batch."""

    def nothing(self, pairs: int, device: torch.device) -> Taught:
        """Zeros of the same form as its embeddings: all ranks begin the same collectives.

        Args:
            pairs: How many.
            device: The student's.
        """

    def move(self, device: torch.device) -> None:
        """Takes its place on the device of the run."""

    def __call__(self, batch: Batch, chunk_size: int, device: torch.device) -> Taught:
        """Embeds a device batch.

        Args:
            batch: The device batch, on the host.
            chunk_size: Pairs that go through its towers together.
            device: The student's.
        """


class LiveTeacher:
    """A trained model that sees the pixels and texts of its student.

    Attributes:
        model: The model; it is frozen here.
        own_ids: Whether its token ids are not the student's: then they are the batch's `teacher`.
    """

    def __init__(self, model: TrainableModel, *, own_ids: bool) -> None:
        """Takes over a model.

        Args:
            model: Any dual encoder.
            own_ids: See the attribute.
        """
        self.model = model.requires_grad_(False).eval()
        self.own_ids = own_ids

    def nothing(self, pairs: int, device: torch.device) -> Taught:
        """See `Teacher.nothing`."""
        zeros = torch.zeros(pairs, self.model.dim, device=device)
        return Taught(zeros, zeros)

    def move(self, device: torch.device) -> None:
        """See `Teacher.move`."""
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, batch: Batch, chunk_size: int, device: torch.device) -> Taught:
        """See `Teacher.__call__`."""
        self.move(device)
        images: list[Tensor] = []
        texts: list[Tensor] = []
        # Cut by the batch: each chunk has the width of its own longest text.
        for chunk in batch.chunks(chunk_size):
            # Chunks count from the global batch's beginning, `teacher` from this rank's part.
            places = slice(chunk.first - batch.first, chunk.first - batch.first + len(chunk))
            ids = chunk.input_ids
            if self.own_ids:
                assert batch.teacher is not None
                ids = batch.teacher[places]
            images.append(self.model.encode_image(self._pixels(chunk.images, device)))
            texts.append(self.model.encode_text(ids.to(device, non_blocking=True)))
        return Taught(torch.cat(images), torch.cat(texts))

    def _pixels(self, images: Tensor, device: torch.device) -> Tensor:
        """The student's view at the teacher's size, by the teacher's mean and deviation."""
        dtype = next(self.model.parameters()).dtype
        pixels = normalise(images.to(device, non_blocking=True), self.model, dtype)
        size = self.model.image_size
        if pixels.shape[-1] == size:
            return pixels
        resized = interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)
        return resized.contiguous(memory_format=torch.channels_last)


class StoredTeacher:
    """Embeddings that the loader has found beside the shards: the batch's `teacher`."""

    def __init__(self, dim: int) -> None:
        """Keeps the width of the embeddings."""
        self.dim = dim

    def nothing(self, pairs: int, device: torch.device) -> Taught:
        """See `Teacher.nothing`."""
        zeros = torch.zeros(pairs, self.dim, device=device)
        known = torch.zeros(pairs, dtype=torch.bool, device=device)
        return Taught(zeros, zeros, known)

    def move(self, device: torch.device) -> None:
        """See `Teacher.move`: nothing of it stays on a device."""

    def __call__(self, batch: Batch, chunk_size: int, device: torch.device) -> Taught:
        """See `Teacher.__call__`. A pair without embeddings has no numbers in their place."""
        assert batch.teacher is not None
        rows = batch.teacher.to(device, non_blocking=True)
        # The loader fills the row of a pair without embeddings with NaN.
        return Taught(rows[:, 0], rows[:, 1], known=~rows[:, :, 0].isnan().any(dim=1))


@dataclass
class Distillation:
    """What a run learns from its teacher.

    Attributes:
        teacher: Gives the embeddings.
        temperature: The number that the teacher's cosines are divided by.
        weight: The teacher's share of the loss; the pairs' own loss has the rest.
        identity: Which teacher it is: a hash.
        loss: Compares student and teacher.
        parts: The last step's parts, on the device, as columns of metrics.csv.
    """

    teacher: Teacher
    temperature: float
    weight: float
    identity: str
    loss: DistillationLoss = field(default_factory=DistillationLoss)
    parts: dict[str, Tensor] = field(default_factory=dict)

    def joined(
        self, pairs_loss: Tensor, images: Tensor, texts: Tensor, temperature: Tensor, taught: Taught
    ) -> Tensor:
        """The whole loss of a step. Collective.

        Args:
            pairs_loss: The loss of the pairs themselves, a scalar.
            images: The student's embeddings, `[device batch, dim]`.
            texts: The same.
            temperature: The student's, `[1]`.
            taught: The teacher's embeddings.
        """
        loss = self.loss(images, texts, temperature, taught, self.temperature)
        self.parts = {
            "contrastive_loss": pairs_loss.detach(),
            "distillation_loss": loss.detach(),
        }
        if taught.known is not None:
            self.parts["taught_share"] = taught.known.float().mean()
        # A sum of both even if one has no share: each strategy wants gradients of all parameters.
        joined: Tensor = (1 - self.weight) * pairs_loss + self.weight * loss
        return joined

    def save(self, checkpoint: dict[str, object]) -> None:
        """Notes who the teacher is, whose weights are in no checkpoint.

        Args:
            checkpoint: Changed in place.
        """
        checkpoint[_TEACHER] = self.identity

    def compare(self, checkpoint: Mapping[str, object]) -> None:
        """Says so if the run goes on under another teacher than before.

        Args:
            checkpoint: The checkpoint.
        """
        if checkpoint.get(_TEACHER) not in (None, self.identity) and rank() == 0:
            print(
                f"{'teacher':>13}  has other weights than at the run's last start: from here on "
                f"the run learns from another teacher",
                flush=True,
            )

    def columns(self) -> dict[str, float]:
        """The last step's parts as numbers. Collective."""
        numbers: dict[str, float] = {}
        for name, value in self.parts.items():
            if name == "taught_share":
                # All ranks have equally many pairs, so the mean of their shares is that of all.
                value = sum_over_ranks(value) / world_size()
            numbers[name] = float(value)
        return numbers
