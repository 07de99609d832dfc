"""`python -m align_train.show name=RUN step=N`: the pairs of a step, without a replay.

Prints them as a table and draws a contact sheet; `key=…` prints the steps at which a pair comes.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import ShowSettings


def run(settings: ShowSettings) -> None:
    """Shows steps of a run."""
    leave("nothing is saved, and the same command begins anew")
    # Here: an error in the settings must not wait for torch.
    from align_train.commands.show import show

    show(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="show", schema=ShowSettings)


if __name__ == "__main__":
    main()
