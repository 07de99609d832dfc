"""What a plan knows of the data: from its files if they are there, else from settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from align_train.config.plan_schema import PlanSettings
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.remote import is_url
from align_train.stream.tokenizer import Tokenizer
from align_train.stream.tokenizer_folder import has_tokenizer

BERT_WORDS = 30_522
"""Words of BERT's uncased English tokenizer, and so rows of its embedding."""


@dataclass(frozen=True)
class DataFacts:
    """What a plan reckons with.

    Attributes:
        pairs: Pairs of an epoch; None: not known.
        shards: Shards; None: not known.
        bytes_per_pair: Bytes of a pair in its shard; None: not known.
        vocabulary: Words of the tokenizer; of a classifier 0.
        tokens: Tokens of a text, padding included.
        notes: Lines that say what was assumed, and what is left out.
    """

    pairs: int | None
    shards: int | None
    bytes_per_pair: float | None
    vocabulary: int
    tokens: int
    notes: tuple[str, ...]


def data_facts(settings: PlanSettings) -> DataFacts:
    """Finds out what there is to know of the data without fetching any.

    Args:
        settings: Composed and typed, with a tokenizer unless there are classes.

    Raises:
        UserError: A manifest or tokenizer is there and cannot be read.
    """
    notes: list[str] = []
    manifest = _manifest(settings)
    pairs, shards, size = settings.pairs, settings.shards, settings.bytes_per_pair
    if manifest is not None:
        # A setting wins: a plan may be for more data than lies here.
        pairs = pairs or manifest.pairs
        shards = shards or len(manifest.shards)
        size = size or _bytes_per_pair(manifest)

    known = {"pairs": pairs, "shards": shards, "bytes_per_pair": size}
    absent = [key for key, value in known.items() if value is None]
    if absent:
        where = settings.data.get("shards")
        why = "data.shards is not set" if where is None else f"no manifest to read at {where}"
        keys = " ".join(f"{key}=…" for key in absent)
        notes.append(f"{why}: give {keys} for what epochs, network and cache need")

    tokens = settings.tokens or settings.data.get("max_tokens") or 0
    return DataFacts(pairs, shards, size, _vocabulary(settings, notes), tokens, tuple(notes))


def _manifest(settings: PlanSettings) -> Manifest | None:
    """The manifest of local shards; None: it is elsewhere, or there is none."""
    shards = settings.data.get("shards")
    if not isinstance(shards, str) or is_url(shards):
        return None
    path = Path(shards).expanduser()
    file = path / MANIFEST_NAME if path.is_dir() else path
    # A tar does not say how many pairs it has until all of it is read.
    if not file.is_file() or file.suffix.lower() == ".tar":
        return None
    return read_manifest(str(file), cache=ShardCache())


def _bytes_per_pair(manifest: Manifest) -> float | None:
    return manifest.bytes / manifest.pairs if manifest.pairs else None


def _vocabulary(settings: PlanSettings, notes: list[str]) -> int:
    """The words of the tokenizer, by a setting, by its files, or BERT's."""
    if settings.data.get("classes") is not None:
        return 0
    given = settings.vocabulary or settings.model.get("vocabulary_size")
    if isinstance(given, int):
        return given

    name = str(settings.data.get("tokenizer"))
    if (files := _tokenizer_files(name)) is not None:
        return Tokenizer(
            str(files), max_tokens=settings.data.get("max_tokens") or 64
        ).vocabulary_size
    notes.append(f"the tokenizer {name} is not here: planned with BERT's {BERT_WORDS:,} words")
    return BERT_WORDS


def _tokenizer_files(name: str) -> Path | None:
    """Where a tokenizer lies on this machine: a path, or what the hub's cache has."""
    local = Path(name).expanduser()
    if local.is_file() or (local.is_dir() and has_tokenizer(local)):
        return local
    try:
        # This asks no server: a plan fetches nothing, and works offline.
        cached = try_to_load_from_cache(name, "tokenizer.json")
    except (HFValidationError, UserError):
        return None  # a path, and no name on the hub
    return Path(cached) if isinstance(cached, str) else None
