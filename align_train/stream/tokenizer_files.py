"""Opens a tokenizer of Hugging Face's: a folder, a file, or a name on the hub.

`transformers.AutoTokenizer` reads it, so that the ids are its ids: whatever the folder's files say
of special tokens and cases counts. Two folders need less, and the import of that class costs more
than a second: one that names no class of its own, as ours, and a tokenizer.json alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from align_train.cluster.sharing import from_first
from align_train.errors import UserError, one_line
from align_train.stream.special_tokens import NAMES
from align_train.stream.tokenizer_folder import refuse_absent_tokenizer

# What a tokenizer.json does not say, beside the names of special tokens.
_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "split_special_tokens",
    "model_input_names",
    "extra_special_tokens",
    "clean_up_tokenization_spaces",
)

_LIBRARY = "sentencepiece"

# Classes that take tokenizer.json as it is.
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")


def open_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """Opens a tokenizer. Collective if it comes from the hub.

    Args:
        path: A folder, a tokenizer.json, or a name on the hub.

    Raises:
        UserError: There is no tokenizer, it cannot be read, or it has no fast form.
    """
    refuse_absent_tokenizer(path)
    local = Path(path).expanduser()
    if not local.exists():
        content = from_first(f"tokenizer {path}", lambda: _ask_hub(path))
        return _made(TokenizersTokenizer.from_str(content["tokenizer"]), content["settings"])

    try:
        return _local(local)
    except UserError:
        raise
    # Many kinds, of several libraries, for a file that is torn or not a tokenizer.
    except Exception as error:
        reason = one_line(error, 160)
        raise UserError(f"data.tokenizer={path}: {local} is not a tokenizer ({reason})") from None


def settings_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Returns all that a tokenizer has beside tokenizer.json, to make an equal one of both."""
    settings = {name: getattr(tokenizer, name) for name in _SETTINGS}
    return settings | {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def _made(tokenizer: TokenizersTokenizer, settings: dict[str, object]) -> PreTrainedTokenizerFast:
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, **settings)


def _local(path: Path) -> PreTrainedTokenizerFast:
    if path.is_file():
        return _alone(path)

    settings = path / "tokenizer_config.json"
    named = settings.is_file() or (path / "config.json").is_file()
    if not named:
        if (path / "tokenizer.json").is_file():
            return _alone(path / "tokenizer.json")
        if (path / "vocab.txt").is_file():
            return _fast(BertTokenizer.from_pretrained(path), path)

    file = path / "tokenizer.json"
    if not file.is_file() and any(path.glob("*.model")) and find_spec(_LIBRARY) is None:
        raise UserError(
            f"data.tokenizer={path}: a SentencePiece model without tokenizer.json needs the "
            f"library {_LIBRARY}; pip install 'align_train[{_LIBRARY}]'"
        )
    if settings.is_file() and file.is_file():
        content = json.loads(settings.read_text(encoding="utf-8"))
        if content.get("tokenizer_class") in _GENERIC and "auto_map" not in content:
            kind = PreTrainedTokenizerFast
            return _fast(kind.from_pretrained(path), path)
    return _automatic(str(path), local=True)


def _alone(file: Path) -> PreTrainedTokenizerFast:
    """A tokenizer.json, which does not say what its special tokens are for."""
    tokenizer = TokenizersTokenizer.from_file(str(file))
    # BERT's names speak for themselves; others do not: "<s>" begins a text, or a sequence.
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return _made(tokenizer, {name: token for name, token in NAMES.items() if token in known})


def _automatic(path: str, *, local: bool) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    kind = AutoTokenizer
    # Or it would ask on the terminal whether a folder's own code may run.
    opened = kind.from_pretrained(path, trust_remote_code=False, local_files_only=local)
    return _fast(opened, path)


def _fast(tokenizer: object, path: str | Path) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"data.tokenizer={path}: {type(tokenizer).__name__} has no fast form "
            f"(tokenizer.json); expected one that the library tokenizers can run"
        )
    return tokenizer


def _ask_hub(name: str) -> dict[str, Any]:
    try:
        opened = _automatic(name, local=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"data.tokenizer={name}: neither a folder with tokenizer.json here nor to be had from "
            f"the Hugging Face hub ({one_line(error, 120)}); without a network, give a folder: "
            f"align-train pack vocabulary=30000 and align-train vocabulary make one"
        ) from None
    return {"tokenizer": opened.backend_tokenizer.to_str(), "settings": settings_of(opened)}
