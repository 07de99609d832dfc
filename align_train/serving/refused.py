"""A request that is not answered: one line for whoever asked, and its HTTP status."""

from __future__ import annotations

from align_train.errors import UserError


class Refused(UserError):
    """A request is wrong, too large, or comes at a bad time.

    Attributes:
        code: The HTTP status.
    """

    def __init__(self, message: str, *, code: int = 422) -> None:
        """Takes the line.

        Args:
            message: What was found, what was expected; it begins with the item, `images[3]: …`.
            code: The HTTP status.
        """
        super().__init__(message)
        self.code = code


class Busy(Refused):
    """The server has too much to do, or cannot answer now: the same request may succeed later."""

    def __init__(self, message: str) -> None:
        """Takes the line.

        Args:
            message: As of `Refused`.
        """
        super().__init__(message, code=503)
