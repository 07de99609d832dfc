"""Our training loader, as a run on one device builds it."""

from __future__ import annotations

from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views
from align_train.stream.loader import TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.pieces import TrainingPieces
from align_train.stream.recipe import Start
from align_train.stream.tokenizer import Tokenizer
from benchmarks.shared.sizes import BATCH, IMAGE_SIZE, MAX_TOKENS, RESIZE_SIZE

SEED = 0
LANES = 8
WINDOW = 16_384


def make_pairs(shards: str) -> Pairs:
    """Opens the shards of a folder."""
    caption = CaptionSource.parse("txt")
    return Pairs(
        manifest=resolve(shards, caption=caption, progress=False),
        caption=caption,
        views=Views(image_size=IMAGE_SIZE, resize_size=RESIZE_SIZE),
    )


def make_loader(
    pairs: Pairs, vocabulary: str, *, workers: int, finished_steps: int = 0
) -> TrainingLoader:
    """Builds the loader.

    Args:
        pairs: The pairs that it reads.
        vocabulary: A folder with a tokenizer.
        workers: The number of worker processes.
        finished_steps: The steps that a resumed run has behind it.
    """
    pieces = TrainingPieces(
        pairs=pairs,
        order=Order(counts=pairs.manifest.counts, seed=SEED, lanes=LANES, window=WINDOW),
        vocabulary=Tokenizer(vocabulary, max_tokens=MAX_TOKENS),
        batch_size=BATCH,
        start=Start(finished_steps=finished_steps, cursor=finished_steps * BATCH),
    )
    return TrainingLoader(pieces=pieces, slots=range(BATCH), workers=workers)
