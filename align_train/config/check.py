"""Rules across the settings of a run. Pure: they read settings, and change nothing.

Rules that need no class come first, so that most mistakes end a command before torch is imported.
Then each component is checked against its class, and rules ask the classes for what they need.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from align_train.config.components import build, check_component, find_target, has_true
from align_train.config.evaluators import check_evaluators
from align_train.config.keeping import check_keep_best, check_keeping
from align_train.config.lock import check_lock, check_lock_under
from align_train.config.loggers import check_loggers
from align_train.config.numbers import check_numbers
from align_train.config.optimizer import check_optimizer
from align_train.config.rates import check_rates
from align_train.config.schedule import check_schedule
from align_train.config.schema import LENGTHS, PRECISIONS, Node, TrainSettings
from align_train.config.split import check_split
from align_train.config.tuning import check_tuning
from align_train.errors import UserError, printable, shown
from align_train.shards.caption import is_unicode

if TYPE_CHECKING:
    from align_train.strategy.base import StrategyRecipe

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

_OF_TEXTS = "align_train.model.DualEncoder"

_LONG = 1e9  # seconds; a larger number is a mistake


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


def check_values(settings: TrainSettings) -> None:
    """Checks what needs no class, and so no torch: the first part of `check`.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: As `check`.
    """
    check_root(settings)
    _check_vocabulary(settings)


def check(settings: TrainSettings) -> None:
    """Checks the settings of a run.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: One line with the key, what was found, what was expected, and what to do.
    """
    check_values(settings)

    # From here on classes are imported.
    _check_task(settings)
    _check_bias(settings)
    check_lock(settings.model)
    for key in _COMPONENTS:
        check_component(getattr(settings, key), key)
    _check_strategy(settings)
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
    _check_length(settings)

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


def _check_length(settings: TrainSettings) -> None:
    """Exactly one setting says how long the run is."""
    given = [key for key in LENGTHS if getattr(settings, key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(
            f"{', '.join(LENGTHS)}: exactly one of them says how long the run is, here {found} "
            f"is set; set one, and the others to null"
        )

    epochs = settings.epochs
    if epochs is None:
        return
    # `not <` refuses NaN too.
    if not 0 < epochs < _LONG:
        raise UserError(f"epochs={epochs:g}: expected more than 0, e.g. 3 or 0.5")
    if settings.data.get("weights") is not None:
        raise UserError(
            f"epochs={epochs:g}: data.weights mixes sources that have epochs of their own; give "
            f"max_pairs=… or max_steps=… instead"
        )


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
        if limit is not None and not 0 < limit < _LONG:
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


def _check_vocabulary(settings: TrainSettings) -> None:
    """Our own model for texts wants a tokenizer; of others `_check_task` knows."""
    texts = settings.model.get("_target_") == _OF_TEXTS
    data = settings.data
    if texts and data.get("classes") is None and data.get("tokenizer") is None:
        raise _no_tokenizer(data)


def _no_tokenizer(data: Node) -> UserError:
    """Names the tokenizer beside the shards, which `data.pack` makes; else the possible kinds."""
    told = "…, a folder with tokenizer.json or a hub name"
    given = data.get("shards")
    first = given[0] if isinstance(given, list) and given else given
    shards = Path(str(first)).expanduser()
    for folder in (shards, shards.parent):
        if (folder / "tokenizer" / "tokenizer.json").is_file():
            told = f"{printable(str(folder / 'tokenizer'))}, which lies beside the shards"
            break
    return UserError(f"data.tokenizer is not set; give data.tokenizer={told}")


def _check_task(settings: TrainSettings) -> None:
    """Images go with texts, or with labels: model, loss and data must agree."""
    # A user's own classes say by the same attributes which kind they are.
    classifier = has_true(settings.model, "model", "takes_labels")
    loss = has_true(settings.loss, "loss", "needs_labels")
    classes = settings.data.get("classes")
    tokenizer = settings.data.get("tokenizer")

    if classes is not None and tokenizer is not None:
        raise UserError(
            "data.tokenizer, data.classes: texts or labels, not both; set one of them to null"
        )
    if classifier and loss and classes is None:
        raise UserError(
            "data.classes is not set; give data.classes=…, their number or a JSON file with names"
        )
    if len({classifier, loss, classes is not None}) > 1:
        raise UserError(
            f"model={'' if classifier else 'not '}classifier, "
            f"loss={'' if loss else 'not '}classification, data.classes={classes}: "
            f"these go together; experiment=linear_probe sets all but the last"
        )
    if classes is None and tokenizer is None:
        raise _no_tokenizer(settings.data)


def _check_bias(settings: TrainSettings) -> None:
    """The model has a bias if the loss needs one, and else has none."""
    needed = has_true(settings.loss, "loss", "needs_bias")
    bias = settings.model.get("bias")
    if needed == (bias is not None):
        return

    fix = "take loss=sigmoid, or model.bias=null"
    if needed:
        fix = "give one, as conf/loss/sigmoid.yaml does"
    raise UserError(
        f"model.bias={bias}: a bias goes with loss=sigmoid and other losses that need one; {fix}"
    )


def _check_strategy(settings: TrainSettings) -> None:
    """The strategy must be able to do what the run asks of it."""
    from align_train.strategy.base import StrategyRecipe

    # Lightning's own strategies do not write the whole tensors that every strategy can read.
    target = find_target(settings.strategy, "strategy")
    if not (inspect.isclass(target) and issubclass(target, StrategyRecipe)):
        name = settings.strategy["_target_"]
        old = "FSDP1 flattens parameters and is not supported; " if "FSDP" in name else ""
        raise UserError(
            f"strategy._target_={name}: {old}take strategy=ddp, fsdp (FSDP2) or deepspeed, "
            f"or a StrategyRecipe of your own"
        )

    strategy: StrategyRecipe = build(settings.strategy)
    if settings.max_skipped_steps and not strategy.can_skip_steps:
        raise UserError(
            f"max_skipped_steps={settings.max_skipped_steps}: {strategy.label} knows the "
            f"gradient's norm only after its step, too late to skip it; set it to 0, or take "
            f"strategy=fsdp"
        )
    check_optimizer(settings, strategy)
    check_lock_under(settings.model, strategy)
    _check_can_try(settings, strategy)
    if settings.compile is True and not strategy.can_compile:
        raise UserError(
            f"compile=true: {strategy.label} gathers weights within every block, which breaks it "
            f"up; take strategy.stage=2, or strategy=fsdp"
        )


def _check_can_try(settings: TrainSettings, strategy: StrategyRecipe) -> None:
    """Refuses `auto` where a process that finds no memory would leave the others hanging."""
    if strategy.can_try_chunks:
        return
    for key, value in (("chunk_size", settings.chunk_size), ("recompute", settings.recompute)):
        if value == "auto":
            raise UserError(
                f"{key}=auto: {strategy.label} gathers weights in every pass, so that no process "
                f"can try alone what fits; set both, e.g. chunk_size={settings.norm_group or 16} "
                f"recompute=true"
            )
