"""Why a run ends: the line that one process prints, and the status with which all exit."""

from __future__ import annotations

from dataclasses import dataclass

from align_train.errors import Lost


@dataclass(frozen=True)
class Verdict:
    """Who is to blame, and how all processes end.

    Attributes:
        message: One line that names the process to blame.
        status: Exit status of every process.
        printed: True if the process to blame prints its error itself.
        alone: True if this process decided alone, because it could not reach the store.
    """

    message: str
    status: int
    printed: bool = False
    alone: bool = False

    def is_printed_by(self, rank: int) -> bool:
        """Whether a rank prints the message, so that the run ends with one line.

        Ranks that cannot reach the store cannot agree: each of them prints its own.

        Args:
            rank: The rank that asks.
        """
        return self.alone or (rank == 0 and not self.printed)

    def as_error(self, rank: int) -> Lost:
        """The error to raise on a rank; its text is empty if another rank prints it.

        Args:
            rank: The rank that raises it.
        """
        return Lost(self.message if self.is_printed_by(rank) else "", status=self.status)
