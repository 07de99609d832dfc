"""What the user sees at the end of `data.pack`: counts, some pairs, and how to go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from align_train.errors import printable, shown
from align_train.figures.sheets import contact_sheet, save_sheet
from align_train.shards.left_out import counted

from .left_out import FILE, LeftOutList
from .next_command import HUB_TOKENIZER, next_command
from .settings import HELD_OUT, TOKENIZER
from .write import Written

SHEET = "contact_sheet.png"

_PAIRS = 3
_CAPTIONS = 5  # of a pair that is shown
_LEAST_PAIRS = 2  # to train on

# Tokens of a vocabulary for so many different words are a matter of taste; this is BERT's number.
_VOCABULARY = 30_000


def draw_sheet(written: Written, folder: Path, *, name: str) -> None:
    """Draws some pairs, each image over its first caption, into a folder, under its later name."""
    sample = written.sample
    if sample.pairs:
        captions = [pair.texts[0] for pair in sample.pairs]
        title = f"{name}: some pairs, each image with its first text"
        save_sheet(contact_sheet(sample.pixels, captions, title=title), folder / SHEET)


def report(
    written: Written, to: Path, *, rows: int, notes: Sequence[str], left_out: LeftOutList
) -> Iterator[str]:
    """Says what was packed.

    Args:
        written: What was written.
        to: The folder of the shards.
        rows: The rows of the source.
        notes: Lines about its texts.
        left_out: What is in no pair.

    Yields:
        Lines.
    """
    counts = [len(texts) for texts in written.texts]
    yield (
        f"{to}: {counted(len(counts), 'pair')} with {counted(sum(counts), 'text')} in "
        f"{counted(written.shards, 'shard')}, of {counted(rows, 'row')}"
    )
    if written.held_out:
        pairs = counted(len(written.held_out), "pair")
        texts = counted(sum(map(len, written.held_out)), "text")
        yield f"{to / HELD_OUT}: {pairs} with {texts}, held out"
    if written.fewer():
        yield written.fewer()
    mean = sum(counts) / len(counts)
    yield f"captions of a pair: {min(counts)} to {max(counts)}, {mean:.1f} on average"
    yield from notes
    if left_out.total():
        yield f"left out: {left_out}; all of it in {to / FILE}"

    yield from _examples(written)
    if written.sample.pairs:
        yield f"{to / SHEET}: {len(written.sample.pairs)} of the pairs"
    yield from _how_to_go_on(written, to)


def _examples(written: Written) -> Iterator[str]:
    width = max(40, shutil.get_terminal_size((100, 40)).columns - 4)
    for pair in written.sample.pairs[:_PAIRS]:
        yield f"  {_in_one_line(pair.image.name, width)}"
        for text in pair.texts[:_CAPTIONS]:
            yield f"    {_in_one_line(text, width - 2)}"
        if len(pair.texts) > _CAPTIONS:
            yield f"    and {len(pair.texts) - _CAPTIONS} more"


def _in_one_line(text: str, width: int) -> str:
    """A caption or a name, of which no more is looked at than can be shown."""
    return shown(" ".join(text[: 4 * width].split()), width)


def _how_to_go_on(written: Written, to: Path) -> Iterator[str]:
    pairs = len(written.texts)
    if pairs < _LEAST_PAIRS:
        yield "one pair is too few to train on"
        return

    yield "next, train on them:"
    # A folder may have any name; the shell reads what the quotes hold as it is.
    yield f"  {printable(next_command(to, pairs=pairs, side=written.sample.side))}"
    if not written.held_out:
        yield "  (held_out=0.05 would pack some pairs apart, to evaluate the run on)"
    if not (to / TOKENIZER).is_dir():
        yield (
            f"  ({HUB_TOKENIZER} comes from the Hugging Face hub; with vocabulary={_VOCABULARY} "
            f"data.pack makes a vocabulary of these texts)"
        )
