"""The tables between the source and the verdicts, each a folder that is whole or absent.

A filter that was killed finds the folders that were finished and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pyarrow as pa
from ibis.expr.types import Table
from pyarrow import parquet
from tqdm import tqdm

from align_train.files import whole

from ..tables.engine import Engine

_POLL = 0.5  # seconds between two questions to the engine how far it is


class SavedTables:
    """Tables that the engine computes once and reads from disk thereafter."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """Takes the folder that exists, and the engine that fills it."""
        self.folder = folder
        self.engine = engine

    def save(self, name: str, table: Callable[[], Table]) -> Table:
        """Computes a table, unless an earlier attempt has, and opens the result.

        Args:
            name: The folder's name, and the label of the progress bar.
            table: Builds the query; called only if the folder is missing.
        """
        path = self.folder / name
        if not path.exists():
            with whole(path) as aside, _progress(self.engine, name):
                self.engine.save(table(), aside)
        return self.load(name)

    def hand_over(self, name: str, rows: pa.Table) -> Table:
        """Writes a table that was made in memory, and opens it.

        It is quick to make, so that a kill may leave it half written: it is made anew.

        Args:
            name: The folder's name.
            rows: The table.
        """
        path = self.folder / name
        path.mkdir(exist_ok=True)
        parquet.write_table(rows, path / "part-0.parquet")
        return self.load(name)

    def load(self, name: str) -> Table:
        """Opens a folder of parquet files."""
        return self.engine.load(self.folder / name)


@contextmanager
def _progress(engine: Engine, name: str) -> Iterator[None]:
    """Shows a bar for a query, from a thread that asks the engine how far it is."""
    over = Event()
    label = name.replace("_", " ")
    layout = "{desc:>18} {percentage:3.0f}%|{bar}| {elapsed}"

    with tqdm(total=100, desc=label, bar_format=layout) as bar:

        def watch() -> None:
            while not over.wait(_POLL):
                # Engines count anew for each part of a query: the bar never goes back.
                bar.n = max(bar.n, min(99, int(100 * engine.progress())))
                bar.refresh()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            bar.n = 100
        finally:
            over.set()
            # Before the bar is closed, so that the thread does not draw on it later.
            watcher.join()
