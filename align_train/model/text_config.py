"""The configuration of a text encoder of Hugging Face's, spelled out: all that its network needs.

Of a model with two towers (CLIP, SigLIP) it is that of the text tower. What speaks of heads, labels
and versions is left out.
"""

from __future__ import annotations

import logging as levels
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from align_train.errors import UserError, did_you_mean, one_line, shown
from align_train.model.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Settings of libraries and heads, which build no part of an encoder.
_LEFT_OUT = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)

_KIND = "model_type"
_PAD = "pad_token_id"

# Other tokens, which encoders do not read; but CLIP's network looks for its end token.
_SPECIAL = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
CLIP = "clip_text_model"
SIGLIP = "siglip_text_model"

# What `pooling` is, unless the settings say so: the part that a kind of network was made for.
_POOLINGS = {
    CLIP: "pooler",  # the state of the end token
    SIGLIP: "pooler",  # of the last one, and a layer
    "t5": "mean",
    "mt5": "mean",
    "umt5": "mean",
}


def read_text_config(folder: Path, name: str) -> Settings:
    """Reads the configuration of a text encoder.

    Args:
        folder: With its `config.json`.
        name: As the user named it, for errors.

    Returns:
        Settings by Hugging Face's names; `model_type` says the kind.

    Raises:
        UserError: There is none, or it is none of a text encoder.
    """
    from transformers import AutoConfig

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # their validation has many kinds of errors
        reason = one_line(error, 160)
        raise UserError(f"{source(name)}: no configuration that can be read ({reason})") from None

    spelled: Settings = getattr(config, "text_config", config).to_diff_dict()
    config_of(spelled, name)
    return {key: value for key, value in spelled.items() if key not in _LEFT_OUT}


def with_changes(settings: Settings, changes: Settings, name: str) -> Settings:
    """Changes a configuration; refuses settings that nobody would read.

    Args:
        settings: As `read_text_config` gives them.
        changes: The user's, by Hugging Face's names.
        name: As the user named the encoder, for errors.

    Raises:
        UserError: That kind of network has no setting of that name.
    """
    config = config_of(settings, name)
    # Hugging Face's classes keep any name. Some know a setting by two (`attribute_map`).
    known = {*config.to_dict(), *config.attribute_map, _PAD, *_SPECIAL}
    for key in changes:
        if key in known:
            continue
        fix = did_you_mean(key, known) or f"; see the config.json of {name}"
        raise UserError(
            f"model.text_tower.config.{key}: {config.model_type} has no such setting{fix}"
        )
    return {**settings, **changes}


def config_of(settings: Settings, name: str) -> PreTrainedConfig:
    """Makes Hugging Face's object of a configuration.

    Args:
        settings: As `read_text_config` gives them.
        name: As the user named it, for errors.

    Raises:
        UserError: There is no text encoder of that kind, or it does not take these values.
    """
    from transformers import AutoConfig

    values = dict(settings)
    kind = values.pop(_KIND, None)
    try:
        with quiet():
            config = AutoConfig.for_model(kind, **values)
    except Exception as error:  # of their strict dataclasses, and of values that fit no class
        reason = one_line(error, 160)
        raise UserError(f"{source(name)}: model_type {shown(kind)}: {reason}") from None

    network_class(config, name)
    config.use_cache = False  # of networks that can also decode
    return config


def network_class(config: PreTrainedConfig, name: str) -> type[PreTrainedModel]:
    """Finds the class of a text encoder.

    Args:
        config: Its configuration.
        name: As the user named it, for errors.

    Raises:
        UserError: The kind is none of a text encoder.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, SiglipTextModel

    if config.model_type == SIGLIP:
        return SiglipTextModel  # their tables have the model with two towers only
    # The first has the encoders of networks that also decode (T5).
    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            found: Any = mapping[type(config)]
            kind: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
            return kind
    raise UserError(
        f"{source(name)}: model_type is {shown(config.model_type)}; expected a text encoder that "
        f"transformers has, e.g. bert, xlm-roberta or modernbert"
    )


def for_vocabulary(settings: Settings, vocabulary_size: int, pad_id: int | None) -> Settings:
    """Gives a configuration another number of tokens, and a padding token among them.

    Args:
        settings: As `read_text_config` gives them.
        vocabulary_size: How many tokens the tokenizer knows.
        pad_id: The padding token. None: the configuration's own if it has the same tokens, else 0.

    Raises:
        UserError: The padding token is none of these tokens.
    """
    if pad_id is not None and not _is_token(pad_id, vocabulary_size):
        raise UserError(
            f"model.text_tower.pad_id={pad_id}: expected a token, 0 to {vocabulary_size - 1}, or "
            f"null: the network's own"
        )
    changed = {**settings, "vocab_size": vocabulary_size}
    own = settings.get(_PAD)
    is_its_own = settings.get("vocab_size") == vocabulary_size
    if pad_id is None:
        pad_id = own if is_its_own and _is_token(own, vocabulary_size) else 0
    changed[_PAD] = pad_id

    for key in _SPECIAL:
        if settings.get(_KIND) != CLIP and not _is_token(settings.get(key), vocabulary_size):
            changed.pop(key, None)
    return changed


def _is_token(token: object, vocabulary_size: int) -> bool:
    return isinstance(token, int) and 0 <= token < vocabulary_size


def usual_pooling(settings: Settings) -> str:
    """Says which part of its result a kind of network was made for."""
    return _POOLINGS.get(str(settings.get(_KIND)), "first")


def attended_length(settings: Settings) -> int | None:
    """Says to how many tokens rows must be padded for a network that sees padding; None: none.

    SigLIP was trained with rows of one length and no mask.
    """
    if settings.get(_KIND) != SIGLIP:
        return None
    return int(settings["max_position_embeddings"])


def source(name: str) -> str:
    """What errors about an encoder begin with."""
    return f"model.text_tower.name={name}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Hugging Face's library from reporting heads that are left behind, and progress."""
    library: Any = logging
    verbosity = library.get_verbosity()
    had_bar = library.is_progress_bar_enabled()
    library.set_verbosity(levels.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if had_bar:
            library.enable_progress_bar()
