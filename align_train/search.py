"""`python -m align_train.search index=FOLDER text=…`: the nearest images of a collection.

Prints them as a table and draws a contact sheet.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import SearchSettings
from align_train.config.messages import report_once


def run(settings: SearchSettings) -> None:
    """Searches a collection."""
    leave("the search is not finished, and the same command begins anew")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.early import look_before_searching

    with report_once():
        look_before_searching(settings)

    from align_train.commands.search import search

    search(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="search", schema=SearchSettings)


if __name__ == "__main__":
    main()
