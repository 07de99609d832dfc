"""Starts the other processes of this machine, and ends with them.

Lightning's launcher kills this process without a word as soon as another ends. Here it has a minute
to end by itself: the watchdog says by then which rank ended, and why.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from threading import Thread

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

_LOOK_EVERY = 0.5  # seconds
_TIME_TO_END = 60.0  # seconds that this process has to end by itself
_LOST = 75  # exit status: a process was lost


class Children(_SubprocessScriptLauncher):
    """The processes that this one has started.

    Attributes:
        ended: Rank and exit status of one that ended by an error; None: none has.
    """

    ended: tuple[int, int] | None = None

    def launch(
        self,
        function: Callable[..., object],
        *args: object,
        trainer: object = None,
        **kwargs: object,
    ) -> object:
        """Starts the other processes, unless somebody else has; then calls the function."""
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            Thread(target=self._watch, daemon=True).start()

        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch(self) -> None:
        while self.ended is None:
            time.sleep(_LOOK_EVERY)
            states = [child.poll() for child in self.procs]
            # This process is rank 0, so the first child is rank 1.
            failed = [(rank, state) for rank, state in enumerate(states, start=1) if state]
            if failed:
                self.ended = failed[0]
            elif all(state == 0 for state in states):
                return

        time.sleep(_TIME_TO_END)
        rank, status = self.ended
        print(
            f"align_train: rank {rank} ended with status {status}, and so does this one",
            file=sys.stderr,
        )
        for child in self.procs:
            child.kill()
        # Only this gets the main thread out of a collective.
        os._exit(_LOST)
