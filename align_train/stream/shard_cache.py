"""The shard cache, from the settings `data.staging` and `data.storage_options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from align_train.errors import UserError
from align_train.shards.cache import ShardCache


def shard_cache_of(
    staging: ShardCache | None,
    storage_options: Mapping[str, object] | None,
    revisions: Mapping[str, str] | None = None,
) -> ShardCache:
    """Returns the shard cache of `data.staging`, with the options that fsspec gets.

    Args:
        staging: None: the default shard cache.
        storage_options: None: no options.
        revisions: Commits that the run has used before; see `ShardCache`.

    Raises:
        UserError: A setting is of another type.
    """
    if not isinstance(storage_options, Mapping | None):
        raise UserError(
            f"data.storage_options={storage_options}: expected settings, e.g. {{anon:true}}, or "
            f"null"
        )
    if not isinstance(staging, ShardCache | None):
        raise UserError(
            f"data.staging={staging}: expected settings such as data.staging.limit_gb=100"
        )
    return replace(
        staging or ShardCache(),
        storage_options=dict(storage_options or {}),
        revisions=dict(revisions or {}),
    )
