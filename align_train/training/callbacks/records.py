"""The .jsonl files of a run that have lines from all ranks; rank 0 alone writes them.

Several writers would tear each other's lines on NFS, and on Lustre wait for one another in every
step. So each rank keeps its lines until a row of metrics.csv is due or a checkpoint is saved. A run
that is killed loses only lines of steps that are undone.

Price: two small collectives for each logged row and checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import lightning

from align_train.cluster.collectives import gather_texts


class Records:
    """Lines that are not yet written."""

    def __init__(self, *, every: int) -> None:
        """Has no lines yet.

        Args:
            every: Steps between two writes; checkpoints write as well.
        """
        self.every = every
        self._lines: list[tuple[str, str]] = []  # the file's path, and a line of JSON

    def add(self, path: Path, lines: Iterable[Mapping[str, object]]) -> None:
        """Keeps lines of this rank.

        Args:
            path: The file, the same path on every rank.
            lines: Each has a `step`, which counts from 1.
        """
        self._lines += [(str(path), json.dumps(line) + "\n") for line in lines]

    def write_if_due(self, trainer: lightning.Trainer) -> None:
        """Writes at every `every`-th step. Collective.

        Args:
            trainer: Lightning's trainer.
        """
        if trainer.global_step % self.every == 0:
            self.write(trainer)

    def write(self, trainer: lightning.Trainer) -> None:
        """Gathers the lines of all ranks; rank 0 appends them to their files. Collective.

        Args:
            trainer: Lightning's trainer.
        """
        gathered = gather_texts(json.dumps(self._lines), trainer.strategy.root_device)
        self._lines = []
        # The lines of the other ranks are on rank 0 now.
        if not trainer.is_global_zero:
            return

        of_file: dict[str, list[str]] = {}
        for text in gathered:
            for path, line in json.loads(text):
                of_file.setdefault(path, []).append(line)
        for path, lines in of_file.items():
            with Path(path).open("a", encoding="utf-8") as file:
                file.writelines(lines)
