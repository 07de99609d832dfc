"""The pairs that a run's steps were, or will be, trained on.

They are computed from `config.yaml` and `lineage.jsonl` in the run's folder alone. Steps count from
1, as in metrics.csv. The images are made by the code that trains, augmentation included: they are,
bit for bit, those that the model sees.

Price: the pairs that are shown are read and decoded; the keys of others cost nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from align_train.commands.changes import settings_at
from align_train.config.command_schema import ShowSettings
from align_train.config.components import build
from align_train.config.saved import read_run
from align_train.errors import UserError, printable, shown
from align_train.files import check_writable
from align_train.run.folder import RunFolder
from align_train.shards.left_out import counted
from align_train.shards.source_name import column, shown_name, source_name

if TYPE_CHECKING:
    # They bring torch and Lightning: a misspelt name or step must not wait for these.
    from align_train.stream.datamodule import PairsDataModule
    from align_train.stream.pieces import TrainingPieces
    from align_train.stream.replacement import BadPair

# Characters of a line: beside the caption, and for the caption at least.
_BESIDE_CAPTION = 63
_LEAST_CAPTION = 40


def show(settings: ShowSettings) -> None:
    """Prints the pairs of steps, or the steps that see a pair: `python -m align_train.show`.

    Args:
        settings: The command's settings.

    Raises:
        UserError: There is no run, no step or no pair of that name; or the run's shards are gone.
    """
    if (settings.step is None) == (settings.key is None):
        raise UserError(
            "give step=N or step=N:M to see the pairs of steps, or key=… to see the steps of a pair"
        )
    if settings.limit < 1:
        raise UserError(f"limit={settings.limit}: expected at least 1 pair")

    folder = RunFolder(Path(settings.output_dir).expanduser().absolute() / settings.name)
    if not folder.config.is_file():
        raise UserError(
            f"name={settings.name}: no run in {folder.path}; give output_dir=… if it lies elsewhere"
        )

    last = read_run(folder.config).steps
    if settings.key is not None:
        _show_key(str(settings.key), folder, last)
        return

    draws = _can_draw(folder)
    # Opening the data takes longer than showing a step: once for each stretch of the run.
    pieces_of: dict[int, TrainingPieces] = {}
    for step in _steps(str(settings.step), last):
        stretch = sum(line["step"] < step for line in folder.lineage.read())
        if stretch not in pieces_of:
            pieces_of[stretch] = _pieces_at(step - 1, folder)
        made = _make(pieces_of[stretch], step - 1, settings.limit)
        _show_step(step, made, pieces_of[stretch], settings.limit)
        if draws:
            _draw(step, made, folder)


def _can_draw(folder: RunFolder) -> bool:
    """Whether contact sheets can be written. The table needs none: a run may be a colleague's."""
    fix = "copy its config.yaml and lineage.jsonl to a run of yours to see it"
    try:
        check_writable(folder.sheet(1, of="show"), fix)
    except UserError as error:
        print(f"no contact sheet: {error}", flush=True)
        return False
    return True


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


def _pieces_at(finished_steps: int, folder: RunFolder) -> TrainingPieces:
    """The pairs of the batch that follows so many finished steps, and of those after it."""
    stretch = folder.lineage.stretch_at(finished_steps)
    run = settings_at(folder, finished_steps)

    # Held-out pairs are not opened, and nothing is made: they may long be gone.
    unused = {key: None for key in ("held_out", "make") if key in run.data}
    data: PairsDataModule = build(run.data | unused, revisions=stretch.get("revisions"))
    if data.manifest.identity != stretch["manifest"]:
        raise UserError(
            f"data.shards={run.data['shards']}: step {finished_steps + 1} was trained on other "
            f"shards (identity {stretch['manifest']}, found {data.manifest.identity}); "
            f"bring those back"
        )
    data.go_on(stretch)
    return data.training_pieces()


class _Shown(NamedTuple):
    """The pairs of a step that are shown, and those that could not be used."""

    keys: list[str]
    captions: list[str]
    images: list[NDArray[np.uint8]]
    bad: list[BadPair]


def _show_step(step: int, made: _Shown, pieces: TrainingPieces, limit: int) -> None:
    count = f"{len(made.keys):,} are shown (limit={limit})"
    print(f"step {step}: {counted(pieces.batch_size, 'pair')}, of which {count}")
    _print_table(made, pieces, step - 1)


def _draw(step: int, made: _Shown, folder: RunFolder) -> None:
    from align_train.figures.sheets import contact_sheet, save_sheet

    sheet = folder.sheet(step, of="show")
    title = f"{folder.path.name}: the first pairs of step {step:,}, as the model sees them"
    save_sheet(contact_sheet(made.images, made.captions, title=title), sheet)
    print(f"as the model sees them: {sheet}", flush=True)


def _make(pieces: TrainingPieces, finished_steps: int, limit: int) -> _Shown:
    """Makes the first pairs of a batch."""
    from align_train.stream.replacement import Gone

    slots = range(min(limit, pieces.batch_size))
    images = np.empty(pieces.shape(len(slots)), dtype=np.uint8)
    made = pieces.make(finished_steps, slots, images)
    if isinstance(made, Gone):
        url = pieces.pairs.manifest.shards[made.shard].url
        raise UserError(f"{url}: the shard is gone; bring it back")
    return _Shown(made.keys, made.captions, list(images), made.bad_pairs)


