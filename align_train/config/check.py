"""Rules across the settings of a run. Pure: they read settings, and change nothing.

Rules that need no class come first, so that most mistakes end a command before torch is imported.
Then each component is checked against its class, and rules ask the classes for what they need.
"""

from __future__ import annotations

from align_train.config.components import check_component
from align_train.config.evaluators import check_evaluators
from align_train.config.keeping import check_keep_best, check_keeping
from align_train.config.lengths import check_length
from align_train.config.lock import check_lock
from align_train.config.loggers import check_loggers
from align_train.config.numbers import check_numbers
from align_train.config.rates import check_rates
from align_train.config.schedule import check_schedule
from align_train.config.schema import PRECISIONS, TrainSettings
from align_train.config.split import check_split
from align_train.config.strategy import check_strategy
from align_train.config.task import check_task, check_vocabulary
from align_train.config.tuning import check_tuning
from align_train.errors import UserError, shown
from align_train.shards.caption import is_unicode

_COMPONENTS = ("data", "model", "loss", "optimizer", "scheduler", "strategy", "logger")

# Numbers of which 0 makes no sense.
_FROM_ONE = (
    "batch_size",
    "norm_group",
    "max_steps",
    "max_pairs",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
)

# Settings of the data that are always those of the run.
_OF_RUN = ("seed", "batch_size")

_MOST = 1e9  # a larger number is a mistake


def check_root(settings: TrainSettings) -> None:
    """Checks the run's own settings and numbers; needs no class, and so no torch.

    Args:
        settings: Composed and typed; trained models and towers may not be spelled out yet.

    Raises:
        UserError: As `check`.
    """
    # Bounds first: the rules on splits divide by these numbers.
    _check_root(settings)
    check_keeping(settings)
    _check_trainer(settings)
    _check_accept(settings)
    _check_data_numbers(settings)
    check_split(settings)
    check_tuning(settings)
    check_schedule(settings)
    check_rates(settings)
    for key in _COMPONENTS:
        check_numbers(getattr(settings, key), key)


def check(settings: TrainSettings) -> None:
    """Checks the settings of a run.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: One line with the key, what was found, what was expected, and what to do.
    """
    check_root(settings)
    check_vocabulary(settings)

    # From here on classes are imported.
    check_task(settings)
    check_lock(settings.model)
    for key in _COMPONENTS:
        check_component(getattr(settings, key), key)
    check_strategy(settings)
    check_evaluators(settings.eval)
    check_keep_best(settings)
    check_loggers(settings.logger)


def _check_root(settings: TrainSettings) -> None:
    """Bounds of the root's own values."""
    # A slash would lead out of `output_dir`; a dot at the front hides the folder, or is `..`.
    name = settings.name
    if not name or "/" in name or name.startswith(".") or not is_unicode(name):
        raise UserError(
            f"name={name!r}: expected a plain folder name; the run is written to output_dir/name"
        )
    check_length(settings)

    for key in _FROM_ONE:
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: expected at least 1")
    _check_auto(settings)
    if settings.max_skipped_steps < 0:
        raise UserError(f"max_skipped_steps={settings.max_skipped_steps}: expected at least 0")
    if settings.evaluate_every < 0:
        raise UserError(
            f"evaluate_every={settings.evaluate_every}: expected an integer, at least 0"
        )
    # `not >` refuses NaN too.
    if settings.clip is not None and not settings.clip > 0:
        raise UserError(f"clip={settings.clip}: expected a gradient norm above 0, or null")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"seed={settings.seed}: expected 0 or more, below 2^63")

    if settings.precision not in PRECISIONS:
        why = ""
        if "16" in settings.precision:
            why = "; fp16 would want a loss scaler, bf16 has float32's range and wants none"
        expected = ", ".join(PRECISIONS)
        raise UserError(f"precision={settings.precision}: expected one of {expected}{why}")


def _check_auto(settings: TrainSettings) -> None:
    """The settings that the run can choose by itself: a value, or the text `auto`."""
    chunk = settings.chunk_size
    if chunk != "auto" and (not isinstance(chunk, int) or chunk < 1):
        raise UserError(f"chunk_size={chunk}: expected a number of pairs, at least 1, or auto")

    for key in ("recompute", "compile"):
        value = getattr(settings, key)
        if value != "auto" and not isinstance(value, bool):
            raise UserError(f"{key}={value}: expected true, false or auto")


def _check_trainer(settings: TrainSettings) -> None:
    """Bounds of the processes, and of how long they wait for each other."""
    trainer = settings.trainer
    if trainer.accelerator not in ("cpu", "gpu"):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: expected cpu or gpu")
    for key in ("devices", "nodes"):
        value = getattr(trainer, key)
        if value < 1:
            raise UserError(f"trainer.{key}={value}: expected at least 1")

    limits = {
        "trainer.timeout": trainer.timeout,
        "trainer.silence": trainer.silence,
        "trainer.peak_tflops": trainer.peak_tflops,
        "keep_before_spike": settings.keep_before_spike,
    }
    for key, limit in limits.items():
        # `not <` refuses NaN too.
        if limit is not None and not 0 < limit < _MOST:
            raise UserError(f"{key}={limit:g}: expected more than 0, and a finite number")

    # A shard that does not arrive must stop the run before the ranks that wait for its rank do.
    patience = (settings.data.get("staging") or {}).get("patience")
    if isinstance(patience, int | float) and trainer.timeout <= patience:
        raise UserError(
            f"trainer.timeout={trainer.timeout:g}: expected more than "
            f"data.staging.patience={patience:g}: a rank may wait that long for a shard, "
            f"and the others for the rank"
        )


def _check_accept(settings: TrainSettings) -> None:
    # Here: what a room below imports later must not slow down every command's start.
    from align_train.stream.recipe import ACCEPTABLE

    for key in settings.accept:
        if key not in ACCEPTABLE:
            raise UserError(f"accept=[{key}]: expected some of {', '.join(ACCEPTABLE)}")


def _check_data_numbers(settings: TrainSettings) -> None:
    """Bounds of numbers that would otherwise fail deep inside, or never end."""
    # `data.seed=1` would give an order that the run's checkpoints do not know.
    for key in _OF_RUN:
        found = settings.data.get(key)
        if found != getattr(settings, key):
            raise UserError(f"data.{key}={found}: is always the run's own; set {key}=… instead")

    # A user's own data module may lack these settings, so a missing one passes.
    for key, least in (("lanes", 1), ("window", 1), ("workers", 0)):
        value = settings.data.get(key, least)
        if not isinstance(value, int) or value < least:
            raise UserError(f"data.{key}={value}: expected an integer, at least {least}")

    weights = settings.data.get("caption_weights")
    if weights is not None and settings.data.get("caption") is None:
        raise UserError(
            f"data.caption_weights={shown(weights)}: data.caption is not set; give the list that "
            f"they weigh, 'data.caption=[…]'"
        )
