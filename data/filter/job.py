"""`python -m data.filter source=… to=…`: the paper's filters on a crawl's table, or as a selection of shards that exist.

Four steps: sets that need the whole table (which texts have too many pictures, which tokens are frequent, …), one verdict on
each row, the kept rows file by file, the report. The first two run on an engine, DuckDB or Spark, from one definition of each
rule (`data/rules.py`, `data/statistics.py`); the others are the same for both, and so is every byte that comes out.

All is written to `.NAME.partial` beside the folder, each part whole or not at all, and renamed at the end: a folder that is
there is finished, and the same command after a kill goes on where it stopped. Price: benchmarks/filter.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError
from data.filter import report, selection, statistics
from data.filter.hashes import Probes, hash_shards, hashes_of
from data.filter.rules import COLUMNS_OF, active, described
from data.filter.settings import FilterConfig
from data.tables.engine import TAKEN, Engine, EngineFailed, Source
from data.tables.engines import engine
from data.tables.find import Tables, batches

Columns = dict[str, tuple[str, str]]


DONE = "filter.json"  # written last: what was done


_UNFINISHED = re.compile(r"\..+\.\d+")  # what a process was writing


class Job:
    """One filtering. partial: the folder that it is written to; to: what that is renamed to when all is there."""

    def __init__(self, settings: FilterConfig, tables: Tables) -> None:
        self.settings, self.tables, self.rules = settings, tables, settings.rules
        self.to = Path(settings.to).expanduser().absolute()
        self.partial = self.to.with_name(f".{self.to.name}.partial")
        self.not_applied: dict[str, str] = {}
        if taken := [name for name in TAKEN if name in tables.types]:
            raise UserError(
                f"source={settings.source}: {taken[0]} is what engines call something of their own; rename that column"
            )
        self.columns = self._choose_columns()
        self.names = [name for name in active(self.rules) if name not in self.not_applied]
        if not self.names:
            raise UserError("rules: no rule is applied; set one to a number")
        of = self.rules.near_duplicates.of
        self.evaluation = (
            hashes_of(of)
            if of is not None and "near_duplicates" in self.names
            else np.empty(0, np.uint64)
        )

    def _choose_columns(self) -> Columns:
        called = asdict(self.settings.columns)
        chosen: Columns = {}
        for rule in active(self.rules):
            for name in COLUMNS_OF[rule]:
                found = self.tables.column(name, called[name], f"rules.{rule}")
                if found is not None:
                    chosen[name] = found
                elif rule == "nsfw":
                    self.not_applied[rule] = "there is no column of scores (columns.nsfw)"
                elif not (
                    rule == "near_duplicates" and self.tables.shards
                ):  # there pictures are at hand
                    raise UserError(
                        f"columns.{name} is not set, and no column has a usual name: {self.tables.files[0]} has "
                        f"{', '.join(self.tables.types)}; set columns.{name}=…, or rules.{rule}=null"
                    )
        return chosen

    # --- what is told, and what is promised -------------------------------------------------------------------------

    def plan(self) -> dict[str, Any]:
        """What the output is a function of."""
        source = [
            {"file": file.name, "rows": rows, "bytes": file.stat().st_size}
            for file, rows in zip(self.tables.files, self.tables.rows, strict=True)
        ]
        rules = {
            name: getattr(self.rules, name) if name in self.names else None for name in COLUMNS_OF
        }
        near = self.rules.near_duplicates
        hashed = hashlib.sha256(self.evaluation.tobytes()).hexdigest()[:16]
        rules["near_duplicates"] = (
            {"distance": near.distance, "hashes": len(self.evaluation), "sha256": hashed}
            if len(self.evaluation)
            else None
        )
        columns = {name: column for name, (column, _) in self.columns.items()}
        return {
            "rules": rules,
            "columns": columns,
            "examples": self.settings.examples,
            "source": source,
        }

    def print_recipe(self) -> None:
        rows, files = sum(self.tables.rows), len(self.tables.files)
        kind = "img2dataset's shards" if self.tables.shards else "parquet files"
        print(f"source     {rows:,} rows in {files:,} {kind}, first {self.tables.files[0]}")
        for name in self.names:
            print(f"rule       {name}: {described(name, self.rules)}")
        for name, why in self.not_applied.items():
            print(f"rule       {name}: not applied, {why}")
        print(
            f"columns    {', '.join(f'{name}: {column}' for name, (column, _) in self.columns.items())}"
        )
        print(f"engine     {self.settings.engine}, {self.settings.memory_gb:g} GB of memory")
        print(f"to         {self.to}", flush=True)

    def refuse_another(self, place: Path) -> None:
        """UserError where what lies there was begun with another source or other rules."""
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{place}: is not readable; remove {place.parent}") from None
        ours = json.loads(json.dumps(self.plan()))
        for key, value in ours.items():
            if found.get(key) == value:
                continue
            old, new = found.get(key), value
            if key == "source":
                old, new = f"{len(old or ())} files", f"{len(value)} files, or changed ones"
            elif key == "rules" and isinstance(old, dict):
                rule = next(name for name in value if old.get(name) != value[name])
                key, old, new = f"rules.{rule}", old.get(rule), value[rule]
            raise UserError(
                f"to={self.settings.to}: {place.parent} was made with another {key} ({old}, now {new}); "
                f"remove it or choose another folder"
            )

    @contextmanager
    def folder(self) -> Iterator[None]:
        """The folder that is written to, for one process at a time."""
        self.partial.mkdir(parents=True, exist_ok=True)
        with (self.partial / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"to={self.settings.to}: another process is writing it ({self.partial})"
                ) from None
            plan = self.partial / "plan.json"
            begun = [place for place in (plan, self.partial / DONE) if place.is_file()]
            if begun:
                self.refuse_another(begun[0])
                print(f"going on with what is in {self.partial}")
            else:
                write_whole(plan, json.dumps(self.plan(), indent=1))
            yield

    # --- what is done -----------------------------------------------------------------------------------------------

    def filter(self) -> None:
        if not (self.partial / DONE).is_file():
            self._filter()
        for leftover in self.partial.rglob(".*"):
            if leftover.name == ".lock" or _UNFINISHED.fullmatch(leftover.name):
                leftover.unlink()
        shutil.rmtree(self.partial / "work", ignore_errors=True)
        (self.partial / "plan.json").unlink(missing_ok=True)
        self.partial.rename(self.to)
        summary = json.loads((self.to / "report.json").read_text(encoding="utf-8"))
        print(report.as_table(summary))
        print(
            f"{self.to}: {summary['kept']:,} rows in kept, report.md, report.json, report.png, {DONE}",
            end="",
        )
        print(", manifest.jsonl: give it as data.shards" if self.tables.shards else "")

    def _filter(self) -> None:
        began = time.time()
        work = self.partial / "work"
        work.mkdir(exist_ok=True)
        try:
            verdicts, version, rare = self._judge(work)
        except EngineFailed:
            for file in tqdm(self.tables.files, desc="looking for the file", delay=1, leave=False):
                for _ in batches(file, [column for column, _ in self.columns.values()]):
                    pass  # names the file that cannot be read
            raise
        counts = verdicts.counts()
        written = selection.write_kept(verdicts, self.partial / "kept")
        columns = list(dict.fromkeys(column for column, _ in self.columns.values()))
        summary = report.summarise(
            counts,
            self._rows(),
            passes={name: described(name, self.rules) for name in self.names},
            examples=verdicts.examples(self.names, self.settings.examples, columns),
            not_applied=self.not_applied,
        )
        if rare:
            summary["rules"]["rare_tokens"].update(rare)
        if sum(written.values()) != summary["kept"]:
            raise RuntimeError(f"{sum(written.values())} rows written, {summary['kept']} kept")
        report.write(summary, self.partial)
        if self.tables.shards:
            selection.write_selection(verdicts, self.partial)
        done = {
            **self.plan(),
            "engine": version,
            "seconds": round(time.time() - began, 1),
            "kept": written,
        }
        write_whole(self.partial / DONE, json.dumps(done, indent=1))

    def _judge(self, work: Path) -> tuple[selection.Verdicts, str, dict[str, int]]:
        """The verdicts; the engine's version; what became of the rare tokens."""
        temporary = (
            Path(self.settings.temporary).expanduser().absolute()
            if self.settings.temporary
            else work
        )
        options = _flat(self.settings.options)
        if "phash" not in self.columns and "near_duplicates" in self.names:
            hash_shards(self.tables.files, work / "hashes")
        with (
            engine(
                self.settings.engine,
                memory_gb=self.settings.memory_gb,
                threads=self.settings.threads,
                temporary=temporary
                / f"spill-{hashlib.sha256(str(self.to).encode()).hexdigest()[:8]}",  # found again after a kill
                options=options,
            ) as ready
        ):
            stages = Stages(work, ready)
            rows = ready.open(
                Source(
                    files=self.tables.files, columns=self.columns, only_success=self.tables.shards
                )
            )
            found = rows.count().to_pyarrow().as_py()
            if not self.tables.shards and found != sum(self.tables.rows):
                raise RuntimeError(f"{ready.name} read {found} of {sum(self.tables.rows)} rows")
            if not found:
                raise UserError(f"source={self.settings.source}: not one of its rows has a picture")
            write_whole(work / "rows.json", json.dumps(found))
            failing, rare = self._sets(rows, stages)
            stages("verdicts", lambda: statistics.verdicts(rows, self.rules, self.names, failing))
            return selection.Verdicts(work / "verdicts", self.tables), ready.version(), rare

    def _rows(self) -> int:
        return int(json.loads((self.partial / "work" / "rows.json").read_text()))

    def _sets(self, rows: Table, stages: Stages) -> tuple[dict[str, Table], dict[str, int]]:
        rules, failing, rare = self.rules, dict[str, Table](), dict[str, int]()
        if "texts_per_image" in self.names:
            most = rules.texts_per_image or 0
            failing["texts_per_image"] = stages(
                "texts_per_image", lambda: statistics.described_images(rows, most)
            )
        if "images_per_text" in self.names:
            few = rules.images_per_text or 0
            failing["images_per_text"] = stages(
                "images_per_text", lambda: statistics.shared_texts(rows, few)
            )
        if "rare_tokens" in self.names:
            counts = stages("token_counts", lambda: statistics.token_counts(rows))
            least, frequent = statistics.least_frequent(counts, rules.rare_tokens or 0)
            rare = {
                "least_count": least,
                "frequent_tokens": frequent,
                "tokens": counts.count().to_pyarrow().as_py(),
            }
            failing["rare_tokens"] = stages(
                "rare_tokens", lambda: statistics.rows_with_rare_tokens(rows, counts, least)
            )
        if "near_duplicates" in self.names:
            probes = Probes(self.evaluation, rules.near_duplicates.distance)
            blocks = [
                stages.given(f"probes_{block}", probes.table(block))
                for block in range(len(probes.blocks))
            ]
            from_hex = stages.engine.from_hex
            hashes = (
                rows.select("row", "phash") if "phash" in self.columns else stages.load("hashes")
            )
            failing["near_duplicates"] = stages(
                "near_duplicates", lambda: statistics.rows_near(hashes, probes, blocks, from_hex)
            )
        return failing, rare


