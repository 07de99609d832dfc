"""The task of a run, texts or labels: model, loss and data must agree on it."""

from __future__ import annotations

from pathlib import Path

from align_train.config.components import has_true
from align_train.config.schema import Node, TrainSettings
from align_train.errors import UserError, printable

_OF_TEXTS = "align_train.model.DualEncoder"


def check_vocabulary(settings: TrainSettings) -> None:
    """Checks that our own model for texts has a tokenizer; needs no class, and so no torch.

    Args:
        settings: The run's settings.

    Raises:
        UserError: It has none. `check_task` asks the same of other models.
    """
    texts = settings.model.get("_target_") == _OF_TEXTS
    data = settings.data
    if texts and data.get("classes") is None and data.get("tokenizer") is None:
        raise _no_tokenizer(data)


def check_task(settings: TrainSettings) -> None:
    """Checks that model, loss and data are for one task, and that the model has a bias if needed.

    Args:
        settings: The run's settings.

    Raises:
        UserError: They do not go together.
    """
    _check_kind(settings)
    _check_bias(settings)


def _check_kind(settings: TrainSettings) -> None:
    """Images go with texts, or with labels."""
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
