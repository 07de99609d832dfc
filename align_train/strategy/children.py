from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine. ended: rank and status of one that ended by an error.

    Lightning's kills this process, without a word, as soon as another ends; here it has a while to end by itself.
    """

    ended: tuple[int, int] | None = None

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            Thread(target=self._watch_children, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch_children(self) -> None:
        while self.ended is None:
            time.sleep(_LOOK_EVERY)
            states = [child.poll() for child in self.procs]
            failed = [(number + 1, state) for number, state in enumerate(states) if state]
            if failed:
                self.ended = failed[0]
            elif all(state == 0 for state in states):
                return
        time.sleep(_LEFT_TO_END)
        print(
            f"align_train: rank {self.ended[0]} ended with status {self.ended[1]}, and so does this one",
            file=sys.stderr,
        )
        for child in self.procs:
            child.kill()
        os._exit(75)


_LOOK_EVERY, _LEFT_TO_END = 0.5, 60.0  # seconds
