"""Rules of the settings that say which checkpoints are kept, and when a run ends early."""

from __future__ import annotations

from align_train.config.metrics import check_metric
from align_train.config.schema import TrainSettings
from align_train.errors import UserError, shown

_MOST_MINUTES = 1e6  # a larger number is a mistake


def check_keeping(settings: TrainSettings) -> None:
    """Checks what needs no class, and so no torch.

    Args:
        settings: The run's settings.

    Raises:
        UserError: One of these settings is wrong, or nothing comes of it.
    """
    minutes = settings.checkpoint_minutes
    # `not <` refuses NaN too.
    if minutes is not None and not 0 < minutes < _MOST_MINUTES:
        raise UserError(
            f"checkpoint_minutes={minutes:g}: expected more than 0, and a finite number, or null"
        )

    metric = settings.keep_best
    if settings.best_is not in (None, "higher", "lower"):
        raise UserError(f"best_is={shown(settings.best_is)}: expected higher or lower, or null")
    patience = settings.stop_patience
    if patience is not None and patience < 1:
        raise UserError(f"stop_patience={patience}: expected at least 1 evaluation, or null")
    # Without a metric these two would do nothing, and nobody would notice.
    for key in ("best_is", "stop_patience"):
        if getattr(settings, key) is not None and metric is None:
            raise UserError(
                f"{key}={getattr(settings, key)}: keep_best is not set; give the metric, e.g. "
                f"keep_best=retrieval/image_to_text/recall@1"
            )
    if metric is not None and not settings.evaluate_every:
        raise UserError(
            f"keep_best={shown(metric)}: evaluate_every=0 evaluates the last step alone, so that "
            f"there is nothing to compare; give evaluate_every=…, e.g. {settings.checkpoint_every}"
        )


def check_keep_best(settings: TrainSettings) -> None:
    """Refuses a metric that no evaluation of the run will give.

    Args:
        settings: Settings whose evaluators are checked.

    Raises:
        UserError: No such metric, and perhaps which one was meant.
    """
    if settings.keep_best is not None:
        check_metric(settings.keep_best, settings, key="keep_best", columns=())
