"""The config.json of a BERT checkpoint, in the words of `BertTower`'s settings."""

from __future__ import annotations

import json
from pathlib import Path

from align_train.errors import UserError, one_line, shown
from align_train.model.settings import Settings

# Settings of `BertTower` -> theirs.
BERT_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
}

# Of these our tower has no other values.
_FIXED = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12}


def read_bert_config(folder: Path, name: str) -> Settings:
    """Reads the configuration of a BERT checkpoint.

    Args:
        folder: The checkpoint.
        name: As the user named it, for errors.

    Returns:
        The settings by Hugging Face's names; all sizes and `vocab_size` are there.

    Raises:
        UserError: It is no BERT, or one that our tower cannot be.
    """
    file = folder / "config.json"
    source = f"text_tower.pretrained={name}"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error, 80)
        raise UserError(
            f"{source}: cannot be read as a BERT checkpoint (config.json: {reason})"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{source}: config.json holds no settings; expected a BERT checkpoint")

    for key, wanted in _FIXED.items():
        # A file may leave out Hugging Face's own defaults, and these values are those.
        if config.get(key, wanted) != wanted:
            raise UserError(
                f"{source}: {key} is {shown(config[key])}; our text tower can only be {wanted} "
                f"there"
            )
    for key in (*BERT_SIZES.values(), "vocab_size"):
        if not isinstance(config.get(key), int):
            raise UserError(
                f"{source}: config.json has no {key}, a whole number; expected a BERT checkpoint"
            )
    return config


def bert_sizes(config: Settings) -> dict[str, int]:
    """Returns the sizes of a checkpoint as settings of `BertTower`."""
    return {ours: config[theirs] for ours, theirs in BERT_SIZES.items()}
