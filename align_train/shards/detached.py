"""A function that may hang, in a detached thread: nobody has to wait for its end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class DetachedWork(Generic[Result]):
    """A call that has begun, and that may be left behind.

    A pool of `concurrent.futures` would not do: the interpreter joins its threads when it ends, and
    a thread that hangs would keep it from ending.
    """

    def __init__(self, function: Callable[[], Result], left_behind: Callable[[], None]) -> None:
        """Begins.

        Args:
            function: The work.
            left_behind: Cleans up if the work was given up, once its thread has ended after all.
        """
        self._function = function
        self._left_behind = left_behind
        self._given_up = False
        # One of the two threads cleans up, however close the work's end and `give_up` come.
        self._ending = Lock()
        self._results: list[Result] = []
        self._errors: list[BaseException] = []

        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        results: list[Result] = []
        errors: list[BaseException] = []
        try:
            results.append(self._function())
        except BaseException as error:  # of any kind: it belongs to the thread that waits
            errors.append(error)

        with self._ending:
            self._results, self._errors = results, errors
            if self._given_up:
                self._left_behind()

    def done(self, *, wait: float) -> bool:
        """Whether the function has ended.

        Args:
            wait: Seconds to wait for it.
        """
        self._thread.join(wait)
        return bool(self._results or self._errors)

    def give_up(self) -> None:
        """Leaves the thread behind."""
        with self._ending:
            self._given_up = True
            if self._results or self._errors:
                self._left_behind()

    def result(self) -> Result:
        """The function's result; raises its error."""
        if self._errors:
            raise self._errors[0]
        return self._results[0]
