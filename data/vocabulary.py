"""`python -m data.vocabulary source=… to=…`: a WordPiece or Unigram of a crawl's texts.

The result is a Hugging Face tokenizer. Texts are streamed twice, for the characters and for the
words; once for a Unigram. Memory therefore grows with the different words, not with the texts. The
same texts give the same bytes. The paper's vocabulary has 100,000 tokens, that of its multilingual
variant 250,000.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.field_marks import TEXTS, Paths
from align_train.errors import UserError, shown_names
from align_train.files import whole

from .packing.beside import check_place
from .packing.trainers import LEAST_COVERAGE, check_kind, train_vocabulary
from .tables.open import open_table
from .tables.paths import paths_of
from .tables.rows import NO_PYARROW, Asked

if TYPE_CHECKING:
    from align_train.stream.tokenizer import Tokenizer

_BATCH = 16384  # texts, so that the tokenizer's threads have work

# For the report: texts that are turned into tokens, and the paper's length.
_SOME = 4000
_MAX_TOKENS = 64


@dataclass
class VocabularySettings:
    """`conf/commands/vocabulary.yaml` explains each key and has the defaults."""

    source: Paths = field(metadata=TEXTS)
    to: str
    kind: str
    lower_case: bool
    size: int
    text: list[str]
    separator: str | None
    coverage: float
    every: int


def run(settings: VocabularySettings) -> None:
    """Trains the vocabulary and writes the tokenizer's folder."""
    to = Path(settings.to).expanduser()
    _check(settings, to)
    leave("nothing is saved, and the same command begins anew")

    # A WordPiece's trainer asks for the texts twice; each pass has a progress bar with its label.
    labels = ("counting characters", "counting words")
    some = _Some()
    passes = iter(labels if settings.kind == "wordpiece" else labels[1:])
    with whole(to) as aside:
        train_vocabulary(
            lambda: _batches(settings, label=next(passes), some=some.anew()),
            kind=settings.kind,
            size=settings.size,
            folder=aside,
            coverage=settings.coverage,
            lower_case=settings.lower_case,
        )

    leave(f"{to} is complete")
    tokenizer = _open(to)
    tokens = tokenizer.vocabulary_size
    print(f"{to}: {tokens:,} tokens; give it as data.tokenizer")
    print(_told(tokenizer, some.texts))
    # Few texts have fewer words than the vocabulary has room for.
    if tokens < settings.size:
        why = "every word of the texts is a token already"
        if settings.kind == "unigram":
            why = "the texts have no more parts of words that come twice"
        print(f"fewer than size={settings.size:,}: {why}")


def _check(settings: VocabularySettings, to: Path) -> None:
    check_place(settings.to, to)
    check_kind("kind", settings.kind)
    if settings.every < 1:
        raise UserError(f"every={settings.every}: expected at least 1")
    if not 0 < settings.coverage <= 1:
        raise UserError(f"coverage={settings.coverage}: expected a share above 0, at most 1")
    if settings.kind == "unigram" and settings.coverage < LEAST_COVERAGE:
        raise UserError(
            f"coverage={settings.coverage}: for kind=unigram expected {LEAST_COVERAGE} to 1"
        )


def _open(folder: Path) -> Tokenizer:
    from align_train.stream.tokenizer import Tokenizer

    return Tokenizer(str(folder), max_tokens=_MAX_TOKENS)


