"""What `data.repeats` says: counts, groups, and a contact sheet of some of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from align_train.errors import UserError, printable, shown
from align_train.figures.sheets import Hit, hit_sheet, save_sheet
from align_train.files import write_whole
from align_train.index.collection import Collection
from align_train.shards.manifest import MANIFEST_NAME
from align_train.shards.remote import is_url
from align_train.stream.decode import Pixels, decode_centre
from align_train.stream.pairs import Pairs

from ..packing.next_command import command_for_chosen
from .cells import Cells
from .rows import Ints, Rows
from .settings import RepeatsSettings

SHEET = "groups.png"

_GROUPS = 12  # on the sheet
_SHOWN = 6  # images of a group that go
_LONGEST_KEY = 18  # characters, beside an image
_SIZES = (2, 3, 4, 5, 10, 100)  # the least size of each line of the table
_FIX = "free some space, or choose another folder with to=…"


class Report(TypedDict):
    """The content of `report.json`."""

    images: int
    kept: int
    kept_share: float
    repeats: int
    undecodable: int
    unscored: int
    groups: int
    largest_group: int
    groups_by_size: dict[str, int]
    threshold: float
    stays: str
    cells: int
    probes: int
    largest_cell: int
    source: str
    model: str
    manifest: str


class Group(NamedTuple):
    """A keeper and the images that go for its sake, with their cosines, the farthest first."""

    keeper: int
    repeats: Ints
    cosines: np.ndarray


def summarise(
    settings: RepeatsSettings, collection: Collection, rows: Rows, cells: Cells, keeper_of: Ints
) -> Report:
    """Counts.

    Args:
        settings: The command's settings.
        collection: The embeddings.
        rows: Their ranks.
        cells: The cells.
        keeper_of: The keeper of each image, -1 for those that stay.
    """
    images = len(keeper_of)
    goes = keeper_of[keeper_of >= 0]
    _, repeats = np.unique(goes, return_counts=True)
    sizes = repeats + 1
    stays = "the lowest hash of the key"
    if settings.scores is not None:
        stays = f"the largest {settings.score} of {settings.scores}"

    return Report(
        images=images,
        kept=images - len(goes),
        kept_share=(images - len(goes)) / images,
        repeats=len(goes),
        undecodable=images - len(rows),
        unscored=len(rows) - rows.scored,
        groups=len(sizes),
        largest_group=int(sizes.max(initial=0)),
        groups_by_size=_by_size(sizes),
        threshold=settings.threshold,
        stays=stays,
        cells=len(cells),
        probes=min(settings.probes, len(cells)),
        largest_cell=cells.largest,
        source=settings.source,
        model=collection.settings.model,
        manifest=collection.settings.manifest,
    )


def _by_size(sizes: Ints) -> dict[str, int]:
    counts = {}
    for index, least in enumerate(_SIZES):
        after = _SIZES[index + 1] if index + 1 < len(_SIZES) else None
        below = np.inf if after is None else after
        if after is None:
            name = f"{least} and more"
        else:
            name = str(least) if after == least + 1 else f"{least} to {after - 1}"
        counts[name] = int(((sizes >= least) & (sizes < below)).sum())
    return counts


def write_report(report: Report, folder: Path) -> None:
    """Writes `report.json` and `report.md`."""
    write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n", fix=_FIX)
    write_whole(folder / "report.md", f"# Semantic repeats\n\n{as_table(report)}\n", fix=_FIX)


def as_table(report: Report) -> str:
    """The report as a Markdown table."""
    cells = "all images compared with each other"
    if report["cells"] > 1:
        cells = (
            f"{report['cells']:,} cells, the largest of {report['largest_cell']:,}; each image in "
            f"{report['probes']} of them"
        )
    lines = {
        "images": f"{report['images']:,}",
        "that stay": f"{report['kept']:,} ({report['kept_share']:.1%})",
        "that go: near one that stays": f"{report['repeats']:,}",
        "near": f"a cosine of {report['threshold']} or more",
        "of a group stays": report["stays"],
        "compared": cells,
        "could not be decoded, and stay as they are": f"{report['undecodable']:,}",
        "have no score, and make no other go": f"{report['unscored']:,}",
        "groups": f"{report['groups']:,}, the largest of {report['largest_group']:,}",
    }
    for size, count in report["groups_by_size"].items():
        if count:
            lines[f"groups of {size}"] = f"{count:,}"
    rows = [f"| {name} | {printable(value)} |" for name, value in lines.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def groups_of(keeper_of: Ints, rows: Rows) -> list[Group]:
    """Some groups: the largest, and others at equal distances down to the smallest."""
    keepers, counts = np.unique(keeper_of[keeper_of >= 0], return_counts=True)
    by_size = keepers[np.argsort(-counts, kind="stable")]
    places = np.unique(np.linspace(0, len(by_size) - 1, _GROUPS).astype(int))

    rank_of = np.empty(len(keeper_of), dtype=np.int64)
    rank_of[rows.images] = np.arange(len(rows))
    groups = []
    for keeper in by_size[places] if len(by_size) else ():
        repeats = np.flatnonzero(keeper_of == keeper)
        ranks = rank_of[repeats]
        # As exact as the choice was: on the sheet none is below the threshold.
        cosines = rows.exact_cosines(ranks, np.full_like(ranks, rank_of[keeper]))
        # The farthest first: whether the threshold is right shows there.
        order = np.argsort(cosines, kind="stable")[:_SHOWN]
        groups.append(Group(int(keeper), repeats[order], cosines[order]))
    return groups


def write_sheet(
    groups: Iterable[Group], collection: Collection, pairs: Pairs, folder: Path
) -> None:
    """Draws groups, each keeper on the left, if the shards are on this machine."""
    if any(is_url(shard.url) for shard in pairs.manifest.shards):
        print("no sheet of groups: the shards lie at URLs", flush=True)
        return

    rows = []
    try:
        for group in groups:
            hits = []
            for image, cosine in zip(group.repeats.tolist(), group.cosines.tolist(), strict=True):
                hits.append(Hit(_pixels(image, collection, pairs), f"{cosine:.3f}"))
            _, _, key = collection.about(group.keeper)["key"].partition("/")
            text = shown(key, _LONGEST_KEY)
            rows.append((text, _pixels(group.keeper, collection, pairs), hits))
        if rows:
            sheet = hit_sheet(
                rows,
                title="Groups of near images, with their cosines to the one that stays",
                image_is="On the left: the image that stays. The others go, the farthest first.",
            )
            save_sheet(sheet, folder / SHEET)
    except (UserError, ValueError, OSError) as error:
        # The selection needs no images.
        print(f"no sheet of groups: {printable(str(error))}", flush=True)


def _pixels(image: int, collection: Collection, pairs: Pairs) -> Pixels:
    shard, row = collection.place(image)
    return decode_centre(pairs.reader(shard).image(row), pairs.views)


def print_result(report: Report, collection: Collection, to: Path) -> None:
    """Prints the report and the next command."""
    print(as_table(report))
    sheet = f", {SHEET}" if (to / SHEET).is_file() else ""
    print(f"{to}: {MANIFEST_NAME}, report.md, report.json{sheet}")

    made_with = collection.settings
    command = command_for_chosen(
        to / MANIFEST_NAME,
        caption=made_with.caption,
        image=made_with.image,
        keys=made_with.keys,
    )
    print(f"next, train on those that stay:\n  {command}", flush=True)
