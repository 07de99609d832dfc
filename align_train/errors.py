"""The errors that are the user's to mend.

Everything that a user can get wrong (a key, a path, a shard, a split) is raised as `UserError` with one line: what was
found, where, what to do. The commands print that line and exit with its status. Any other exception is a defect of ours and
keeps its stack trace.
"""


class UserError(ValueError):
    """Bad input, told in one line: the key or file, what was found, what was expected, what to do."""

    status = 2


class UnreadableImage(UserError):
    """One that is to be evaluated on; the run whose evaluation it is has done nothing wrong."""


class Stopped(UserError):
    """A signal ended the run between two steps, and nothing is lost. The status is the shell's for that signal."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal


class Lost(UserError):
    """The run cannot go on here through no fault of its settings: a process or machine is lost. Started again, it goes on from
    its last checkpoint. The status is sysexits' EX_TEMPFAIL, or that of the process that ended first."""

    status = 75

    def __init__(self, message: str, *, status: int = 75) -> None:
        super().__init__(message)
        self.status = status
