"""Rules of the schedule's settings that need no class."""

from __future__ import annotations

from align_train.config.schema import TrainSettings
from align_train.errors import UserError, shown

FROM = ("here", "start")
"""Values of `scheduler.from` beside null."""


def check_schedule(settings: TrainSettings) -> None:
    """Checks the settings of the schedule that the run reads itself.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: A value is not possible.
    """
    begins = settings.scheduler.get("from")
    if begins is not None and begins not in FROM:
        raise UserError(
            f"scheduler.from={shown(begins)}: expected null, here (the schedule begins anew when "
            f"a run goes on) or start (the curve of the whole run)"
        )

    # `scheduler.batch_size=1` would give lengths in pairs another meaning.
    batch_size = settings.scheduler.get("batch_size", settings.batch_size)
    if batch_size != settings.batch_size:
        raise UserError(
            f"scheduler.batch_size={shown(batch_size)}: is always the run's own; set "
            f"batch_size=… instead"
        )
