"""Evaluators that stand alone: an error of one costs the others nothing, and is told at the end."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from align_train.cluster.collectives import rank, report_first_error
from align_train.errors import UserError
from align_train.training.callbacks.evaluation import main_values


class _Failed(UserError):
    """An evaluator failed by an error that is the user's to fix."""


class Failures:
    """The evaluators that failed, alike on every rank."""

    def __init__(self, device: torch.device) -> None:
        """None so far.

        Args:
            device: A device of the process group's backend.
        """
        self.device = device
        self._tried: set[str] = set()
        self._failed: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._failed

    def are_all(self, names: Collection[str]) -> bool:
        """Whether all of some evaluators failed, and there are any."""
        return len(names) > 0 and all(name in self for name in names)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keeps a `UserError` of an evaluator from the others, and prints it. Collective.

        Args:
            name: The evaluator's.
        """
        self._tried.add(name)
        try:
            # If a set fails on one rank, all ranks leave it here. Else the others would wait in its
            # next collective.
            with report_first_error(self.device, _Failed):
                try:
                    yield
                except UserError as error:
                    # A process that is lost, or a signal, ends all of them.
                    if error.status != UserError.status:
                        raise
                    # A kind of its own: whatever else is raised ends the command, and only this is
                    # caught below.
                    raise _Failed(str(error)) from None
        except _Failed as error:
            self._failed.append(name)
            if rank() == 0:
                print(f"align_train: {name}: {error}", file=sys.stderr, flush=True)

    def raise_any(self) -> None:
        """Raises UserError on all ranks if an evaluator failed: rank 0 has the line."""
        if self._failed:
            line = (
                f"{len(self._failed)} of {len(self._tried)} sets have no results: "
                f"{', '.join(self._failed)}; see the line of each above"
            )
            raise UserError(line if rank() == 0 else "")


def say_done(name: str, names: Sequence[str], found: Mapping[str, float]) -> None:
    """Prints a line for an evaluator that is done; on rank 0.

    Args:
        name: The evaluator's.
        names: Those of all evaluators that stand alone.
        found: Its results by name.
    """
    if rank() == 0:
        place = f"{names.index(name) + 1} of {len(names)}"
        values = [f"{key} {value:.4f}" for key, value in main_values(found).items()]
        print("  ".join([f"{place}:", *values]), flush=True)
