"""The filter's first step: the sets that fail a rule on the whole table."""

from __future__ import annotations

from ibis.expr.types import Table

from . import statistics
from .hashes import Probes
from .plan import Plan
from .report import RuleFacts
from .saved import SavedTables

HASHES = "hashes"  # the folder of the hashes of shards without a column of them


def failing_sets(
    rows: Table, plan: Plan, saved: SavedTables
) -> tuple[dict[str, Table], RuleFacts | None]:
    """Saves the sets of the rules that look at the whole table.

    Args:
        rows: The source.
        plan: Says which rules are applied.
        saved: Holds the sets, and those of an earlier attempt.

    Returns:
        The failing texts, images or rows by rule; and the counts of tokens for the report, None if
        the rule on rare tokens is off.
    """
    # All rows count, those too that other rules drop: the raw data says which tokens are frequent.
    failing: dict[str, Table] = {}
    rare: RuleFacts | None = None

    most_texts = plan.rules.texts_per_image
    if most_texts is not None and "texts_per_image" in plan.names:
        failing["texts_per_image"] = saved.save(
            "texts_per_image", lambda: statistics.described_images(rows, most_texts)
        )

    most_images = plan.rules.images_per_text
    if most_images is not None and "images_per_text" in plan.names:
        failing["images_per_text"] = saved.save(
            "images_per_text", lambda: statistics.shared_texts(rows, most_images)
        )

    most_tokens = plan.rules.rare_tokens
    if most_tokens is not None and "rare_tokens" in plan.names:
        failing["rare_tokens"], rare = _rows_with_rare_tokens(rows, most_tokens, saved)

    if "near_duplicates" in plan.names:
        failing["near_duplicates"] = _near_duplicates(rows, plan, saved)
    return failing, rare


def _rows_with_rare_tokens(rows: Table, most: int, saved: SavedTables) -> tuple[Table, RuleFacts]:
    # A query over all tokens. It is saved by itself: three others read it.
    counts = saved.save("token_counts", lambda: statistics.token_counts(rows))

    least, frequent = statistics.least_frequent(counts, most)
    failing = saved.save(
        "rare_tokens", lambda: statistics.rows_with_rare_tokens(rows, counts, least)
    )

    tokens = counts.count().to_pyarrow().as_py()
    return failing, {"least_count": least, "frequent_tokens": frequent, "tokens": tokens}


def _near_duplicates(rows: Table, plan: Plan, saved: SavedTables) -> Table:
    probes = Probes(plan.evaluation, plan.rules.near_duplicates.distance)
    blocks = [
        saved.hand_over(f"probes_{index}", probes.table(index))
        for index in range(len(probes.blocks))
    ]

    # Without a column of hashes the job has hashed the images into this folder.
    from_table = "phash" in plan.columns
    hashes = rows.select("row", "phash") if from_table else saved.load(HASHES)

    from_hex = saved.engine.from_hex
    return saved.save(
        "near_duplicates", lambda: statistics.rows_near(hashes, probes, blocks, from_hex)
    )
