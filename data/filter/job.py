"""The filter's story: four steps from a crawl's tables to the kept rows and their report.

1. Sets that need the whole table: texts with too many images, rare tokens, and so on.
2. One verdict on each row.
3. The kept rows, file by file; of shards also a selection.
4. The report.

Before them it builds what the source lacks: tables of shards, hashes of images, scores by row. An
engine runs the first two, DuckDB or Spark, from one definition of each rule. The others are the
same for both, and so is every byte of the output.

The output is written to `.NAME.partial` beside its folder, each part whole or not at all, and
renamed at the end. A folder under its final name is therefore finished, and the same command after
a kill goes on from the last finished part. Price: `python -m benchmarks.filter`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ibis.expr.types import Table
from tqdm import tqdm

from align_train.errors import UserError
from align_train.files import locked, write_whole
from align_train.shards.manifest import MANIFEST_NAME

from ..packing.next_command import command_for_chosen
from ..tables.batches import batches
from ..tables.engine import Engine, EngineFailed, Source
from ..tables.engines import engine
from . import report, statistics
from .chosen import choose
from .hashes import hash_shards
from .plan import Plan
from .saved import SavedTables
from .scored import FOLDER as SCORES
from .selection import write_kept, write_narrowed, write_selection
from .sets import HASHES, failing_sets
from .tar_tables import build_tables
from .verdicts import Verdicts

DONE = "filter.json"  # written last: the plan, the engine, the kept rows of each file

WORK = "work"  # the folder of the parts that are removed at the end

_PLAN = "plan.json"
_LOCK = ".lock"
_ASIDE = re.compile(r"\..+\.\d+")  # the hidden names of `align_train.files.whole`


def partial_of(to: str) -> Path:
    """The folder that is written to, until it gets its name `to`."""
    path = Path(to).expanduser().absolute()
    return path.with_name(f".{path.name}.partial")


def run_filter(plan: Plan) -> None:
    """Filters the source into `plan.to`, or goes on with a filter that was killed.

    Raises:
        UserError: Another process writes the folder, or it was begun by another plan.
    """
    partial = partial_of(plan.settings.to)

    with _opened(plan, partial):
        # A kill between the last part and the renaming leaves nothing else to do.
        if not (partial / DONE).is_file():
            _fill(plan, partial)

        shutil.rmtree(partial / WORK, ignore_errors=True)
        (partial / _PLAN).unlink(missing_ok=True)
        # The lock last: with it no other process begins in a folder that is about to get its name.
        (partial / _LOCK).unlink()
        partial.rename(plan.to)
    _print_result(plan)


def _fill(plan: Plan, partial: Path) -> None:
    """Takes the four steps."""
    began = time.time()
    work = partial / WORK
    work.mkdir(exist_ok=True)
    _prepare(plan, work)

    # Steps 1 and 2: sets, then verdicts.
    with _bad_file_named(plan):
        judged = _judge(plan, work)

    # Step 3: the kept rows.
    written = write_kept(judged.verdicts, partial / "kept")
    if plan.tables.tars:
        write_narrowed(judged.verdicts, plan.tables.tars, partial)
    elif plan.tables.shards:
        write_selection(judged.verdicts, partial)

    # Step 4: the report. It counts the verdicts, so that it checks the rows that were written.
    summary = _summarise(plan, judged)
    if sum(written.values()) != summary["kept"]:
        raise RuntimeError(f"{sum(written.values())} rows written, {summary['kept']} kept")
    report.write(summary, partial)

    done = {
        **plan.as_json(),
        "engine": judged.engine,
        "seconds": round(time.time() - began, 1),
        "kept": written,
    }
    _write(partial / DONE, done)


def _prepare(plan: Plan, work: Path) -> None:
    """Builds what is not in the tables: all of them, images' hashes, scores."""
    tables = plan.tables
    if tables.tars is not None:
        kinds = dict.fromkeys(plan.example_names, "string")
        # The type that a rule reads counts before the text that an example shows.
        kinds |= dict(plan.of_tables.values())
        build_tables(tables.tars, kinds, tables.files, plan.settings.threads)
    if "near_duplicates" in plan.names and "phash" not in plan.columns:
        hash_shards(tables.files, work / HASHES)
    if plan.scored is not None:
        plan.scored.write(plan.of_scores, work / SCORES)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The results of the steps on the engine."""

    verdicts: Verdicts
    rows: int
    facts: Mapping[str, report.RuleFacts]
    engine: str


def _judge(plan: Plan, work: Path) -> _Judged:
    """Steps 1 and 2, on the engine."""
    # The engine gives its memory and its spill folder back before the next step.
    with _engine_of(plan, work) as ready:
        source = Source(
            files=plan.tables.files,
            columns=plan.of_tables,
            nulls=bool(plan.tables.nulls & set(plan.column_names)),
            only_success=plan.tables.shards,
        )
        rows = ready.open(source)
        count = _count(rows, plan, ready)

        saved = SavedTables(work, ready)
        if plan.scored is not None:
            # A left join: a row without a score stays, with a null in its place.
            rows = rows.left_join(saved.load(SCORES), "row").drop("row_right")
        failing, rare = failing_sets(rows, plan, saved)
        chosen = choose(rows, plan, saved, count)
        saved.save(
            "verdicts",
            lambda: statistics.verdicts(chosen.rows, plan.rules, plan.names, failing, chosen.tests),
        )

        facts = chosen.facts | ({"rare_tokens": rare} if rare else {})
        scores = (work / SCORES, plan.of_scores) if plan.scored else None
        verdicts = Verdicts(work / "verdicts", plan.tables, scores)
        return _Judged(verdicts=verdicts, rows=count, facts=facts, engine=ready.version())


def _summarise(plan: Plan, judged: _Judged) -> report.Report:
    """The first half of step 4; `report.write` is the other."""
    return report.summarise(
        judged.verdicts.counts(),
        judged.rows,
        passes=plan.passes(),
        examples=judged.verdicts.examples(plan.names, plan.settings.examples, plan.example_names),
        not_applied=plan.not_applied,
        facts=judged.facts,
    )


@contextmanager
def _opened(plan: Plan, partial: Path) -> Iterator[None]:
    """Makes the folder that is written to, and keeps it to one process."""
    partial.mkdir(parents=True, exist_ok=True)
    refusal = f"to={plan.settings.to}: another process is writing it ({partial})"
    # The deadline is now: a folder that another process writes is refused, not waited for.
    with locked(partial / _LOCK, time.monotonic(), refusal=refusal):
        # The result holds the plan too; a kill may come after the plan's own file is removed.
        begun = [partial / name for name in (_PLAN, DONE) if (partial / name).is_file()]
        if begun:
            plan.refuse_another(begun[0])
            print(f"going on with what is in {partial}")
        else:
            _write(partial / _PLAN, plan.as_json())

        _remove_leftovers(partial)
        yield


def _remove_leftovers(partial: Path) -> None:
    """Removes the half-written parts of a process that was killed; they may be large."""
    # Listed first, because folders are removed on the way.
    for path in list(partial.rglob(".*")):
        if not _ASIDE.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _engine_of(plan: Plan, work: Path) -> Iterator[Engine]:
    settings = plan.settings
    spill = Path(settings.temporary).expanduser().absolute() if settings.temporary else work

    # The same name after a kill, so that the engine removes what is left there.
    name = hashlib.sha256(str(plan.to).encode()).hexdigest()[:8]
    with engine(
        settings.engine,
        memory_gb=settings.memory_gb,
        threads=settings.threads,
        temporary=spill / f"spill-{name}",
        options=_flat(settings.options),
    ) as ready:
        yield ready


def _count(rows: Table, plan: Plan, ready: Engine) -> int:
    """Counts the source's rows with the engine, before anything depends on its reading all."""
    count = int(rows.count().to_pyarrow().as_py())
    total = sum(plan.tables.rows)

    # Of shards only the rows that have an image are read.
    if not plan.tables.shards and count != total:
        raise RuntimeError(f"{ready.name} read {count} of {total} rows")
    if not count:
        raise UserError(
            f"source={plan.settings.source}: not one of its rows has an image; "
            f"check the column status"
        )
    return count


@contextmanager
def _bad_file_named(plan: Plan) -> Iterator[None]:
    """After an engine's error, reads all files: a bad one raises an error that names it."""
    try:
        yield
    except EngineFailed:
        for file in tqdm(plan.tables.files, desc="looking for the file", delay=1, leave=False):
            for _ in batches(file, plan.column_names):
                pass
        raise


def _print_result(plan: Plan) -> None:
    summary = json.loads((plan.to / "report.json").read_text(encoding="utf-8"))
    print(report.as_table(summary))

    print(
        f"{plan.to}: {summary['kept']:,} rows in kept, report.md, report.json, report.png, {DONE}"
    )
    of_shards = plan.tables.shards or plan.tables.tars
    if of_shards and summary["kept"]:
        print(f"next: {command_for_chosen(plan.to / MANIFEST_NAME)}")


def _write(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, text, fix="free some space, or choose another folder with to=…")


def _flat(options: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Joins nested names by dots: Hydra nests the dotted names of engines' settings."""
    flat: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
