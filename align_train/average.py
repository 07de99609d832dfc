"""`python -m align_train.average models=[A,B,…] to=FOLDER`: weights averaged, or mixed (WiSE-FT).

Writes a model as `align_train.export` does, and of several mixes a table and a picture.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import AverageSettings
from align_train.config.messages import report_once


def run(settings: AverageSettings) -> None:
    """Averages models."""
    leave("nothing is written, and the same command begins anew")
    # Here, and in this order: an error in the settings must not wait for torch.
    from align_train.commands.average_choice import look_before_averaging

    with report_once():
        look_before_averaging(settings)

    from align_train.commands.average import average

    average(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="average", schema=AverageSettings, groups=["eval"])


if __name__ == "__main__":
    main()
