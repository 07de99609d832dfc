"""`python -m align_train.report name=RUN`: recipe, curves, results and images in one HTML file.

`name=[A,B,C]` compares runs. The file opens offline, and holds no local paths or credentials.
"""

from __future__ import annotations

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.config.command_schema import ReportSettings


def run(settings: ReportSettings) -> None:
    """Writes a report."""
    leave("no report is written, and the same command begins anew")
    # Here: an error in the settings must not wait for the libraries that draw.
    from align_train.commands.report import report

    report(settings)


def main() -> None:
    """Runs the command."""
    command(run, config_name="report", schema=ReportSettings)


if __name__ == "__main__":
    main()
