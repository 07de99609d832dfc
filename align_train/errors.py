"""The one error that is the user's to mend.

Everything that a user can get wrong (a key, a path, a shard, a split) is raised as `UserError` with one line: what was
found, where, what to do. The commands print that line and exit with 2. Any other exception is a defect of ours and keeps
its stack trace.
"""


class UserError(ValueError):
    """Bad input, told in one line: the key or file, what was found, what was expected, what to do."""