class Stages:
    """The tables between source and verdicts, each a folder that is whole or not there."""

    def __init__(self, work: Path, engine: Engine) -> None:
        self.work, self.engine = work, engine

    def __call__(self, name: str, table: Callable[[], Table]) -> Table:
        place = self.work / name
        if not place.exists():
            aside = self.work / f"{name}.unfinished"
            shutil.rmtree(aside, ignore_errors=True)
            with _progress(self.engine, name):
                self.engine.save(table(), aside)
            aside.rename(place)
        return self.load(name)

    def given(self, name: str, rows: pa.Table) -> Table:
        """A table that is made here, for the engine."""
        place = self.work / name
        place.mkdir(exist_ok=True)
        parquet.write_table(rows, place / "part-0.parquet")
        return self.load(name)

    def load(self, name: str) -> Table:
        return self.engine.load(self.work / name)


@contextmanager
def _progress(engine: Engine, name: str) -> Iterator[None]:
    """A bar for a query, which the engine is asked about twice a second."""
    over = Event()
    with tqdm(
        total=100,
        desc=name.replace("_", " "),
        bar_format="{desc:>18} {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:

        def watch() -> None:
            while not over.wait(0.5):
                bar.n = max(bar.n, min(99, int(100 * engine.progress())))
                bar.refresh()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            bar.n = 100
        finally:
            over.set()
            watcher.join()


def write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text + "\n", encoding="utf-8")
    os.replace(aside, path)


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Hydra nests what has dots; engines' settings have dots in their names."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat
