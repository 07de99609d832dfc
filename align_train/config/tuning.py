"""Rules of a teacher and of adapters. Pure, and without a class."""

from __future__ import annotations

from align_train.config.schema import TrainSettings
from align_train.errors import UserError, shown

_LONGEST = 4096  # a rank beyond it is no low one


def check_tuning(settings: TrainSettings) -> None:
    """Checks `distillation.*` and `lora.*`.

    Args:
        settings: Composed and typed.

    Raises:
        UserError: One line with the key, what was found, what was expected, and what to do.
    """
    _check_distillation(settings)
    _check_lora(settings)


def _check_distillation(settings: TrainSettings) -> None:
    given = settings.distillation
    if not 0 < given.weight <= 1:
        raise UserError(
            f"distillation.weight={given.weight:g}: expected a share above 0, at most 1; without a "
            f"teacher set distillation.model=null"
        )
    # `not >` refuses NaN too.
    if given.temperature is not None and not 0 < given.temperature < 1000:
        raise UserError(
            f"distillation.temperature={given.temperature:g}: expected a number above 0, e.g. "
            f"0.05; null takes the teacher's own"
        )
    if given.model is not None and given.embeddings is not None:
        raise UserError(
            "distillation.model, distillation.embeddings: a live teacher or its stored "
            "embeddings, not both; set one of them to null"
        )
    if given.temperature is not None and not given.on:
        raise UserError(
            f"distillation.temperature={given.temperature:g}: the run has no teacher; set "
            f"distillation.model or distillation.embeddings"
        )
    if given.on and settings.data.get("classes") is not None:
        raise UserError(
            f"data.classes={settings.data['classes']}: a teacher says which images and texts are "
            f"alike, and a classifier has no texts; set distillation.model and "
            f"distillation.embeddings to null"
        )


def _is_random(settings: TrainSettings, tower: str) -> bool:
    """Whether one of our towers begins with random weights; of a user's own nobody knows."""
    node = settings.model.get(f"{tower}_tower") or {}
    ours = str(node.get("_target_", "")).startswith("align_train.")
    # A model at a path is not spelled out yet.
    elsewhere = settings.initial_weights is not None or "path" in settings.model
    return ours and not elsewhere and not node.get("pretrained")


def _check_lora(settings: TrainSettings) -> None:
    given = settings.lora
    for tower in ("image", "text"):
        rank = given.rank(tower)
        # Targets without a rank would do nothing, and nobody would notice.
        if rank is None:
            if targets := given.targets(tower):
                raise UserError(
                    f"lora.{tower}_targets={shown(targets)}: the {tower} tower has no adapters; "
                    f"set lora.{tower}, e.g. lora.{tower}=8"
                )
            continue
        if not 1 <= rank <= _LONGEST:
            raise UserError(f"lora.{tower}={rank}: expected a rank from 1, e.g. 8, or null")
        if _is_random(settings, tower):
            raise UserError(
                f"lora.{tower}={rank}: the {tower} tower's own weights would be random and "
                f"locked; begin with trained ones: initial_weights=…, model=huggingface or "
                f"model.{tower}_tower.pretrained=…"
            )
        lock = settings.model.get("lock") or []
        locks = lock if isinstance(lock, list) else [lock]
        if any(str(part).startswith(tower) for part in locks):
            raise UserError(
                f"lora.{tower}={rank}: model.lock={shown(lock)} locks parts of that tower as well; "
                f"take them out: adapters lock the tower's own weights anyway"
            )
    if not 0 < given.alpha < 1e6:
        raise UserError(f"lora.alpha={given.alpha:g}: expected a number above 0, e.g. 16")
    if not 0 <= given.dropout < 1:
        raise UserError(f"lora.dropout={given.dropout:g}: expected a share from 0, below 1")
    if given.text is not None and settings.data.get("classes") is not None:
        raise UserError(f"lora.text={given.text}: a classifier has no text tower; set it to null")
