"""The cosine of image and text of every pair of some shards, once: `Scores` to choose pairs by.

Processes of torchrun or srun share the shards, and the same command goes on after a kill:
`shard_work.py`. A pair whose image cannot be decoded, or that has no text, has NaN for a score; it
is counted, and stops nothing. `prompts` adds columns: the cosine of each image and given texts.

Price: an image is read and decoded once, and each text goes through the text tower once. The
loader's processes decode and tokenize, and the device is waited for at a shard's end only. In
memory a process has the scores of one shard and a few chunks of images.
"""

from __future__ import annotations

import contextlib
import json
from functools import reduce
from itertools import chain
from pathlib import Path

import torch

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import check_loader, device_of
from align_train.commands.open_images import open_images
from align_train.commands.score_chunks import ReadyChunk, ready_chunks, without_inputs
from align_train.commands.score_cosines import (
    Cosines,
    cosines_of,
    embedded_texts,
    embeddings_of,
    values_of,
)
from align_train.commands.score_prompts import prompts_of
from align_train.commands.score_report import report
from align_train.commands.score_sheets import draw_ends, has_sheets
from align_train.commands.shard_work import (
    model_from_anywhere,
    own_shards,
    refuse_same_names,
    shards_from_anywhere,
    watched,
)
from align_train.commands.targets import check_collection_folder
from align_train.config.command_schema import ScoreSettings
from align_train.errors import UserError
from align_train.index.folder import begun_caption
from align_train.index.scores import SCORES, SIMILARITY, Scores, Tally
from align_train.index.scores_header import Column, ScoresHeader
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel, load
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of

_SAYS = {
    "best": "cosine of the image and the nearest of its texts",
    "mean": "mean of the cosines of the image and its texts",
    "first": "cosine of the image and its first text",
}


def score(given: ScoreSettings) -> None:
    """Scores the pairs of shards: `python -m align_train.score`.

    Args:
        given: The command's settings, after `early.py` has looked at them.

    Raises:
        UserError: A setting, the model or a shard is not as expected, or the folder is another's.
    """
    check_loader(given)
    folder = check_collection_folder(given.to)

    with watched() as watchdog:
        _score_own(given, folder, watchdog)


def _score_own(given: ScoreSettings, folder: Path, watchdog: Watchdog) -> None:
    """Scores the shards that are this process's and not done yet."""
    model = load(given.model, device=device_of(given.device))
    # A model without a tokenizer scores nothing: told before the shards are counted.
    model.trimming_tokenizer()
    caption = given.caption
    if caption is None:
        caption = begun_caption(folder / SCORES, ScoresHeader.read)
    pairs = open_images(
        given.shards,
        plain=False,
        caption=caption,
        image=given.image,
        keys=given.keys,
        views=model.views,
        cache=shard_cache_of(None, given.storage_options),
        progress=launcher.is_first_process(),
        need_texts=True,
    )
    refuse_same_names(pairs.manifest)

    scores = Scores.begin(folder, header_of(given, model, pairs))
    left = own_shards(pairs.manifest, scores.has)
    if left:
        check_collection_folder(given.to, writes=True)
    score_shards(model, scores, pairs, left, given, watchdog)
    complete = all(map(scores.has, range(len(pairs.manifest.shards))))
    # A former start may have been killed between its last shard and the sheets.
    if complete and (left or not has_sheets(scores)):
        draw_ends(scores, pairs, SIMILARITY)
    report(scores, wrote=bool(left))


def header_of(given: ScoreSettings, model: TrainedModel, pairs: Pairs) -> ScoresHeader:
    """What the folder records; UserError: the model does not take a prompt whole."""
    manifest = pairs.manifest
    return ScoresHeader(
        model=model_from_anywhere(given.model),
        identity=identity_of(model),
        source=shards_from_anywhere(given.shards),
        manifest=manifest.identity,
        shards=[shard.name for shard in manifest.shards],
        counts=manifest.counts.tolist(),
        sizes=[shard.bytes for shard in manifest.shards],
        columns=_columns(given, model),
        caption=pairs.caption.setting,
        image=given.image,
        keys=given.keys,
        dim=model.model.dim if given.embeddings else None,
        temperature=model.temperature if given.embeddings else None,
    )


def _columns(given: ScoreSettings, model: TrainedModel) -> dict[str, Column]:
    columns = {SIMILARITY: Column(-1, 1, _SAYS[given.texts])}
    tokenizer = model.trimming_tokenizer()
    for name, texts in prompts_of(given.prompts).items():
        # A prompt that is cut would ask every image for something else.
        _, cut = tokenizer.with_cut(texts)
        if cut:
            raise UserError(
                f"prompts.{name}: longer than the {tokenizer.max_tokens} tokens that the model "
                f"takes; shorten it"
            )
        spelled = [json.dumps(text, ensure_ascii=False) for text in texts]
        nearest = "the nearest of " if len(texts) > 1 else ""
        columns[name] = Column(-1, 1, f"cosine of the image and {nearest}{', '.join(spelled)}")
    return columns


@torch.inference_mode()
def score_shards(
    model: TrainedModel,
    scores: Scores,
    pairs: Pairs,
    shards: list[int],
    given: ScoreSettings,
    watchdog: Watchdog,
) -> None:
    """Scores shards, and writes each as soon as it is complete.

    Args:
        model: The model.
        scores: The folder.
        pairs: The pairs of all shards.
        shards: The indices of the shards.
        given: The command's settings.
        watchdog: Learns of each chunk.

    Raises:
        UserError: A shard cannot be read, a file cannot be written, or the weights are broken.
    """
    tokenizer = model.trimming_tokenizer()
    prompts = {
        name: embedded_texts(model, tokenizer(texts), given.chunk_size)
        for name, texts in prompts_of(given.prompts).items()
    }
    done: list[tuple[ReadyChunk, Cosines]] = []
    # Closed, or an error here would leave the loader's processes behind.
    with contextlib.closing(ready_chunks(model, pairs, shards, given, watchdog)) as chunks:
        for place, chunk in chunks:
            cosines = cosines_of(
                model, chunk, given.chunk_size, list(prompts.values()), keep=given.embeddings
            )
            # Without pixels: those of a whole shard may not fit into memory.
            done.append((without_inputs(chunk), cosines))

            if place.completes:
                values = values_of(done, given, list(prompts))
                keys = list(chain.from_iterable(chunk.keys for chunk, _ in done))
                tally = reduce(Tally.plus, (chunk.tally for chunk, _ in done))
                if given.embeddings:
                    # First: a shard with a file of scores is done.
                    embeddings_of(done, model.model.dim).write(scores, place.shard)
                scores.write(place.shard, keys, values, tally)
                done = []