def _told(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """Says how the tokenizer does on some of the texts."""
    counted = tokenizer.count(texts)
    unknown = counted.unknown / max(counted.tokens, 1)
    return (
        f"of {counted.texts:,} texts from begin to end {unknown:.2%} of the tokens are unknown, "
        f"{counted.tokens / max(counted.texts, 1):.1f} tokens a text, "
        f"{counted.cut / max(counted.texts, 1):.1%} longer than {_MAX_TOKENS}"
    )


class _Some:
    """Keeps some of many texts, as many from each part of them: one in every so many."""

    def __init__(self) -> None:
        self.anew()

    def anew(self) -> _Some:
        """Forgets all texts, before the next pass through them."""
        self.texts: list[str] = []
        self._every = 1
        self._seen = 0
        return self

    def offer(self, texts: Sequence[str]) -> None:
        """Looks at the next texts."""
        # Every so many of all texts, wherever these begin among them.
        self.texts += texts[-self._seen % self._every :: self._every]
        self._seen += len(texts)
        while len(self.texts) > _SOME:
            # Every second one goes, so that the others still stand for all parts alike.
            self.texts = self.texts[::2]
            self._every *= 2


def _batches(settings: VocabularySettings, *, label: str, some: _Some) -> Iterator[list[str]]:
    """Yields all texts in large batches, under a progress bar with that label.

    Args:
        settings: Those of the command.
        label: Of the bar.
        some: Keeps some of the texts.

    Raises:
        UserError: The source has no texts.
    """
    has_texts = False
    batch: list[str] = []

    for texts in _texts(settings, label):
        has_texts = has_texts or bool(texts)
        batch += [text for text in texts if text]
        if len(batch) >= _BATCH:
            some.offer(batch)
            yield batch
            batch = []

    if batch:
        some.offer(batch)
        yield batch
    elif not has_texts:
        raise UserError(f"source={settings.source}: no texts there")


def _texts(settings: VocabularySettings, label: str) -> Iterator[list[str]]:
    """Opens the source; tables that people write by hand do without pyarrow."""
    sources = paths_of(settings.source, "source")
    suffixes = {Path(source).suffix.lower() for source in sources}
    if suffixes <= {".tsv", ".csv"}:
        return _texts_of_tables(sources, settings, label)
    return _texts_of_parquet(sources, settings, label)


def _texts_of_tables(
    sources: Sequence[str], settings: VocabularySettings, label: str
) -> Iterator[list[str]]:
    columns = settings.text or ["text"]
    for source in sources:
        table = Path(source).expanduser()
        if not table.is_file():
            raise UserError(f"source={source}: no such table")

        rows = open_table(table).rows(Asked(columns))
        for index, row in enumerate(tqdm(rows, desc=label, unit="row", unit_scale=True)):
            if index % settings.every == 0:
                cells = itertools.chain.from_iterable(row.texts.values())
                yield _parts((text for text in cells if isinstance(text, str)), settings)


def _texts_of_parquet(
    sources: Sequence[str], settings: VocabularySettings, label: str
) -> Iterator[list[str]]:
    try:
        from .tables.batches import batches
        from .tables.find import find
    except ImportError:
        raise UserError(NO_PYARROW) from None

    tables = find(sources)
    chosen: list[str | None] = [*settings.text] or [None]
    columns: list[str] = []
    for name in chosen:
        column = tables.column("text", name, "text=[…]")
        if column is None:
            raise UserError(
                f"text=[] and no column has a usual name: {tables.files[0]} has "
                f"{shown_names(tables.types)}; set text=[…]"
            )
        columns.append(column[0])

    with tqdm(total=sum(tables.rows), desc=label, unit="row", unit_scale=True) as bar:
        for file in tables.files:
            start = 0
            for rows in batches(file, columns):
                # Every so many rows of the file, wherever a batch of it begins.
                first = -start % settings.every
                for column_name in columns:
                    cells = rows.column(column_name).to_pylist()[first :: settings.every]
                    yield _parts((text for text in cells if text), settings)
                start += len(rows)
                bar.update(len(rows))


def _parts(cells: Iterable[str], settings: VocabularySettings) -> list[str]:
    """Splits the cells at the separator, if the settings have one."""
    if not settings.separator:
        return list(cells)

    parts: list[str] = []
    for text in cells:
        parts += text.split(settings.separator)
    return parts


if __name__ == "__main__":
    command(run, config_name="vocabulary", schema=VocabularySettings)
