"""What a run's steps were, or will be, trained on: computed from its folder's `config.yaml` and `lineage.jsonl` alone.

Steps count from 1, as in metrics.csv. The pictures are made by the code that trains, augmentation included: they are, bit for
bit, what the model sees. Price: the pairs that are shown are read and decoded; the keys of others cost nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from align_train.config.components import build
from align_train.config.saved import read_run, with_values
from align_train.config.schema import ShowSettings, TrainSettings
from align_train.errors import UserError
from align_train.figures.sheets import contact_sheet
from align_train.run.folder import RunFolder
from align_train.stream.batch import Chunk
from align_train.stream.chunks import TrainingChunks
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.replacement import BadPair, Gone


def show(settings: ShowSettings) -> None:
    """`align_train.show`: prints the pairs of `step`, or the steps at which `key` comes."""
    if (settings.step is None) == (settings.key is None):
        raise UserError(
            "give step=N or step=N:M to see what steps are trained on, or key=… to find when a pair is seen"
        )
    if settings.limit < 1:
        raise UserError(f"limit={settings.limit}: expected at least 1 pair")
    folder = RunFolder(Path(settings.output_dir).expanduser().absolute() / settings.name)
    if not folder.config.is_file():
        raise UserError(
            f"name={settings.name}: no run in {folder.path}; give output_dir=… where it is elsewhere"
        )
    last = read_run(folder.config).steps
    if settings.key is not None:
        _show_key(str(settings.key), folder, last)
        return
    chunks_of: dict[int, TrainingChunks] = {}
    for step in _steps(str(settings.step), last):
        stretch = sum(line["step"] < step for line in folder.lineage.read())
        if stretch not in chunks_of:
            chunks_of[stretch] = _chunks_at(step - 1, folder)
        _show_step(step, folder, chunks_of[stretch], settings.limit)


def _steps(text: str, last: int) -> range:
    """`5` -> step 5; `100:110` -> steps 100 to 109."""
    first, colon, end = text.partition(":")
    try:
        steps = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        raise UserError(
            f"step={text}: expected a step such as 100, or steps such as 100:110"
        ) from None
    if not steps or steps[0] < 1 or steps[-1] > last:
        raise UserError(
            f"step={text}: expected steps from 1, as in metrics.csv, to {last}, the run's last"
        )
    return steps


def _settings_at(finished_steps: int, folder: RunFolder) -> TrainSettings:
    """The run's settings for the batch after so many finished steps: later changes are undone."""
    earlier: dict[str, object] = {}
    for line in reversed(folder.lineage.read()):
        if "changed" in line and line["step"] > finished_steps:
            earlier |= {key: was for key, (was, _) in line["changed"].items()}
    return with_values(read_run(folder.config), earlier)


def _chunks_at(step: int, folder: RunFolder) -> TrainingChunks:
    """What makes the chunks of the batch after `step` finished steps."""
    stretch, run = folder.lineage.stretch_at(step), _settings_at(step, folder)
    # Held-out pairs are not opened, and nothing is made: they may long be gone.
    unused = {key: None for key in ("held_out", "make") if key in run.data}
    data: PairsDataModule = build(run.data | unused)
    if data.manifest.identity != stretch["manifest"]:
        raise UserError(
            f"data.shards={run.data['shards']}: these are not the shards that step {step + 1} was trained on (identity "
            f"{data.manifest.identity}, then {stretch['manifest']}); bring those back"
        )
    data.go_on(stretch)
    return data.training_chunks()