def _print_table(made: _Shown, pieces: TrainingPieces, finished_steps: int) -> None:
    slots = np.arange(len(made.keys))
    visits = pieces.visits(finished_steps, slots)
    reasons = {bad.key: bad.reason for bad in made.bad}
    places = zip(visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), strict=True)
    asked = [(shard, pieces.pair_at(epoch, shard, slot)) for epoch, shard, slot in places]
    keys_asked = [pieces.pairs.reader(shard).key(pair) for shard, pair in asked]
    heading, *names = column(
        [_name(key, pieces, *pair) for key, pair in zip(made.keys, asked, strict=True)]
    )
    columns = shutil.get_terminal_size((160, 40)).columns
    width = max(_LEAST_CAPTION, columns - _BESIDE_CAPTION - len(heading))

    print(f"{'slot':>6}  {'epoch':>5}  {'shard':<20}  {'key':<24}  {heading}caption")
    rows = zip(visits.epoch.tolist(), made.keys, keys_asked, names, made.captions, strict=True)
    for slot, (epoch, key, key_asked, image, caption) in enumerate(rows):
        shard, _, name = key.partition("/")
        # Alt-texts have line breaks, which would break the table.
        text = shown(" ".join(caption.split()), width)
        if key != key_asked:
            text += f"  [in place of {printable(key_asked)}: {printable(reasons[key_asked])}]"

        place = f"{printable(shard):<20}  {printable(name):<24}"
        print(f"{slot:>6}  {epoch:>5}  {place}  {image}{text}")


def _name(key: str, pieces: TrainingPieces, shard: int, pair: int) -> str:
    """The name of an image in its source. shard, pair: those that the order asks for."""
    if pieces.pairs.reader(shard).key(pair) != key:
        # Another pair stands in place of a bad one.
        shard, pair = _pairs_of(key, pieces)[0]
    return source_name(pieces.pairs.reader(shard), pair)


def _show_key(key: str, folder: RunFolder, last: int) -> None:
    """Prints the steps at which a pair comes: in each epoch of every stretch of the run."""
    # Raises if the run has not begun: an empty lineage has no bounds.
    folder.lineage.stretch_at(0)
    bounds = [line["step"] for line in folder.lineage.read() if "manifest" in line]

    seen = 0
    for begin, end in zip(bounds, [*bounds[1:], last], strict=True):
        # Each stretch may have other shards, another seed or another order.
        pieces = _pieces_at(begin, folder)
        for shard, pair in _pairs_of(key, pieces):
            reader = pieces.pairs.reader(shard)
            image = source_name(reader, pair)
            name = printable(reader.key(pair)) + (f" ({shown_name(image)})" if image else "")
            for step, epoch, slot in _visits(pieces, shard, pair, begin, end):
                seen += 1
                print(f"{name}: step {step:>8}, epoch {epoch}, slot {slot}")

    if seen:
        print(f"{printable(key)}: {seen} times in {last:,} steps")
    else:
        print(f"{printable(key)}: in the data, but in none of the {last:,} steps")


def _pairs_of(key: str, pieces: TrainingPieces) -> list[tuple[int, int]]:
    """The (shard, pair) of each pair with a key `shard/key`, as the table and logs spell it.

    There are several if shards of different folders share a name.
    """
    name, slash, rest = key.partition("/")
    rows = pieces.pairs.manifest.shards
    shards = [index for index, row in enumerate(rows) if Path(row.name).stem == name]

    pairs = []
    for shard in shards:
        pairs += [(shard, pair) for pair in pieces.pairs.reader(shard).find(rest)]
    if slash and pairs:
        return pairs

    example = printable(pieces.pairs.reader(shards[0] if shards else 0).key(0))
    reason = f"the shard has keys such as {example}" if shards else "no shard of that name"
    if any(rows[shard].selection for shard in shards):
        reason += ", and others that the manifest leaves out"
    raise UserError(
        f"key={shown(key)}: no such pair ({reason}); expected shard/key, e.g. {example}, from the "
        f"columns of show step=N or search; a name of an image is no key"
    )


def _visits(
    pieces: TrainingPieces, shard: int, pair: int, begin: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Yields step, epoch and slot of each visit of a pair. begin, end: finished steps."""
    order = pieces.order
    per_lane = pieces.batch_size // order.lanes
    length = order.source_of(shard).lane_length

    # Positions of a lane, through all epochs. Each lane gives equally much to every batch.
    first = pieces.cursor(begin) // order.lanes
    last = pieces.cursor(end) // order.lanes
    for epoch in range(first // length, -(-last // length)):
        # By rates a pair may come several times in an epoch, or not at all.
        slots = pieces.slots_of(epoch, shard, pair)
        places = [order.find(shard, slot, epoch) for slot in slots]
        there = [place for place in places if place is not None]
        for lane, position in sorted(there, key=_position):
            # Of the first and the last epoch the stretch may have a part only.
            if first <= position < last:
                steps, within = divmod(position - first, per_lane)
                yield begin + steps + 1, epoch, lane * per_lane + within


def _position(place: tuple[int, int]) -> int:
    return place[1]
