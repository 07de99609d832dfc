"""One attempt at a step: memory may run out in it, on some ranks alone.

A rank that failed must not leave the others waiting in a collective. It goes on in step with them,
with embeddings or gradients that are no numbers. So all ranks come to the agreement before the
optimizer's step, learn the reason there, and repeat the step with less (`chunk_size.py`).

Not every place can be repeated: a strategy says what it can (`training/protocols.py`), and the loss
has collectives of its own. There the error passes, and ends the run with one line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from align_train.loss.distillation import Taught
from align_train.strategy.layout import trained_parameters
from align_train.stream.batch import Batch
from align_train.training.chunk_size import Chunking
from align_train.training.forward import Embeddings, Towers
from align_train.training.out_of_memory import free_memory, is_out_of_memory
from align_train.training.protocols import SteppingStrategy
from align_train.training.teacher import Teacher


class Attempt:
    """The passes of one attempt at a step, forward and backward.

    Attributes:
        out_of_memory: Whether memory has run out in it, on this rank.
    """

    def __init__(self, towers: Towers) -> None:
        """Has computed nothing yet.

        Args:
            towers: The towers.
        """
        self.towers = towers
        self.out_of_memory = False
        self._awaited = 0  # embeddings that wait for a gradient from the loss

    def embed(self, batch: Batch, chunking: Chunking, strategy: SteppingStrategy) -> Embeddings:
        """Begins an attempt: the forward pass of the towers.

        Args:
            batch: The device batch.
            chunking: How it is computed.
            strategy: The run's.

        Returns:
            The embeddings of images and texts; no numbers if memory has run out.
        """
        self.out_of_memory = False
        images, texts = self._passes(batch, chunking, strategy) or self._no_numbers(
            batch, chunking, strategy
        )
        self._watch_backward(images, texts)
        return images, texts

    def teach(
        self, teacher: Teacher, batch: Batch, chunking: Chunking, strategy: SteppingStrategy
    ) -> Taught:
        """The teacher's embeddings of the batch; zeros if memory has run out in its pass.

        Args:
            teacher: The run's.
            batch: The device batch.
            chunking: How it is computed.
            strategy: The run's.
        """
        device = next(self.towers.model.parameters()).device
        try:
            return teacher(batch, chunking.of_step, device)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not strategy.repeats_forward:
                raise
            self.out_of_memory = True

        free_memory()
        # The step does not count, but other ranks wait for this one.
        return teacher.nothing(len(batch), device)

    def backward(self, loss: Tensor, run: Callable[[], None], strategy: SteppingStrategy) -> None:
        """Computes the gradients; if memory runs out, those that are missing are no numbers.

        Args:
            loss: Loses its graph if memory runs out.
            run: Goes backward from it.
            strategy: The run's.
        """
        try:
            run()
            return
        except RuntimeError as error:
            repeats = strategy.repeats_backward and not self._awaited
            if not is_out_of_memory(error) or not repeats:
                raise
            self.out_of_memory = True

        # Lightning holds the loss, and so the graph of the failed pass.
        loss.detach_()
        free_memory()

        # Gradients that are there have been sent to other ranks. The rest is still to be sent.
        missing: list[Tensor] = []
        for _, parameter in trained_parameters(self.towers.model):
            if parameter.grad is None:
                missing.append(parameter[(0,) * parameter.dim()] * float("nan"))
        if missing:
            torch.autograd.backward(torch.stack(missing).sum())

    def _passes(
        self, batch: Batch, chunking: Chunking, strategy: SteppingStrategy
    ) -> Embeddings | None:
        """The embeddings of the device batch; None if memory has run out."""
        recompute = chunking.recompute
        assert isinstance(recompute, bool)
        # Before the passes: then a rank that runs out of memory in one leaves no other waiting.
        weights_stay = strategy.keep_weights_whole()
        try:
            return self.towers.embed(
                batch,
                chunk_size=chunking.of_step,
                recompute=recompute,
                share_casts=weights_stay,
            )
        except RuntimeError as error:
            if not is_out_of_memory(error) or not strategy.repeats_forward:
                raise
            self.out_of_memory = True

        # Only now: `except` would keep the frames of the failed pass, and their tensors.
        free_memory()
        strategy.forget_passes()
        return None

    def _no_numbers(
        self, batch: Batch, chunking: Chunking, strategy: SteppingStrategy
    ) -> Embeddings:
        """Embeddings that take part in all that follows, and make it a step that does not count."""
        model = self.towers.model
        if strategy.needs_a_pass:
            smallest = self.towers.embed(
                batch.head(chunking.smallest), chunk_size=chunking.smallest, recompute=False
            )
            anchor = smallest[0].sum() + smallest[1].sum()
        else:
            # Every parameter must have a gradient: other ranks wait for it.
            values = [item[(0,) * item.dim()] for _, item in trained_parameters(model)]
            anchor = torch.stack(values).sum()

        part = (anchor * float("nan")).expand(len(batch), model.dim)
        return part, part

    def _watch_backward(self, *embeddings: Tensor) -> None:
        """Notes when the loss has given the embeddings their gradients.

        Until then its collectives may be under way: a rank that leaves them cannot go on.
        """
        self._awaited = 0

        def arrived(_: Tensor) -> None:
            self._awaited -= 1

        for part in embeddings:
            if part.requires_grad:
                self._awaited += 1
                part.register_hook(arrived)  # type: ignore[no-untyped-call]