def _show_step(step: int, folder: RunFolder, chunks: TrainingChunks, limit: int) -> None:
    made, bad = _make(chunks, step - 1, limit)
    images = [image.numpy() for chunk in made for image in chunk.images][:limit]
    captions = [caption for chunk in made for caption in chunk.captions][:limit]
    keys = [key for chunk in made for key in chunk.keys][:limit]
    epochs = chunks.visits(step - 1, np.arange(len(keys))).epoch.tolist()
    replaced = {pair.replaced_by: pair for pair in bad}
    print(
        f"step {step}: {chunks.batch_size:,} pairs, of which {len(keys):,} are shown (limit={limit})"
    )
    print(f"{'slot':>6}  {'chunk':>5}  {'epoch':>5}  {'shard':<20}  {'key':<24}  caption")
    width = max(40, shutil.get_terminal_size((160, 40)).columns - 70)
    for slot, (key, caption, epoch) in enumerate(zip(keys, captions, epochs, strict=True)):
        shard, _, name = key.partition("/")
        line = " ".join(caption.split())
        note = (
            f"  [in place of {replaced[key].key}: {replaced[key].reason}]"
            if key in replaced
            else ""
        )
        print(
            f"{slot:>6}  {slot // chunks.chunk_size:>5}  {epoch:>5}  {shard:<20}  {name:<24}  {line[:width]}{note}"
        )
    folder.batches.mkdir(parents=True, exist_ok=True)
    sheet = folder.sheet(step, of="show")
    contact_sheet(images, captions).save(sheet)
    print(f"as the model sees them: {sheet}", flush=True)


def _make(chunks: TrainingChunks, step: int, limit: int) -> tuple[list[Chunk], list[BadPair]]:
    needed = min(-(-limit // chunks.chunk_size), chunks.batch_size // chunks.chunk_size)
    made: list[Chunk] = []
    bad: list[BadPair] = []
    for number in range(needed):
        item = chunks[step, number]
        if isinstance(item, Gone):
            raise UserError(
                f"{chunks.pairs.manifest.shards[item.shard].url}: no such shard any more; bring it back"
            )
        made.append(item[0])
        bad += item[1]
    return made, bad


def _show_key(key: str, folder: RunFolder, last: int) -> None:
    """Every stretch of the run, each epoch in it: the step at which the pair comes."""
    folder.lineage.stretch_at(0)
    bounds = [line["step"] for line in folder.lineage.read() if "manifest" in line]
    seen = 0
    for begin, end in zip(bounds, [*bounds[1:], last], strict=True):
        chunks = _chunks_at(begin, folder)
        for shard, pair in _pairs_of(key, chunks):
            for step, epoch, slot in _visits(chunks, shard, pair, begin, end):
                seen += 1
                where = f"slot {slot}, chunk {slot // chunks.chunk_size}"
                print(
                    f"{chunks.pairs.reader(shard).key(pair)}: step {step + 1:>8}, epoch {epoch}, {where}"
                )
    print(
        f"{key}: {seen} times in {last:,} steps"
        if seen
        else f"{key}: in the data, but in none of the {last:,} steps"
    )


def _pairs_of(key: str, chunks: TrainingChunks) -> list[tuple[int, int]]:
    """(shard, pair) of a key as the table and logs spell it: `shard/key`; more than one where shards share a name."""
    name, slash, rest = key.partition("/")
    shards = [
        number
        for number, row in enumerate(chunks.pairs.manifest.shards)
        if Path(row.name).stem == name
    ]
    found = [(shard, pair) for shard in shards for pair in chunks.pairs.reader(shard).find(rest)]
    if not slash or not found:
        known = (
            f"the shard has keys such as {chunks.pairs.reader(shards[0]).key(0)}"
            if shards
            else "no shard of that name"
        )
        raise UserError(
            f"key={key}: no such pair ({known}); expected shard/key, as in the table of a step"
        )
    return found


def _visits(
    chunks: TrainingChunks, shard: int, pair: int, begin: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """(step, epoch, slot) of each visit of a pair from step `begin` to `end`, both as numbers of finished steps."""
    order, per_lane = chunks.order, chunks.batch_size // chunks.order.lanes
    length = order.source_of(shard).lane_length
    first, last = chunks.cursor(begin) // order.lanes, chunks.cursor(end) // order.lanes
    for epoch in range(first // length, -(-last // length)):
        found = order.find(shard, pair, epoch)
        if found is not None and first <= found[1] < last:
            step, within = divmod(found[1] - first, per_lane)
            yield begin + step, epoch, found[0] * per_lane + within
