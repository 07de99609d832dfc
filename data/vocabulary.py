"""`python -m data.vocabulary source=… to=…`: a lower-casing WordPiece of a crawl's texts, as a Hugging Face tokenizer.

Texts are streamed twice, for the characters and for the words, so memory grows with the different words, not with the texts;
the same texts give the same bytes. The paper's vocabulary has 100,000 tokens, that of its multilingual variant 250,000.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from align_train.config.compose import command
from align_train.config.schema import MISSING
from align_train.errors import UserError
from align_train.stream.wordpiece import train_tokenizer
from data.tables.rows import cell, places, rows_of_table

_BATCH = 16384


@dataclass
class VocabularyConfig:
    """`conf/commands/vocabulary.yaml` says what each key is for."""

    source: Any = MISSING
    to: str = MISSING
    size: int = 100_000
    text: list[str] = field(default_factory=list)
    separator: str | None = None
    coverage: float = 1.0
    every: int = 1


ConfigStore.instance().store(name="vocabulary_schema", node=VocabularyConfig)


def run(config: DictConfig) -> None:
    settings: VocabularyConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    to = Path(settings.to).expanduser()
    if to.exists():
        raise UserError(f"to={settings.to} exists; remove it or choose another folder")
    if settings.every < 1:
        raise UserError(f"every={settings.every}: expected at least 1")
    if not 0 < settings.coverage <= 1:
        raise UserError(f"coverage={settings.coverage}: expected a share above 0, at most 1")
    passes = iter(("counting characters", "counting words"))
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        train_tokenizer(
            lambda: _batches(settings, next(passes)),
            size=settings.size,
            folder=aside,
            coverage=settings.coverage,
        )
        aside.rename(to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    tokens = _tokens(to)
    print(f"{to}: {tokens:,} tokens; give it as data.tokenizer")
    if tokens < settings.size:
        print(f"fewer than size={settings.size:,}: every word of the texts is a token already")


def _tokens(folder: Path) -> int:
    from align_train.stream.tokenizer import Tokenizer

    return Tokenizer(str(folder), max_tokens=64).vocabulary_size


def _batches(settings: VocabularyConfig, what: str) -> Iterator[list[str]]:
    """Texts of the source, `_BATCH` at a time, with a progress bar; UserError where there are none."""
    seen, batch = 0, list[str]()
    for texts in _texts(settings, what):
        seen += len(texts)
        batch += [text for text in texts if text]
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
    elif not seen:
        raise UserError(f"source={settings.source}: no texts there")


def _texts(settings: VocabularyConfig, what: str) -> Iterator[list[str]]:
    sources = places(settings.source, "source")
    if all(Path(source).suffix.lower() in (".tsv", ".csv") for source in sources):
        for source in sources:
            table = Path(source).expanduser()
            if not table.is_file():
                raise UserError(f"source={source}: no such table")
            for number, row in enumerate(
                tqdm(rows_of_table(table), desc=what, unit="row", unit_scale=True)
            ):
                if number % settings.every == 0:
                    yield [
                        part
                        for column in settings.text or ["text"]
                        for part in _split(cell(row, column, table), settings)
                    ]
        return
    try:
        from data.tables.find import batches, find
    except ImportError:
        raise UserError(
            "reading parquet needs pyarrow: pip install 'align_train[prepare]'"
        ) from None
    tables = find(sources)
    columns = []
    named: list[str | None] = [*settings.text] or [None]
    for called in named:
        found = tables.column("text", called, "text=[…]")
        if found is None:
            raise UserError(
                f"text=[] and no column has a usual name: {tables.files[0]} has {', '.join(tables.types)}; set text=[…]"
            )
        columns.append(found[0])
    with tqdm(total=sum(tables.rows), desc=what, unit="row", unit_scale=True) as bar:
        for file in tables.files:
            start = 0
            for rows in batches(file, columns):
                first = -start % settings.every
                for column in columns:
                    cells = rows.column(column).to_pylist()[first :: settings.every]
                    yield [part for text in cells if text for part in _split(text, settings)]
                start += len(rows)
                bar.update(len(rows))


def _split(text: str, settings: VocabularyConfig) -> list[str]:
    return text.split(settings.separator) if settings.separator else [text]


if __name__ == "__main__":
    command(run, config_name="vocabulary")
