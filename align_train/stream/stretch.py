"""The stretch of the run in progress: its order of pairs, and where it began.

A resumed run goes on with the stretch of its checkpoint. A new one begins if a change of the recipe
is accepted (`recipe.py`), or if shards vanish.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from align_train.shards.manifest import Manifest
from align_train.stream.order import Order
from align_train.stream.recipe import SAME_ORDER, Start, changes


class Stretch:
    """A part of a run under one recipe.

    Attributes:
        order: The order of its pairs.
        start: Where it began.
        dropped: Indices of shards that have vanished. They stand in the order in which they
            vanished, as the lineage has them.
    """

    def __init__(self, *, order: Order, manifest: Manifest, batch_size: int) -> None:
        """Begins at the start of the run.

        Args:
            order: The order of the run's pairs, without vanished shards.
            manifest: The shards.
            batch_size: Pairs of the global batch.
        """
        self.order = order
        self.manifest = manifest
        self.batch_size = batch_size
        self.start = Start()
        self.dropped: list[int] = []

    @property
    def recipe(self) -> dict[str, object]:
        """The settings that decide which pairs a step sees, and where the stretch began."""
        return {
            "manifest": self.manifest.identity,
            "pairs": self.manifest.pairs,
            "seed": self.order.seed,
            "batch_size": self.batch_size,
            "lanes": self.order.lanes,
            "window": self.order.window,
            "weights": list(self.order.weights),
            "dropped": self.dropped,
            "cursor": self.start.cursor,
            "pairs_seen": self.start.pairs_seen,
        }

    def after(self, finished_steps: int) -> Start:
        """Returns where the run is after a step of this stretch.

        Args:
            finished_steps: Steps of the whole run up to this one, including it.
        """
        return self.start.after(finished_steps, self.batch_size)

    def go_on(self, before: Mapping[str, Any], *, accept: Collection[str]) -> None:
        """Goes on where another stretch of the run ended.

        If a change of the order was accepted, the new order begins with a new epoch: a cursor
        means nothing in another order.

        Args:
            before: That stretch's recipe, with the step, cursor and pairs seen at its end.
            accept: Settings that may differ from that recipe's.

        Raises:
            UserError: The recipe differs, and the user has not accepted that.
        """
        changed = changes(before, self.recipe, accept=accept)
        # Indices of dropped shards mean other shards in another manifest.
        self.dropped = [] if "manifest" in changed else list(before["dropped"])
        self.order = self.order.replace(dropped=self.dropped)

        self.start = Start.from_line(before)
        if set(changed) - set(SAME_ORDER):
            self.start = replace(self.start, cursor=self.order.next_epoch(self.start.cursor))

    def drop(self, shards: Collection[int], *, finished_steps: int) -> list[str]:
        """Does without vanished shards from the next step on, where a new stretch begins.

        Args:
            shards: Their indices in the manifest.
            finished_steps: Steps that are done.

        Returns:
            Their names.
        """
        new = sorted(set(shards) - set(self.dropped))
        assert new, f"shards {sorted(shards)} are asked for although they were dropped"

        # The lineage gets a line for the new stretch, and the cursor goes on.
        self.dropped = [*self.dropped, *new]
        self.start = self.after(finished_steps)
        self.order = self.order.replace(dropped=self.dropped)
        return [self.manifest.shards[shard].name for shard in new]
