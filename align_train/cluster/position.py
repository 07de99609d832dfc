"""Where a process is in the run: its step, the place in the step, its progress there."""

from __future__ import annotations

from dataclasses import dataclass

# The places; `lookout.py` has their order.
STARTING = "starting"
ASKING = "waiting for rank 0"
MEETING = "starting together"
TRYING = "finding the chunk size that fits"
TRIED = "waiting for others to find the chunk size that fits"
WAITING = "waiting for data"
FORWARD = "forward pass"
COMPILING = "compiling"  # and which block: a part of the forward pass
BACKWARD = "backward pass"
EVALUATING = "evaluating"  # and by which evaluator
EMBEDDING = "embedding"
SCORING = "scoring"
SAVING = "saving a checkpoint"
ENDING = "ending the training"
FINISHED = "finished"


@dataclass(frozen=True)
class Position:
    """Where one process is, as it tells the others.

    Attributes:
        step: The step, from 1; 0 before the first.
        place: The part of the step, e.g. "forward pass".
        passes: Chunks that went through the model since the place began.
        collectives: Collectives of ours that it has begun (`collectives.begun`).
    """

    step: int
    place: str
    passes: int
    collectives: int = 0

    def __str__(self) -> str:
        return f"step {self.step}, {self.place}" if self.step else self.place
