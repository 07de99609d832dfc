"""A data set on the Hugging Face hub: streamed by its library `datasets`, split after split.

Nothing but the columns that are wanted is read, and no code of the data set is run. A token comes
from the environment (`HF_TOKEN`) or from `hf auth login`, never from a setting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from align_train.errors import UserError, one_line, shown

from .saved_dataset import class_names, named_classes, with_split
from .saved_names import BEGINNING, NO_DATASETS

_ROWS = 64  # of a batch: their images are in memory
_PATIENCE = 10.0  # seconds until the hub says whether it has the data set
_LONGEST_REASON = 200  # characters


class HubDataset:
    """The splits of a data set; `Columnar` explains the attributes."""

    form = "streamed from the Hugging Face hub"

    def __init__(self, source: str, *, config: str | None, revision: str | None) -> None:
        """Asks the hub for the columns.

        Args:
            source: `hf:OWNER/NAME`.
            config: One of the data set's configurations; None: its only one.
            revision: A branch, tag or commit; None: the newest commit.

        Raises:
            UserError: There is no such data set, the hub cannot be reached or refuses, or a package
                is missing.
        """
        try:
            import datasets
        except ImportError:
            raise UserError(NO_DATASETS) from None

        self.name = source
        repository = source.removeprefix(BEGINNING)
        commit = _commit_of(repository, revision, source)
        datasets.disable_progress_bars()
        with _explained(source, config):
            # Without `trust_remote_code`, which newer versions no longer have.
            loaded = datasets.load_dataset(repository, config, revision=commit, streaming=True)
            self._splits = {split: _undecoded(rows, datasets) for split, rows in loaded.items()}
            first = next(iter(self._splits.values()))
            schema = first.features.arrow_schema

        self._classes = class_names(schema)
        table = named_classes(schema.remove_metadata().empty_table(), self._classes)
        self.schema = with_split(table, "").schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Streams some of the columns, a few rows at a time."""
        for split, rows in self._splits.items():
            own = [column for column in columns if column in rows.features]
            with _explained(self.name, None):
                # At least one column: a batch without columns has no rows.
                wanted = rows.select_columns(own or list(rows.features)[:1]).with_format("arrow")
                for batch in wanted.iter(batch_size=_ROWS):
                    table = named_classes(batch.replace_schema_metadata(None), self._classes)
                    named = with_split(table, split).select(list(columns))
                    yield from named.combine_chunks().to_batches()


def _commit_of(repository: str, revision: str | None, source: str) -> str:
    """The commit of a revision. A short question: the library tries for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(library_name="align_train")
    gated = UserError(
        f"source={shown(source)}: a gated data set; accept its terms on its page, and set HF_TOKEN"
    )
    try:
        about = api.dataset_info(repository, revision=revision, timeout=_PATIENCE)
        if about.gated:
            # The hub describes a gated data set to everybody: this asks whether we may read it.
            api.auth_check(repository, repo_type="dataset")
    except GatedRepoError:
        raise gated from None
    except RevisionNotFoundError:
        raise UserError(
            f"hub_revision={shown(revision)}: {shown(source)} has no such branch, tag or commit"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"source={shown(source)}: no such data set on the hub, or a private one; check the "
            f"name, or set HF_TOKEN"
        ) from None
    except Exception as error:  # of the library's own web client, of which there were several
        reason = one_line(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        raise UserError(
            f"source={shown(source)}: the hub cannot be reached ({reason}); check the network, or "
            f"give a folder that save_to_disk wrote"
        ) from None
    return str(about.sha or revision or "main")


@contextlib.contextmanager
def _explained(source: str, config: str | None) -> Iterator[None]:
    """Turns the library's errors into one line; it has many kinds of them."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        named = f", hub_config={shown(config)}" if config else ""
        reason = one_line(error, _LONGEST_REASON)
        hint = "give hub_config=…" if "config name" in reason.lower() else "check its page"
        raise UserError(
            f"source={shown(source)}{named}: cannot be read ({reason}); {hint}"
        ) from None


def _undecoded(rows: Any, datasets: Any) -> Any:
    """Keeps images as bytes, with their paths; `rows` gets features if its format has none."""
    if rows.features is None:
        # JSON and CSV have no types before their first rows.
        first = next(iter(rows.with_format("arrow").iter(batch_size=_ROWS)))
        rows = rows.cast(datasets.Features.from_arrow_schema(first.schema))

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
